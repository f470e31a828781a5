"""Sizes of published models against their published totals; stand-in processors against their families' rules."""

from pathlib import Path

import pytest
import torch
from families import FAMILIES, save_tiny_sam, tiny_config, tiny_mllm, tiny_sam
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPConfig,
    PreTrainedModel,
    ProcessorMixin,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam3TrackerModel,
)

from cores_core.errors import ConfigError
from cores_core.model.families.published import (
    published_config,
    published_models,
    published_sams,
    stand_in_processor,
)

TOTALS = {
    "Qwen/Qwen3-VL-2B-Instruct": 2.13e9,
    "Qwen/Qwen3-VL-4B-Instruct": 4.44e9,
    "Qwen/Qwen3-VL-8B-Instruct": 8.77e9,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3.75e9,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8.29e9,
    "Qwen/Qwen2-VL-7B-Instruct": 8.29e9,
    "Qwen/Qwen3.5-0.8B": 873e6 - 20e6,  # less the layer that predicts one token more: transformers leaves it out
    "Qwen/Qwen3.5-4B": 4.66e9 - 0.12e9,  # likewise
    "Qwen/Qwen3.5-9B": 9.65e9 - 0.24e9,  # likewise
    "OpenGVLab/InternVL3_5-4B-HF": 4.73e9,
    "OpenGVLab/InternVL3_5-8B-HF": 8.53e9,
    "HuggingFaceTB/SmolVLM2-256M-Video-Instruct": 256e6,
    "HuggingFaceTB/SmolVLM-256M-Instruct": 256e6,
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": 507e6,
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": 2.25e9,
    "HuggingFaceM4/Idefics3-8B-Llama3": 8.46e9,
    "google/gemma-3-4b-it": 4.30e9,
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": 8.03e9,
}
"""Parameters as the hub counts the tensors of the repositories, from memory; InternVL from its card."""
VIDEO_TOTALS = {
    "facebook/sam2.1-hiera-tiny": 39.0e6,
    "facebook/sam2.1-hiera-small": 46.1e6,
    "facebook/sam2.1-hiera-base-plus": 80.9e6,
    "facebook/sam2.1-hiera-large": 224.4e6,
}
"""The same for SAM 2.1, with its memory of earlier frames, which one image does not use."""
PHOTOS = {"640x480": (640, 480), "1920x1080": (1920, 1080), "4032x3024": (4032, 3024)}
IMAGE_TOKENS = {
    "Qwen/Qwen2.5-VL-7B-Instruct": (391, 2691, 15552),
    "Qwen/Qwen3-VL-4B-Instruct": (300, 2040, 11844),
    "Qwen/Qwen3.5-4B": (300, 2040, 11844),
    "OpenGVLab/InternVL3_5-4B-HF": (3328, 2304, 3328),
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": (832, 832, 832),
    "HuggingFaceTB/SmolVLM-256M-Instruct": (832, 832, 832),
    "google/gemma-3-4b-it": (256, 256, 256),
}
"""Image tokens of each photo, without the tokens around them."""
QUESTION, ANSWER = "\1Q\1", "\1A\1"


def test_every_published_model_has_a_total() -> None:
    assert set(TOTALS) == set(published_models())
    assert set(VIDEO_TOTALS) | {"facebook/sam3"} == set(published_sams())


@pytest.mark.parametrize("name", TOTALS)
def test_a_published_model_has_its_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        net = AutoModelForImageTextToText.from_config(published_config(name))
    assert _parameters(net) == pytest.approx(TOTALS[name], rel=0.005)


@pytest.mark.parametrize("name", VIDEO_TOTALS)
def test_a_published_sam_has_its_published_number_of_parameters(name: str) -> None:
    config = Sam2VideoConfig(vision_config=published_config(name).vision_config.to_dict())
    with torch.device("meta"):
        net = Sam2VideoModel(config)
    assert _parameters(net) == pytest.approx(VIDEO_TOTALS[name], rel=0.005)


def test_the_tracker_of_sam_3_has_the_size_that_was_measured() -> None:
    config = published_config("facebook/sam3")
    with torch.device("meta"):
        net = Sam3TrackerModel(config)
    assert _parameters(net) == pytest.approx(458e6, rel=0.005)
    assert config.prompt_encoder_config.image_size == config.vision_config.image_size == 1008


def test_a_config_is_a_copy_that_one_may_change() -> None:
    published_config("google/gemma-3-4b-it").text_config.rope_parameters["full_attention"]["factor"] = 1.0
    assert published_config("google/gemma-3-4b-it").text_config.rope_parameters["full_attention"]["factor"] == 8.0


def test_an_unknown_model_is_refused_with_the_names_of_the_known() -> None:
    with pytest.raises(ConfigError, match="for the model: Qwen/Qwen9") as caught:
        published_config("Qwen/Qwen9")
    assert "Qwen/Qwen3-VL-4B-Instruct" in (caught.value.hint or "")


@pytest.mark.parametrize("name", IMAGE_TOKENS)
def test_photos_have_as_many_image_tokens_as_with_the_published_processor(name: str) -> None:
    config = published_config(name)
    processor = stand_in_processor(config)
    assert (
        tuple(_image_tokens(processor, config.image_token_id, size) for size in PHOTOS.values()) == IMAGE_TOKENS[name]
    )


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_chat_of_two_rounds_holds_each_part_once_and_in_order(model_type: str) -> None:
    processor = stand_in_processor(tiny_config(model_type))
    second, last = "\1Q2\1", "\1A2\1"
    for text in (_as_parts, str):
        chat = processor.apply_chat_template(
            [
                {"role": "system", "content": text("\1S\1")},
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]},
                {"role": "assistant", "content": text(ANSWER)},
                {"role": "user", "content": text(second)},
                {"role": "assistant", "content": text(last)},
            ]
        )
        parts = ["\1S\1", processor.image_token, QUESTION, ANSWER, second, last]
        assert [chat.count(part) for part in parts] == [1] * len(parts)
        assert [chat.index(part) for part in parts] == sorted(chat.index(part) for part in parts)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_asks_for_an_answer_is_what_stands_before_one(model_type: str) -> None:
    processor = stand_in_processor(tiny_config(model_type))
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
    answered = processor.apply_chat_template([asked, {"role": "assistant", "content": _as_parts(ANSWER)}])
    before = processor.apply_chat_template([asked], add_generation_prompt=True)
    assert answered.startswith(before)
    assert answered[len(before) :].lstrip().startswith(ANSWER)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_processor_is_the_same_after_saving(model_type: str, tmp_path: Path) -> None:
    config = tiny_config(model_type)
    processor = stand_in_processor(config)
    processor.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is type(processor)
    assert loaded.chat_template == processor.chat_template
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert loaded.tokenizer.added_tokens_decoder.keys() == processor.tokenizer.added_tokens_decoder.keys()
    assert AutoConfig.from_pretrained(tmp_path).image_token_id == config.image_token_id
    for size in ((200, 120), (64, 300)):
        before, after = _prepare(processor, size), _prepare(loaded, size)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_tiny_model_takes_what_its_processor_gives(model_type: str) -> None:
    net, processor = tiny_mllm(model_type)
    inputs = _prepare(processor, (200, 120))
    with torch.no_grad():
        logits = net(**inputs).logits
    assert logits.isfinite().all()
    assert logits.shape[:2] == inputs["input_ids"].shape
    assert max(processor.tokenizer.get_vocab().values()) < net.config.get_text_config().vocab_size


@pytest.mark.parametrize("model_type", FAMILIES)
def test_special_tokens_stay_whole_and_plain_text_comes_back(model_type: str) -> None:
    tokenizer = stand_in_processor(tiny_config(model_type)).tokenizer
    text = "Which part — “naïve” or not — steers it?\n"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    for identity, token in tokenizer.added_tokens_decoder.items():
        assert tokenizer.encode(f"a{token.content}b", add_special_tokens=False)[1:-1] == [identity]


def test_a_family_without_a_processor_is_refused() -> None:
    with pytest.raises(ConfigError, match="no processor is known for the family: clip"):
        stand_in_processor(CLIPConfig())


def test_a_vocabulary_without_room_for_all_bytes_is_refused() -> None:
    config = tiny_config("qwen3_vl")
    config.text_config.vocab_size = 200
    with pytest.raises(ConfigError, match=r"`vocab_size` is too small .*: 200"):
        stand_in_processor(config)


@pytest.mark.parametrize("kind", ["sam2", "sam3"])
def test_a_tiny_sam_is_the_same_after_saving(kind: str, tmp_path: Path) -> None:
    save_tiny_sam(tmp_path, kind)
    saved, loaded = tiny_sam(kind), AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(saved)
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in saved.state_dict().items())
    pixels = AutoImageProcessor.from_pretrained(tmp_path)([Image.new("RGB", (90, 60))], return_tensors="pt")
    side = {"sam2": 128, "sam3": 112}[kind]
    assert pixels["pixel_values"].shape == (1, 3, side, side)


def _as_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _parameters(net: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _image_tokens(processor: ProcessorMixin, token_id: int, size: tuple[int, int]) -> int:
    return int((_prepare(processor, size)["input_ids"] == token_id).sum())


def _prepare(processor: ProcessorMixin, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What turns it?"}]}
    text = processor.apply_chat_template([user], add_generation_prompt=True)
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    return dict(processor(text=[text], images=[image], return_tensors="pt"))
