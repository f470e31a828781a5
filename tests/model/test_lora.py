"""Adapters: what trains, what is kept, and that they mean to peft, to a merged model and to us the same."""

from pathlib import Path

import pytest
import torch
from bases import save_hub_llava, save_sam
from helpers import noise_image
from peft import PeftModel
from transformers import LlavaForConditionalGeneration

from cores_core.config import BaseConfig, Config, LoraConfig
from cores_core.errors import CheckpointError, ConfigError
from cores_core.model.checkpoint import (
    Checkpoint,
    LoadOptions,
    assemble,
    describe_start,
    inspect_checkpoint,
    load_checkpoint,
    load_model_config,
    save_checkpoint,
)
from cores_core.model.lora import add_lora, choose_trainable, is_adapter
from cores_core.model.processor import Batch
from cores_core.model.weights.pretrained import read_base
from cores_core.prompts import render_turn
from cores_core.runtime import seed_everything
from cores_core.sample import Query, Sample

LORA = LoraConfig(rank=4, alpha=8, dropout=0.1)


@pytest.fixture
def trained(tmp_path: Path) -> Checkpoint:
    """A model with adapters that do something, on a LLaVA of the hub and a SAM."""
    base = BaseConfig(str(save_hub_llava(tmp_path / "llava")), str(save_sam(tmp_path / "sam.pth")))
    seed_everything(0)
    built = assemble(read_base(Config(base=base, lora=LORA), lambda: None))
    add_lora(built.model, LORA, built.processor.new_ids)
    choose_trainable(built.model, LORA)
    for name, parameter in built.model.named_parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
        if ".lora_B." in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return Checkpoint(built.model.eval(), built.processor, built.config, {"base": describe_start(built.config)})


def make_batch(checkpoint: Checkpoint) -> Batch:
    turn = render_turn(Query("Which part steers the fish?"), checkpoint.processor.prompt)
    return checkpoint.processor.collate([Sample(noise_image(40, 60), (turn,))])


@torch.no_grad()
def refined(checkpoint: Checkpoint) -> torch.Tensor:
    return checkpoint.model(make_batch(checkpoint)).refined


def test_what_trains_is_what_the_paper_trains(trained: Checkpoint) -> None:
    learning = {name for name, parameter in trained.model.named_parameters() if parameter.requires_grad}
    adapters = {name for name in learning if is_adapter(name)}
    assert {name.split("self_attn.")[1].split(".")[0] for name in adapters} == {"q_proj", "v_proj"}
    assert len(adapters) == 2 * 2 * 2  # layers, projections, A and B; the vision tower has none
    parts = {name.split(".")[0] for name in learning - adapters}
    assert parts == {"mllm", "projection", "refiner", "segmenter"}
    assert {n for n in learning - adapters if n.startswith("mllm.")} == {
        "mllm.net.model.language_model.embed_tokens.weight",
        "mllm.net.lm_head.weight",
    }
    assert all("mask_decoder" in name for name in learning if name.startswith("segmenter."))


def test_frozen_encoders_may_be_halved_and_the_mask_head_may_not(trained: Checkpoint) -> None:
    choose_trainable(trained.model, LORA, torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in trained.model.named_parameters()}
    assert dtypes["segmenter.image_encoder.pos_embed"] == torch.bfloat16
    assert dtypes["segmenter.prompt_encoder.no_mask_embed.weight"] == torch.float32
    assert all(dtypes[name] == torch.float32 for name, p in trained.model.named_parameters() if p.requires_grad)


def test_without_adapters_all_trains(checkpoint: Checkpoint) -> None:
    choose_trainable(checkpoint.model, LoraConfig())
    assert all(parameter.requires_grad for parameter in checkpoint.model.parameters())


def test_the_folder_keeps_what_was_trained_and_no_more(trained: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "lora", trained)
    names = {str(path.relative_to(tmp_path / "lora")) for path in (tmp_path / "lora").rglob("*") if path.is_file()}
    assert {"adapter/adapter_model.safetensors", "adapter/adapter_config.json", "heads.safetensors"} < names
    assert not any(name.startswith("mllm") for name in names)


def test_it_loads_merged_or_apart_and_segments_the_same(trained: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "lora", trained)
    merged, apart = (load_checkpoint(tmp_path / "lora", LoadOptions(merge=merge)) for merge in (True, False))
    assert not any(is_adapter(name) for name in merged.model.state_dict())
    assert merged.config.lora.rank == 0
    assert apart.config == trained.config
    assert all(torch.equal(t, trained.model.state_dict()[n]) for n, t in apart.model.state_dict().items())
    assert torch.equal(refined(apart), refined(trained))
    assert torch.allclose(refined(merged), refined(trained), atol=1e-3)


def test_peft_itself_loads_the_adapter(trained: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "lora", trained)
    llava = LlavaForConditionalGeneration.from_pretrained(trained.config.base.mllm)
    theirs = PeftModel.from_pretrained(llava, str(tmp_path / "lora/adapter")).eval()
    batch = make_batch(trained)
    with torch.no_grad():
        states = theirs.model.model(input_ids=batch.input_ids, **batch.vision).last_hidden_state
        assert torch.allclose(states, trained.model.mllm(batch), atol=1e-5)


def test_a_merged_model_stands_by_itself(trained: Checkpoint, tmp_path: Path) -> None:
    """Its base may be gone; and plain transformers loads its MLLM."""
    save_checkpoint(tmp_path / "lora", trained)
    save_checkpoint(tmp_path / "merged", load_checkpoint(tmp_path / "lora"))
    expected = refined(trained)
    (tmp_path / "sam.pth").unlink()
    again = load_checkpoint(tmp_path / "merged")
    assert torch.allclose(refined(again), expected, atol=1e-3)
    theirs, report = LlavaForConditionalGeneration.from_pretrained(tmp_path / "merged/mllm", output_loading_info=True)
    assert not any(report.values())
    batch = make_batch(again)
    with torch.no_grad():
        states = theirs.eval().model(input_ids=batch.input_ids, **batch.vision).last_hidden_state
        assert torch.allclose(states, again.model.mllm(batch), atol=1e-5)


def test_a_base_that_is_gone_or_has_changed_is_one_error(trained: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "lora", trained)
    save_sam(tmp_path / "sam.pth", {"stranger": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="trained on other weights"):
        load_checkpoint(tmp_path / "lora")
    (tmp_path / "sam.pth").unlink()
    with pytest.raises(CheckpointError, match=r"base\.sam does not exist"):
        load_checkpoint(tmp_path / "lora")


def test_a_base_may_move(trained: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "lora", trained)
    (tmp_path / "sam.pth").rename(tmp_path / "moved.pth")
    config = tmp_path / "lora/config.yaml"
    config.write_text(config.read_text().replace("sam.pth", "moved.pth"))
    assert torch.allclose(refined(load_checkpoint(tmp_path / "lora")), refined(trained), atol=1e-3)


def test_a_damaged_adapter_is_one_error(trained: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "lora", trained)
    path = tmp_path / "lora/adapter/adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="adapter_model"):
        load_checkpoint(tmp_path / "lora")


def test_its_sizes_are_told_without_loading(trained: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "lora", trained)
    seen = inspect_checkpoint(tmp_path / "lora")
    assert all(tensor.is_meta for tensor in seen.model.state_dict().values())
    merged = load_checkpoint(tmp_path / "lora")
    assert {n: t.shape for n, t in seen.model.state_dict().items()} == {
        n: t.shape for n, t in merged.model.state_dict().items()
    }
    assert load_model_config(tmp_path / "lora") == trained.config


def test_adapters_need_a_model_to_stand_on() -> None:
    with pytest.raises(ConfigError, match="lora"):
        Config(lora=LORA)
