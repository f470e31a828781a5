"""What many tests share: a model that fits a thimble, a rendered data set, and the folder of reference data."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cores_core.config import (
    ChainConfig,
    Config,
    LanguageConfig,
    SamConfig,
    TrainConfig,
    VisionConfig,
)
from cores_core.data.prepare import prepare_partworld
from cores_core.data.questions.bank import load_bank
from cores_core.errors import ConfigError
from cores_core.model.build import Parts, build_model, build_processor, build_tokenizer
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.placement import check_compiler
from cores_core.runtime import seed_everything

SHARED = Path(__file__).resolve().parents[2] / "shared"

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """Commands that run in this process count denormal numbers as zero, where hypothesis needs them."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """Far smaller than the tiny preset; every part of the model is there."""
    return Config(
        language=LanguageConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=800
        ),
        vision=VisionConfig(image_size=32, patch_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2),
        sam=SamConfig(
            image_size=64,
            patch_size=8,
            embed_dim=32,
            depth=2,
            num_heads=2,
            window_size=4,
            global_attn_indexes=(1,),
            prompt_embed_dim=16,
        ),
        chain=ChainConfig(stages=2, refiner=True),
        train=TrainConfig(
            steps=4,
            global_batch_size=2,
            queries_per_image=2,
            learning_rate=1e-3,
            warmup_steps=1,
            log_every=1,
            save_every=2,
            validate_every=2,
            validation_images=2,
            workers=0,
        ),
    )


@pytest.fixture(scope="session")
def checkpoint(tiny_config: Config) -> Checkpoint:
    """A seeded model with random weights, in eval mode. Shared by all tests: copy it before changing it."""
    return build_checkpoint(tiny_config)


def build_checkpoint(config: Config) -> Checkpoint:
    """A seeded model for any config, with a tokenizer that knows the question bank."""
    texts = [
        text
        for category in load_bank().values()
        for wordings in (category.whole, *category.parts.values())
        for text in wordings.questions["train"]
    ]
    parts = Parts(config, build_tokenizer(texts, config.language.vocab_size), {})
    processor = build_processor(parts)
    seed_everything(0)
    return Checkpoint(build_model(parts, processor).eval(), processor, config, about={})


@pytest.fixture(scope="session")
def partworld_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a rendered and prepared PartWorld of a dozen images. Read it only."""
    root = tmp_path_factory.mktemp("data")
    prepare_partworld(root, {"train": 6, "val": 3, "test": 3}, seed=1, workers=1, progress=lambda *_: None)
    return root


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the repository: golden outputs of the release, real samples."""
    if not SHARED.is_dir():
        pytest.skip(f"the reference data is not beside the repository: {SHARED}")
    return SHARED


@pytest.fixture
def compiler() -> None:
    """Skips where torch.compile cannot work."""
    try:
        check_compiler()
    except ConfigError as error:
        pytest.skip(error.message)
