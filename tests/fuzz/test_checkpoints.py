"""Damaged files of checkpoints and base models: a model, or one error."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from bases import save_hub_llava, save_sam
from conftest import build_checkpoint
from families import save_tiny_mllm, save_tiny_sam
from fuzz.limits import COUNT, survives
from fuzz.mutations import damaged_json, edit_bytes, edits
from hypothesis import given, settings
from hypothesis import strategies as st

from cores_core.config import BaseConfig, Config, LanguageConfig, LoraConfig, SamConfig, VisionConfig
from cores_core.model.checkpoint import (
    assemble,
    inspect_checkpoint,
    load_checkpoint,
    load_model_config,
    load_objective,
    load_optimizer,
    save_checkpoint,
)
from cores_core.model.lora import add_lora
from cores_core.model.weights.pretrained import read_base

SMALLEST = Config(
    language=LanguageConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=600
    ),
    vision=VisionConfig(image_size=16, patch_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1),
    sam=SamConfig(
        image_size=64,
        patch_size=16,
        embed_dim=8,
        depth=1,
        num_heads=1,
        window_size=4,
        global_attn_indexes=(),
        prompt_embed_dim=16,
    ),
)


def save_own(folder: Path) -> None:
    """A checkpoint with a LLaVA and SAM 1, an optimizer and tensors of an objective."""
    save_checkpoint(
        folder,
        build_checkpoint(SMALLEST),
        optimizer={"step": 1, "state": {"a": torch.ones(2)}},
        objective={"prototypes": torch.ones(2, 2)},
    )


def save_hub(folder: Path, base: Path, lora: LoraConfig) -> None:
    """A checkpoint with a multimodal LLM and a SAM of the hub; with adapters on them if `lora` has a rank."""
    config = Config(base=BaseConfig(str(base / "mllm"), str(base / "sam")), lora=lora)
    made = assemble(read_base(config, lambda: pytest.fail("it has a tokenizer")))
    if lora.rank:
        add_lora(made.model, lora, made.processor.new_ids)
    else:
        made = replace(made, config=replace(made.config, base=BaseConfig()))
    save_checkpoint(folder, made)


def split_shards(folder: Path) -> None:
    """Two shards and their index in place of one file."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
    places = {name: names[number % 2] for number, name in enumerate(weights)}
    for shard in names:
        save_file({n: t for n, t in weights.items() if places[n] == shard}, folder / shard, {"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def load_own(folder: Path) -> None:
    load_model_config(folder)
    inspect_checkpoint(folder)
    load_objective(folder)
    load_optimizer(folder)
    load_checkpoint(folder)


def load_any(folder: Path) -> None:
    inspect_checkpoint(folder)
    load_checkpoint(folder)


def load_llava(folder: Path) -> None:
    for shapes_only in (True, False):
        config = Config(base=BaseConfig(str(folder), str(folder / "sam.pth")))
        assemble(read_base(config, lambda: pytest.fail("it has a tokenizer"), shapes_only))


LOADERS: dict[str, Callable[[Path], None]] = {
    "own": load_own,
    "hub": load_any,
    "adapter": load_any,
    "llava": load_llava,
}
FILES = {
    "own": (
        "checkpoint.json",
        "config.yaml",
        "heads.safetensors",
        "objective.safetensors",
        "optimizer/state.pt",
        "mllm/config.json",
        "mllm/model.safetensors",
        "processor/tokenizer.json",
        "processor/tokenizer_config.json",
    ),
    "hub": (
        "checkpoint.json",
        "mllm/config.json",
        "mllm/model.safetensors",
        "segmenter/config.json",
        "processor/processor_config.json",
        "processor/chat_template.jinja",
    ),
    "adapter": ("checkpoint.json", "config.yaml", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"),
    "llava": ("config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors", "sam.pth"),
}
CASES = [(name, file) for name, files in FILES.items() for file in files]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Undamaged folders by name."""
    root = tmp_path_factory.mktemp("models")
    save_tiny_mllm(root / "base/mllm", "smolvlm")
    save_tiny_sam(root / "base/sam", "sam2")
    save_own(root / "own")
    save_hub(root / "hub", root / "base", LoraConfig())
    save_hub(root / "adapter", root / "base", LoraConfig(rank=2, alpha=4))
    save_hub_llava(root / "llava")
    split_shards(root / "llava")
    save_sam(root / "llava/sam.pth")
    yield root
    shutil.rmtree(root)


def damaged(path: Path) -> st.SearchStrategy[bytes]:
    """Files with damage: to their values where they have a known form, or to their bytes."""
    data = path.read_bytes()
    if path.suffix == ".json":
        return damaged_json(json.loads(data))
    if path.suffix == ".yaml":
        return damaged_json(yaml.safe_load(data))  # JSON is YAML
    if path.suffix == ".safetensors":
        size = int.from_bytes(data[:8], "little")
        return damaged_json(json.loads(data[8 : 8 + size]), lambda tree: _with_header(tree, data[8 + size :]))
    return edits.map(lambda found: edit_bytes(data, found))


def _with_header(tree: Any, tensors: bytes) -> bytes:
    header = json.dumps(tree).encode()
    return len(header).to_bytes(8, "little") + header + tensors


@pytest.mark.parametrize("name", FILES)
def test_undamaged_models_are_loaded(folders: Path, name: str) -> None:
    LOADERS[name](folders / name)


@pytest.mark.parametrize(("name", "file"), CASES)
@settings(max_examples=COUNT or 2)  # each takes about half a second
@given(data=st.data())
def test_a_damaged_model_is_loaded_or_refused(folders: Path, name: str, file: str, data: st.DataObject) -> None:
    path = folders / name / file
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(path)))
        survives(lambda: LOADERS[name](folders / name))
    finally:
        path.write_bytes(whole)
