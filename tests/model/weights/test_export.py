"""What was read in the releases' format is written back, tensor by tensor."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import noise_image
from releases import save_lisa
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPImageProcessor

from cores_core.config import ChainConfig, Config
from cores_core.errors import CheckpointError
from cores_core.model.build import Parts, build_model, build_processor
from cores_core.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from cores_core.model.inference import segment_image
from cores_core.model.tokenizer import SentencePieceTokenizer
from cores_core.model.weights.export import export_released
from cores_core.model.weights.names import is_derived, our_name, released_name
from cores_core.model.weights.vocabulary import add_tokens
from cores_core.sample import Query


def test_a_release_survives_the_way_into_our_format_and_back(shared: Path, tmp_path: Path) -> None:
    release = shared / "golden/cores_mask/model"
    save_checkpoint(tmp_path / "ours", load_checkpoint(release))
    export_released(load_checkpoint(tmp_path / "ours"), tmp_path / "theirs")
    for file in ("model.safetensors", "clip/model.safetensors"):
        before, after = (load_file(folder / file) for folder in (release, tmp_path / "theirs"))
        expected = {name: tensor for name, tensor in before.items() if not is_derived(name)}
        assert after.keys() == expected.keys()
        assert all(torch.equal(after[name], expected[name]) for name in expected)
    for name in ("tokenizer.model", "added_tokens.json"):
        assert (tmp_path / "theirs" / name).read_text("latin-1").split() == (release / name).read_text(
            "latin-1"
        ).split()


def test_what_is_exported_loads_as_the_same_model(shared: Path, tmp_path: Path) -> None:
    release = load_checkpoint(shared / "golden/cores_mask/model")
    export_released(release, tmp_path / "theirs")
    again = load_checkpoint(tmp_path / "theirs")
    assert again.config == release.config
    weights = release.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.model.state_dict().items())


def test_a_lisa_that_learnt_a_second_stage_loads_as_the_same_model(tmp_path: Path, tiny_config: Config) -> None:
    save_lisa(tmp_path / "lisa", tmp_path / "clip", str(tmp_path / "clip"), tiny_config)
    lisa = load_checkpoint(tmp_path / "lisa")
    two = replace(lisa.config, chain=ChainConfig(stages=2, refiner=False), context="fixed")
    tokenizer, weights = lisa.processor.tokenizer, dict(lisa.model.state_dict())
    rows = add_tokens(tokenizer, weights, two.prompt.chain)  # its row is behind that of the image token
    two = replace(two, language=replace(two.language, vocab_size=rows))
    parts = Parts(two, tokenizer, weights)
    processor = build_processor(parts)
    before = Checkpoint(build_model(parts, processor).eval(), processor, two, about={})

    export_released(before, tmp_path / "theirs")
    after = load_checkpoint(tmp_path / "theirs")
    ids = after.processor.tokenizer.get_added_vocab()
    assert sorted(ids.values()) == sorted(tokenizer.get_added_vocab().values())
    assert max(ids, key=ids.__getitem__) == "<image>"
    assert after.config == before.config
    answers = [
        segment_image(model, noise_image(20, 30), [Query("the fin")], "teacher_forced") for model in (before, after)
    ]
    assert np.array_equal(answers[0][0].refined, answers[1][0].refined)


def test_transformers_reads_the_tokenizer_and_the_image_processor(tmp_path: Path, tiny_config: Config) -> None:
    save_lisa(tmp_path / "lisa", tmp_path / "clip", str(tmp_path / "clip"), tiny_config)
    ours, theirs = SentencePieceTokenizer(tmp_path / "lisa"), AutoTokenizer.from_pretrained(tmp_path / "lisa")
    assert theirs.convert_tokens_to_ids("[SEG]") == ours.convert_tokens_to_ids("[SEG]")
    assert theirs.pad_token == theirs.unk_token == "<unk>"
    side = CLIPImageProcessor.from_pretrained(tmp_path / "clip").crop_size["height"]
    assert side == tiny_config.vision.image_size


def test_files_are_marked_as_those_of_torch(tmp_path: Path, tiny_config: Config) -> None:
    save_lisa(tmp_path / "lisa", tmp_path / "clip", str(tmp_path / "clip"), tiny_config)
    for folder in ("lisa", "clip"):
        with safe_open(tmp_path / folder / "model.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt"}


def test_half_precision_halves_the_file(shared: Path, tmp_path: Path) -> None:
    release = load_checkpoint(shared / "golden/cores_mask/model")
    for name, dtype in (("whole", torch.float32), ("half", torch.float16)):
        export_released(release, tmp_path / name, dtype)
    whole, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half"))
    assert half == pytest.approx(whole / 2, rel=0.02)


def test_a_model_with_another_kind_of_tokenizer_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer"):
        export_released(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("theirs", "ours", "layers"),
    [
        ("model.layers.3.mlp.up_proj.weight", "mllm.net.model.language_model.layers.3.mlp.up_proj.weight", 1),
        ("model.mm_projector.weight", "mllm.net.model.multi_modal_projector.linear_1.weight", 1),
        ("model.mm_projector.0.weight", "mllm.net.model.multi_modal_projector.linear_1.weight", 2),
        ("model.mm_projector.2.bias", "mllm.net.model.multi_modal_projector.linear_2.bias", 2),
        ("model.visual_model.mask_decoder.iou_token.weight", "segmenter.mask_decoder.iou_token.weight", 1),
        ("model.text_hidden_fcs.0.2.weight", "projection.2.weight", 1),
        ("transformer_cross_attention_layers.norm.bias", "refiner.norm.bias", 1),
        ("model.something.else", "model.something.else", 1),
    ],
)
def test_names_go_both_ways(theirs: str, ours: str, layers: int) -> None:
    assert our_name(theirs) == ours
    assert released_name(ours, layers) == theirs
