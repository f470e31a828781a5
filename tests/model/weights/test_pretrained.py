"""Pretrained weights to begin with: a LLaVA in either format and a SAM, strictly, with new heads between them."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bases import ROWS, SAM, save_hub_llava, save_sam
from helpers import noise_image
from safetensors.torch import load_file, save_file
from segment_anything import sam_model_registry
from transformers import LlavaForConditionalGeneration

from cores_core import prompts
from cores_core.config import BaseConfig, ChainConfig, Config
from cores_core.errors import CheckpointError
from cores_core.model.build import Parts
from cores_core.model.checkpoint import Checkpoint, assemble, load_checkpoint, save_checkpoint
from cores_core.model.families.llava import read_llava
from cores_core.model.sams.sam1 import sam_sizes
from cores_core.model.weights.pretrained import find_sam, read_base, read_sam
from cores_core.prompts import render_turn
from cores_core.runtime import seed_everything
from cores_core.sample import Query, Sample

EMBEDDING = "mllm.net.model.language_model.embed_tokens.weight"


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    return save_hub_llava(tmp_path / "llava")


@pytest.fixture
def config(llava: Path, tmp_path: Path) -> Config:
    """A dual chain on a LLaVA of the hub and a SAM."""
    return Config(base=BaseConfig(mllm=str(llava), sam=str(save_sam(tmp_path / "sam.pth"))))


def read(config: Config) -> Parts:
    def refuse() -> None:
        raise AssertionError("a pretrained MLLM has a tokenizer")

    seed_everything(0)
    return read_base(config, refuse)


def test_sizes_come_from_the_weights(config: Config) -> None:
    found = read(config).config
    assert (found.language.hidden_size, found.language.num_hidden_layers, found.language.max_position_embeddings) == (
        32,
        2,
        4096,
    )
    assert found.language.vocab_size == ROWS  # its spare rows have room for the new tokens
    assert (found.vision.image_size, found.vision.feature_layer, found.vision.projector_layers) == (28, -2, 2)
    assert found.sam == SAM


def test_shapes_alone_tell_the_same(config: Config) -> None:
    parts, shapes = read(config), read_base(config, lambda: None, shapes_only=True)
    assert shapes.config == parts.config
    assert {n: t.shape for n, t in shapes.weights.items()} == {n: t.shape for n, t in parts.weights.items()}
    assert all(tensor.is_meta for tensor in shapes.weights.values())


def test_the_mllm_gives_the_states_of_plain_transformers(config: Config, llava: Path) -> None:
    checkpoint = assemble(read(config))
    processor = checkpoint.processor
    turn = render_turn(Query("Which part steers the fish?"), processor.prompt)
    batch = processor.collate([Sample(noise_image(40, 60), (turn,))])
    theirs = LlavaForConditionalGeneration.from_pretrained(llava).eval()
    rows = checkpoint.model.state_dict()[EMBEDDING]
    theirs.get_input_embeddings().weight.data = rows  # the new tokens' rows are ours
    with torch.no_grad():
        expected = theirs.model(input_ids=batch.input_ids, **batch.vision).last_hidden_state
        assert torch.allclose(checkpoint.model.mllm(batch), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("written", "older"),
    [
        (r"^vision_tower\.", "vision_tower.vision_model."),  # the files of the hub
        (r"^language_model\.model\.", "model.language_model."),  # the classes in memory
    ],
)
def test_all_layouts_of_the_hub_are_read(config: Config, llava: Path, written: str, older: str) -> None:
    expected = read_llava(llava).weights
    weights = {re.sub(written, older, name): t for name, t in load_file(llava / "model.safetensors").items()}
    save_file(weights, llava / "model.safetensors")
    assert read_llava(llava).weights.keys() == expected.keys()


def test_only_the_rows_of_new_tokens_change(config: Config, llava: Path) -> None:
    parts, before = read(config), load_file(llava / "model.safetensors")
    old = next(tensor for name, tensor in before.items() if name.endswith("embed_tokens.weight"))
    changed = (parts.weights[EMBEDDING] != old).any(dim=1).nonzero()[:, 0].tolist()
    tokens = (prompts.LOC, prompts.SEG, prompts.IMAGE_START, prompts.IMAGE_END)
    assert changed == sorted(parts.tokenizer.convert_tokens_to_ids(token) for token in tokens)


def test_the_same_seed_draws_the_same_new_weights(config: Config) -> None:
    first, second = read(config).weights, read(config).weights
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_model_from_the_hub_is_saved_and_loaded(config: Config, tmp_path: Path) -> None:
    checkpoint = assemble(read(config))
    save_checkpoint(tmp_path / "ours", checkpoint)
    again = load_checkpoint(tmp_path / "ours")
    assert again.processor.chain_ids == checkpoint.processor.chain_ids
    expected = checkpoint.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())


def test_the_original_format_of_llava_is_a_base_too(shared: Path, tmp_path: Path) -> None:
    """The golden release without what makes it one: no SAM, no projection, no refiner, no token to segment with."""
    folder = Path(shutil.copytree(shared / "golden/cores_mask/model", tmp_path / "llava"))
    weights = load_file(folder / "model.safetensors")
    kept = {
        n: t for n, t in weights.items() if n.startswith(("model.layers", "model.norm", "model.mm", "model.vision"))
    }
    kept |= {name: weights[name][:1000].clone() for name in ("model.embed_tokens.weight", "lm_head.weight")}
    save_file(kept, folder / "model.safetensors")
    (folder / "added_tokens.json").unlink()
    config = Config(base=BaseConfig(str(folder), str(save_sam(tmp_path / "sam.pth"))), wording="released")
    parts = read(config)
    assert parts.config.language.vocab_size == 1005  # four new tokens, and the image
    assert parts.config.vision.projector_layers == 1
    assert torch.equal(parts.weights[EMBEDDING][:1000], kept["model.embed_tokens.weight"])
    checkpoint = assemble(parts)
    assert checkpoint.processor.chain_ids == (1000, 1001)


@pytest.mark.parametrize("steps", [1, 2])
def test_what_no_base_brings_is_new(config: Config, checkpoint: Checkpoint, steps: int) -> None:
    alone = Config(base=BaseConfig(sam=config.base.sam), chain=ChainConfig(stages=steps))
    parts = read_base(alone, lambda: checkpoint.processor.tokenizer)
    model = assemble(parts).model
    assert model.mllm.width == alone.language.hidden_size
    assert (model.refiner is None) == (steps == 1)


def test_a_released_sam_loads_by_its_own_names(tmp_path: Path) -> None:
    theirs = sam_model_registry["vit_b"]()
    torch.save(theirs.state_dict(), tmp_path / "sam_vit_b.pth")
    _, weights = read_sam(tmp_path / "sam_vit_b.pth")
    sizes = sam_sizes(weights)
    assert (sizes.image_size, sizes.embed_dim, sizes.depth, sizes.num_heads, sizes.prompt_embed_dim) == (
        1024,
        768,
        12,
        12,
        256,
    )
    assert (sizes.window_size, sizes.global_attn_indexes) == (14, (2, 5, 8, 11))
    expected = {f"segmenter.{n}": t for n, t in theirs.state_dict().items() if not n.startswith("pixel_")}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_sams_are_found_in_torchs_cache_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    kept = save_sam(tmp_path / "checkpoints/sam_vit_b_01ec64.pth")
    assert find_sam("vit_b") == kept


def test_a_sam_that_is_nowhere_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no\.pth") as caught:
        find_sam(str(tmp_path / "no.pth"))
    assert "vit_h" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_decoder.iou_token.weight": None}, "missing segmenter.mask_decoder.iou_token.weight"),
        ({"stranger": torch.zeros(2)}, "unknown segmenter.stranger"),
        ({"image_encoder.neck.2.weight": torch.zeros(2)}, "shape of segmenter.image_encoder.neck.2.weight"),
        ({"image_encoder.pos_embed": None}, "missing tensor: segmenter.image_encoder.pos_embed"),
    ],
)
def test_a_sam_that_does_not_fit_is_named(
    config: Config, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    save_sam(tmp_path / "sam.pth", changes)
    with pytest.raises(CheckpointError, match=message):
        assemble(read(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree["text_config"].update(model_type="mistral"), "the language model is `mistral`"),
        (lambda tree: tree["vision_config"].update(model_type="siglip_vision_model"), "the vision tower is `siglip"),
        (lambda tree: tree.update(projector_hidden_act="relu"), "the projector's activation is `relu`"),
        (lambda tree: tree.update(vision_feature_select_strategy="full"), "selection of the tower is `full`"),
    ],
)
def test_a_llava_of_another_kind_is_refused(llava: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    tree = json.loads((llava / "config.json").read_text())
    change(tree)
    (llava / "config.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match=message):
        read_llava(llava)


def test_a_missing_tensor_of_a_llava_is_named(config: Config, llava: Path) -> None:
    weights = load_file(llava / "model.safetensors")
    name = next(name for name in weights if "layers.1.mlp.up_proj" in name)
    del weights[name]
    save_file(weights, llava / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing mllm\.net\.model\.language_model\.layers\.1\.mlp\.up_proj"):
        assemble(read(config))


def test_a_folder_that_is_no_llava_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"base\.mllm"):
            read(Config(base=BaseConfig(mllm=str(place))))


def test_the_whole_model_segments(config: Config) -> None:
    checkpoint = assemble(read(config))
    turn = render_turn(Query("Which part steers the fish?"), checkpoint.processor.prompt)
    batch = checkpoint.processor.collate([Sample(noise_image(30, 50), (turn, turn))])
    with torch.no_grad():
        output = checkpoint.model(batch)
    assert output.refined.shape == (2, 1, 32, 32)
    assert np.isfinite(output.refined.numpy()).all()
