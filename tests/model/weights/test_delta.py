"""Bases that are published as differences from LLaMA: the sum is the target, bit by bit, whatever files hold it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cores_core.errors import CheckpointError
from cores_core.model.weights.delta import DELTAS, apply_delta, delta_command
from cores_core.model.weights.stand_in import LLAVA_SIZES
from cores_core.model.weights.tensors import read_tensors
from cores_core.settings import list_presets, load_config

Tensors = dict[str, Tensor]


def draw(*shape: int) -> Tensor:
    """Multiples of 1/64, whose sums and differences float16 holds exactly."""
    return (torch.randint(-128, 128, shape) / 64).half()


@pytest.fixture
def target() -> Tensors:
    torch.manual_seed(0)
    return {
        "model.embed_tokens.weight": draw(12, 8),
        "model.layers.0.self_attn.q_proj.weight": draw(8, 8),
        "model.mm_projector.weight": draw(8, 6),
        "model.mm_projector.bias": draw(8),
        "lm_head.weight": draw(12, 8),
    }


@pytest.fixture
def base(target: Tensors, tmp_path: Path) -> Path:
    """A LLaMA of ten tokens in one pickle, with a buffer that newer releases do not store."""
    known = {name: draw(10 if len(t) == 12 else len(t), 8) for name, t in target.items() if "projector" not in name}
    (tmp_path / "base").mkdir()
    torch.save(
        known | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}, tmp_path / "base/pytorch_model.bin"
    )
    return tmp_path / "base"


@pytest.fixture
def delta(target: Tensors, base: Path, tmp_path: Path) -> Path:
    """The difference in two shards, with the files of its tokenizer."""
    known = dict(read_tensors(base))
    difference = {name: tensor.clone() for name, tensor in target.items()}
    for name in set(known) & set(difference):
        difference[name][: len(known[name])] -= known[name]
    folder = tmp_path / "delta"
    folder.mkdir()
    names = list(difference)
    places = {name: f"model-{number}.safetensors" for number, part in ((1, names[:2]), (2, names[2:])) for name in part}
    for shard in set(places.values()):
        save_file({name: difference[name] for name in names if places[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text('{"mm_vision_tower": "clip"}')
    (folder / "tokenizer.model").write_bytes(b"pieces")
    return folder


def test_the_sum_is_the_target(target: Tensors, base: Path, delta: Path, tmp_path: Path) -> None:
    apply_delta(str(delta), str(base), tmp_path / "models/target")
    found = dict(read_tensors(tmp_path / "models/target"))
    assert set(found) == set(target)
    assert all(found[name].dtype == torch.float16 and torch.equal(found[name], target[name]) for name in target)
    assert (tmp_path / "models/target/config.json").read_text() == '{"mm_vision_tower": "clip"}'
    assert (tmp_path / "models/target/tokenizer.model").read_bytes() == b"pieces"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.embed_tokens.weight": draw(10, 9)}, "model.embed_tokens.weight is (12, 8) in the delta, (10, 9)"),
        ({"model.embed_tokens.weight": draw(14, 8)}, "(14, 8)"),
        ({"model.layers.0.self_attn.q_proj.weight": None}, "not in the base model: model.layers.0"),
        ({"model.layers.1.self_attn.q_proj.weight": draw(8, 8)}, "not in the delta: model.layers.1"),
    ],
    ids=["other width", "more rows", "a layer less", "a layer more"],
)
def test_models_that_do_not_belong_together_are_refused(
    base: Path, delta: Path, tmp_path: Path, change: dict[str, Tensor | None], words: str
) -> None:
    path = base / "pytorch_model.bin"
    weights = {**torch.load(path, weights_only=True), **change}
    torch.save({name: tensor for name, tensor in weights.items() if tensor is not None}, path)
    with pytest.raises(CheckpointError) as caught:
        apply_delta(str(delta), str(base), tmp_path / "target")
    assert words in caught.value.message
    assert not (tmp_path / "target").exists()


def test_a_folder_that_is_not_there_is_named(delta: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=str(tmp_path / "nothing")):
        apply_delta(str(delta), str(tmp_path / "nothing"), tmp_path / "target")


def test_every_base_of_a_preset_can_be_got() -> None:
    """By hub id, or by a command that makes it; a delta's target has published sizes for `--plan`."""
    names = {load_config(preset).base.mllm for preset in list_presets()} - {None}
    assert all("/" in name or delta_command(name) for name in names)
    assert set(DELTAS) <= set(LLAVA_SIZES)
