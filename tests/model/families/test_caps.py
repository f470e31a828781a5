"""`vision.max_tokens`: photos of any size stay within it where a family can, and more tokens come where more may."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES as TYPES
from families import save_tiny_mllm, tiny_mllm

from cores_core.config import Config, VisionConfig
from cores_core.model.build import Parts, build_mllm, build_processor
from cores_core.model.families.chat import ChatPrompts
from cores_core.model.families.hub import HubMllm, read_hub_mllm
from cores_core.model.families.published import published_config, stand_in_processor
from cores_core.model.families.table import FAMILIES
from cores_core.model.processor import Processor
from cores_core.prompts import PromptFormat
from cores_core.sample import Sample, Turn

PROMPT = PromptFormat(stages=2, context="fixed", conversation="template")
PHOTOS = {"640x480": (480, 640), "1920x1080": (1080, 1920), "4032x3024": (3024, 4032), "50x50": (50, 50)}
UNCAPPED = 10**6
MODELS = {
    "qwen2_vl": "Qwen/Qwen2-VL-7B-Instruct",
    "qwen2_5_vl": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen3_vl": "Qwen/Qwen3-VL-4B-Instruct",
    "qwen3_5": "Qwen/Qwen3.5-4B",
    "internvl": "OpenGVLab/InternVL3_5-4B-HF",
    "smolvlm": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
    "idefics3": "HuggingFaceM4/Idefics3-8B-Llama3",
    "llava_onevision": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "gemma3": "google/gemma-3-4b-it",
}
FEWEST = {"internvl": 256, "smolvlm": 64, "idefics3": 169, "llava_onevision": 1485, "gemma3": 256}
"""What a family needs for any photo; Qwen can go as low as one likes."""


def tokens_of_photos(model_type: str, cap: int) -> dict[str, int]:
    config = published_config(MODELS[model_type])
    prompts = ChatPrompts(stand_in_processor(config), FAMILIES[model_type], PROMPT, 10**6, cap)
    return {name: count(prompts, config.image_token_id, hw) for name, hw in PHOTOS.items()}


def count(prompts: ChatPrompts, image_token: int, hw: tuple[int, int]) -> int:
    return prompts.prefix(Sample(np.zeros((*hw, 3), dtype=np.uint8), ())).ids.count(image_token)


def test_every_family_is_here() -> None:
    assert set(MODELS) == set(FAMILIES)


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("cap", [16, 576, 1500])
def test_no_photo_has_more_tokens_than_the_cap_where_it_can_be_met(model_type: str, cap: int) -> None:
    found = tokens_of_photos(model_type, cap)
    assert max(found.values()) <= max(cap, FEWEST.get(model_type, 0)), found
    assert min(found.values()) > 0


@pytest.mark.parametrize("model_type", MODELS)
def test_a_higher_cap_gives_as_many_tokens_or_more(model_type: str) -> None:
    found = [tokens_of_photos(model_type, cap)["4032x3024"] for cap in (64, 576, 2000, UNCAPPED)]
    assert found == sorted(found)
    assert (found[0] < found[-1]) == (model_type != "gemma3")


@pytest.mark.parametrize("model_type", MODELS)
def test_a_cap_that_no_photo_reaches_changes_nothing(model_type: str) -> None:
    config = published_config(MODELS[model_type])
    free = ChatPrompts(stand_in_processor(config), FAMILIES[model_type], PROMPT, 10**6)
    expected = {name: count(free, config.image_token_id, hw) for name, hw in PHOTOS.items()}
    assert tokens_of_photos(model_type, UNCAPPED) == expected


@pytest.mark.parametrize("model_type", TYPES)
def test_a_saved_processor_keeps_its_own_settings_and_can_be_set_higher(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny_mllm(tmp_path / "tiny", model_type)
    low, high = _processor(folder, 4), _processor(folder, 64)
    low.mllm.save_pretrained(folder)
    for hw in PHOTOS.values():
        sample = Sample(np.zeros((*hw, 3), dtype=np.uint8), ())
        assert _processor(folder, 64).mllm.prefix(sample).ids == high.mllm.prefix(sample).ids


@pytest.mark.parametrize("model_type", TYPES)
def test_a_model_reads_capped_photos(model_type: str) -> None:
    """The tokens in the prompt are as many as the model has states for the image, one that was shrunk included."""
    net, hub = tiny_mllm(model_type)
    config = replace(Config(), conversation="template", vision=VisionConfig(max_tokens=48))
    parts = Parts(config, hub.tokenizer, {}, mllm=HubMllm(net.config, hub))
    hub.tokenizer.add_tokens(list(config.prompt.chain), special_tokens=True)
    processor, mllm = build_processor(parts), build_mllm(parts).eval()
    turn = Turn("Which?", "It is this.")
    samples = [Sample(np.full((*hw, 3), 99, dtype=np.uint8), (turn,)) for hw in ((480, 640), (50, 300))]
    with torch.no_grad():
        states = mllm(processor.collate(samples))
    assert torch.isfinite(states).all()


def _processor(folder: Path, cap: int) -> Processor:
    hub, _ = read_hub_mllm(folder, shapes_only=True)
    hub.processor.tokenizer.add_tokens(list(PROMPT.chain), special_tokens=True)
    config = replace(Config(), conversation="template", vision=VisionConfig(max_tokens=cap))
    return build_processor(Parts(config, hub.processor.tokenizer, {}, mllm=hub))
