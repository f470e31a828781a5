"""Packing changes nothing that a branch reads, and pixels are what the release's encoders were given."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import mask, noise_image
from PIL import Image

from cores_core import prompts
from cores_core.errors import DataError
from cores_core.images import load_image
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.families import llava_prompts
from cores_core.model.families.llava_prompts import CLIP_MEAN, Square, square_pixels
from cores_core.model.processor import (
    IGNORED_LABEL,
    PADDING,
    PREFIX,
    Processor,
)
from cores_core.model.segmenter import IMAGENET_MEAN, IMAGENET_STD, Frame
from cores_core.model.tokenizer import token_id
from cores_core.prompts import render_turn
from cores_core.sample import Query, RgbImage, Sample

QUESTIONS = ("Which part steers the fish?", "What would a bird use to fly away from here?", "Where is its end?")
RELEASE, SAM = Square(side=224, tokens=256, fit="crop"), Frame(side=1024, grid=64)


@pytest.fixture(scope="module")
def processor(checkpoint: Checkpoint) -> Processor:
    return checkpoint.processor


def test_each_branch_reads_what_the_question_alone_would_read(processor: Processor) -> None:
    packed = processor.collate([_ask(processor, *QUESTIONS)])
    for number, question in enumerate(QUESTIONS, start=1):
        alone = processor.collate([_ask(processor, question)])
        read = (packed.sequence_ids[0] == PREFIX) | (packed.sequence_ids[0] == number)
        for field in ("input_ids", "position_ids", "labels"):
            assert getattr(packed, field)[0, read].tolist() == getattr(alone, field)[0].tolist()


def test_positions_start_again_in_every_branch(processor: Processor) -> None:
    packed = processor.collate([_ask(processor, *QUESTIONS)])
    prefix = int((packed.sequence_ids == PREFIX).sum())
    for number in range(len(QUESTIONS) + 1):
        position_ids = packed.position_ids[packed.sequence_ids == number].tolist()
        first = 0 if number == PREFIX else prefix
        assert position_ids == list(range(first, first + len(position_ids)))


def test_labels_are_the_answers_with_their_end_and_nothing_else(processor: Processor) -> None:
    packed = processor.collate([_ask(processor, *QUESTIONS)])
    answer = [
        *processor.tokenizer.encode(f" {processor.prompt.answer}", add_special_tokens=False),
        processor.mllm.end_id,
    ]
    labelled = packed.labels != IGNORED_LABEL
    assert packed.labels[labelled].tolist() == answer * len(QUESTIONS)
    assert torch.equal(packed.labels[labelled], packed.input_ids[labelled])
    for number in range(1, len(QUESTIONS) + 1):
        assert labelled[packed.sequence_ids == number].tolist()[-len(answer) :] == [True] * len(answer)


def test_every_turn_has_each_token_of_the_chain_once(processor: Processor) -> None:
    packed = processor.collate([_ask(processor, *QUESTIONS)])
    for index in processor.chain_ids:
        sequence_ids = packed.sequence_ids[packed.input_ids == index]
        assert sequence_ids.tolist() == [1, 2, 3]


def test_there_is_an_image_token_for_every_patch_and_only_in_the_prefix(processor: Processor) -> None:
    packed = processor.collate([_ask(processor, *QUESTIONS)])
    is_image = packed.input_ids == token_id(processor.tokenizer, prompts.IMAGE)
    assert int(is_image.sum()) == processor.mllm.square.tokens == (32 // 16) ** 2
    assert (packed.sequence_ids[is_image] == PREFIX).all()


def test_the_text_read_is_the_text_rendered(processor: Processor) -> None:
    sample = _ask(processor, QUESTIONS[0])
    ids = processor.collate([sample]).input_ids[0].tolist()
    images = prompts.IMAGE * processor.mllm.square.tokens
    turn, prompt = sample.turns[0], processor.prompt
    expected = (
        f"{prompts.BEGIN}{prompts.render_prefix(prompt)}"
        f"{prompts.IMAGE_START}{images}{prompts.IMAGE_END}"
        f"{prompts.render_question(turn, prompt)}{prompts.render_answer(turn, prompt)}{prompts.END}"
    )
    assert processor.tokenizer.decode(ids) == expected


def test_a_shorter_row_is_padded_on_the_right_with_what_counts_nowhere(processor: Processor) -> None:
    batch = processor.collate([_ask(processor, QUESTIONS[0]), _ask(processor, *QUESTIONS)])
    assert batch.counts == (1, 3)
    padding = batch.sequence_ids[0] == PADDING
    length = int((~padding).sum())
    assert padding.tolist() == [False] * length + [True] * (batch.input_ids.shape[1] - length)
    assert (batch.labels[0, padding] == IGNORED_LABEL).all()
    assert not torch.isin(batch.input_ids[0, padding], torch.tensor(processor.chain_ids)).any()


def test_an_open_answer_ends_with_the_question(processor: Processor) -> None:
    sample = _ask(processor, *QUESTIONS)
    batch = processor.collate([sample], answers=[[[], [], []]])
    assert (batch.labels == IGNORED_LABEL).all()
    text = processor.tokenizer.decode(batch.input_ids[0].tolist())
    assert text.endswith("ASSISTANT:")


def test_given_ids_take_the_place_of_the_answer(processor: Processor) -> None:
    batch = processor.collate([_ask(processor, *QUESTIONS[:2])], answers=[[[5, 6], [7]]])
    assert batch.labels[batch.labels != IGNORED_LABEL].tolist() == [5, 6, 7]


@pytest.mark.parametrize("token", [*prompts.SPECIAL_TOKENS, "[SEG_SEMA]"])
def test_a_special_token_in_a_users_text_stays_text(processor: Processor, token: str) -> None:
    plain, evil = (_ask(processor, f"Where is the {word} here?") for word in ("fish", f"{token} {token}{token}"))
    specials = torch.tensor([token_id(processor.tokenizer, special) for special in prompts.SPECIAL_TOKENS])
    counts = [torch.isin(processor.collate([sample]).input_ids, specials).sum() for sample in (plain, evil)]
    assert counts[0] == counts[1]


def test_special_tokens_are_one_id_each_and_read_back(processor: Processor) -> None:
    for token in prompts.SPECIAL_TOKENS:
        index = token_id(processor.tokenizer, token)
        assert processor.tokenizer.encode(token, add_special_tokens=False) == [index]
        assert processor.tokenizer.decode([index]) == token


def test_an_unknown_token_is_an_error_that_names_it(processor: Processor) -> None:
    with pytest.raises(DataError, match="SEG_SEMA"):
        token_id(processor.tokenizer, "[SEG_SEMA]")


@pytest.mark.parametrize("text", ["Fuß, 魚 and 🐟?", "naïve  café", "a\\b"])
def test_any_text_can_be_tokenized_and_read_back(processor: Processor, text: str) -> None:
    ids = processor.tokenizer.encode(text, add_special_tokens=False)
    assert token_id(processor.tokenizer, prompts.UNKNOWN) not in ids
    assert processor.tokenizer.decode(ids) == text


def test_decoding_leaves_out_the_end_and_keeps_the_chain(processor: Processor) -> None:
    turn = _ask(processor, QUESTIONS[0]).turns[0]
    assert processor.decode(processor.answer_ids(turn)) == processor.prompt.answer


def test_a_question_that_does_not_fit_is_refused(processor: Processor) -> None:
    with pytest.raises(DataError, match="too long") as caught:
        processor.collate([_ask(processor, "very " * 3000)])
    assert "shorten" in str(caught.value.hint)


def test_many_questions_may_be_longer_together_than_one_may_be(processor: Processor) -> None:
    batch = processor.collate([_ask(processor, *["Where is the long part of the boat?"] * 70)])
    assert batch.input_ids.shape[1] > processor.mllm.max_tokens > int(batch.position_ids.max())


def test_targets_and_ignores_stand_beside_their_image(processor: Processor) -> None:
    target, ignore = mask("#..", "..."), mask("..#", "..#")
    sample = replace(_ask(processor, *QUESTIONS[:2], image=noise_image(2, 3)), masks=(target, ~target))
    batch = processor.collate([replace(sample, ignores=(None, ignore)), replace(sample, ignores=(None, None))])
    assert [m.shape for m in batch.masks] == [(2, 2, 3)] * 2
    first, second = batch.ignores
    assert first is not None
    assert (first[0].any().item(), first[1].tolist()) == (False, ignore.tolist())
    assert second is None


def test_a_batch_of_pictures_is_a_batch_without_text(processor: Processor) -> None:
    target = mask("#..", "...")
    sample = replace(_ask(processor, QUESTIONS[0], image=noise_image(2, 3)), masks=(target,), ignores=(None,))
    pictures, whole = processor.collate_images([sample]), processor.collate([sample])
    assert (pictures.input_ids.numel(), len(pictures.vision)) == (0, 0)
    assert torch.equal(pictures.sam_pixels, whole.sam_pixels)
    assert torch.equal(pictures.masks[0], whole.masks[0])
    assert pictures.counts == whole.counts == (1,)
    assert pictures.image_index.tolist() == [0]


def test_each_query_knows_its_image(processor: Processor) -> None:
    batch = processor.collate([_ask(processor, *QUESTIONS[:2]), _ask(processor, QUESTIONS[0])])
    assert batch.image_index.tolist() == [0, 0, 1]


def test_the_positions_of_answers_and_chain_tokens_are_those_before_them(processor: Processor) -> None:
    batch = processor.collate([_ask(processor, *QUESTIONS[:2]), _ask(processor, QUESTIONS[0])])
    states = torch.randn(*batch.input_ids.shape, 3)  # (R, T, D), as of the language model
    is_answer = batch.labels[:, 1:] != IGNORED_LABEL
    flat = states.flatten(0, 1)
    assert torch.equal(flat[batch.answer_index], states[:, :-1][is_answer])
    assert torch.equal(batch.answer_sequence_ids, batch.sequence_ids[:, 1:][is_answer])
    assert torch.equal(batch.labels.flatten()[batch.answer_index + 1], batch.labels[:, 1:][is_answer])
    for index, chain_id in zip(batch.chain_index, processor.chain_ids, strict=True):
        assert torch.equal(flat[index], states[:, :-1][batch.input_ids[:, 1:] == chain_id])
        assert len(index) == 3


@pytest.mark.parametrize(("hw", "resized"), [((10, 20), (32, 64)), ((20, 10), (64, 32)), ((64, 64), (64, 64))])
def test_sam_pixels_are_zero_right_and_bottom(hw: tuple[int, int], resized: tuple[int, int]) -> None:
    pixels, size = Frame(64, grid=8).pixels(Image.new("RGB", hw[::-1], "white"))
    assert (size.original_hw, size.resized_hw) == (hw, resized)
    assert pixels.shape == (3, 64, 64)
    assert (pixels[:, : resized[0], : resized[1]] > 2).all()
    assert (pixels[:, resized[0] :] == 0).all()
    assert (pixels[:, :, resized[1] :] == 0).all()


def test_the_thinnest_image_keeps_a_row(processor: Processor) -> None:
    batch = processor.collate([_ask(processor, QUESTIONS[0], image=noise_image(1, 300))])
    assert batch.sizes[0].resized_hw == (1, 64)


def test_pad_keeps_the_whole_image_in_the_middle_on_the_mean_colour() -> None:
    pad = Square(side=8, tokens=4, fit="pad")
    pixels = square_pixels(Image.new("RGB", (80, 40), "white"), pad)
    assert pixels.shape == (3, 8, 8)
    assert (pixels[:, 3:5] > 1.9).all()
    assert pixels[:, [0, 7]].abs().max() < 0.05


def test_crop_fills_the_square_and_cuts_the_longer_sides() -> None:
    crop = Square(side=8, tokens=4, fit="crop")
    image = np.zeros((40, 80, 3), dtype=np.uint8)
    image[:, 20:60] = 255  # the middle
    pixels = square_pixels(Image.fromarray(image), crop)
    assert (pixels[:, :, 1:7] > 1.9).all()


@pytest.mark.parametrize("hw", [(40, 80), (80, 40), (64, 64), (1, 300), (300, 1), (481, 640), (1999, 77), (3, 2500)])
@pytest.mark.parametrize("padded_at_once", [1, 5000, 1 << 22])
def test_padding_in_bands_gives_the_pixels_of_the_whole_square(
    hw: tuple[int, int], padded_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llava_prompts, "PADDED_AT_ONCE", padded_at_once)
    pad = Square(side=56, tokens=16, fit="pad")
    image = Image.fromarray(noise_image(*hw))
    square = Image.new("RGB", (max(hw), max(hw)), (122, 116, 104))
    square.paste(image, ((square.width - image.width) // 2, (square.height - image.height) // 2))
    assert torch.equal(square_pixels(image, pad), square_pixels(square.resize((56, 56), Image.Resampling.BICUBIC), pad))


@pytest.mark.parametrize("hw", [(20, 8000), (8000, 20), (1, 3001)])
def test_the_ends_of_a_very_long_image_are_left_out_before_it_is_cropped(hw: tuple[int, int]) -> None:
    image, shortest = Image.fromarray(noise_image(*hw)), min(hw)
    enlarged = image.resize((224 * hw[1] // shortest, 224 * hw[0] // shortest), Image.Resampling.BICUBIC)
    left, top = (enlarged.width - 224) // 2, (enlarged.height - 224) // 2
    whole = square_pixels(enlarged.crop((left, top, left + 224, top + 224)), RELEASE)
    assert torch.equal(square_pixels(image, RELEASE), whole)


def test_the_crop_is_as_large_as_clip_makes_it() -> None:
    """`int(224 * long / short)`, not `int(long * (224 / short))`, which is 1 too small for some sizes."""
    for short in (3, 7, 49, 98, 103, 107):
        exact = square_pixels(Image.fromarray(noise_image(short * 2, short)), RELEASE)
        resized = Image.fromarray(noise_image(short * 2, short)).resize((224, 448), Image.Resampling.BICUBIC)
        expected = square_pixels(resized.crop((0, 112, 224, 336)), RELEASE)
        assert torch.equal(exact, expected), short


def test_sizes_equal_the_release(shared: Path) -> None:
    golden = json.loads((shared / "golden/data/resize_expected.json").read_text())
    for side in (1024, 256):
        for name, (height, width) in golden[f"get_preprocess_shape_{side}"].items():
            original_hw = tuple(int(n) for n in name.split("x"))
            _, size = Frame(side, grid=8).pixels(Image.new("RGB", original_hw[::-1]))
            assert size.resized_hw == (max(height, 1), max(width, 1)), name  # the release makes an image without rows


def test_sam_is_given_the_pixels_of_the_release(shared: Path) -> None:
    golden = json.loads((shared / "golden/images/preprocess.json").read_text())
    images = np.load(shared / "golden/data/images_rgb.npz")
    for name, expected in golden.items():
        pixels, size = SAM.pixels(Image.fromarray(images[name]))
        assert list(size.original_hw) == expected["orig_hw"]
        assert list(size.resized_hw) == expected["resized_hw"]
        assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest() == expected["sam_tensor_sha256"], name
        assert [pixels[*place].item() for *place, _ in expected["sam_samples"]] == pytest.approx(
            [value for *_, value in expected["sam_samples"]], abs=1e-6
        )


def test_the_resized_image_equals_the_one_saved_by_the_release(shared: Path) -> None:
    golden = load_image(shared / "golden/images/sam_resized_img0.png")
    pixels, size = SAM.pixels(Image.fromarray(_first_image(shared)))
    height, width = size.resized_hw
    restored = pixels[:, :height, :width].permute(1, 2, 0) * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)
    assert np.array_equal(restored.round().numpy().astype(np.uint8), golden)


def test_clip_is_given_the_pixels_of_the_release(shared: Path) -> None:
    images = np.load(shared / "golden/data/images_rgb.npz")
    golden = np.load(shared / "golden/images/clip_pixel_values.npz")
    for name in golden:
        pixels = square_pixels(Image.fromarray(images[name]), RELEASE)
        assert np.abs(pixels.numpy() - golden[name]).max() < 1e-5, name


def test_odd_sizes_equal_the_release_too(shared: Path) -> None:
    golden = np.load(shared / "golden/data/resize_clip.npz")
    expected = json.loads((shared / "golden/data/resize_expected.json").read_text())["images"]
    assert len(expected) == 3
    for name, entry in expected.items():
        image = Image.fromarray(golden[f"{name}_in"])
        assert np.abs(square_pixels(image, RELEASE).numpy() - golden[f"{name}_clip"]).max() < 1e-5, name
        pixels, size = SAM.pixels(image)
        assert list(size.resized_hw) == entry["resized_hw"]
        assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest() == entry["sam_tensor_sha256"], name


def test_the_colour_of_padding_is_close_to_zero_for_clip() -> None:
    assert [int(255 * mean) for mean in CLIP_MEAN] == [122, 116, 104]


def _ask(processor: Processor, *questions: str, image: RgbImage | None = None) -> Sample:
    turns = tuple(render_turn(Query(question), processor.prompt) for question in questions)
    return Sample(image=noise_image(40, 60) if image is None else image, turns=turns)


def _first_image(shared: Path) -> RgbImage:
    image: RgbImage = np.load(shared / "golden/data/images_rgb.npz")["img0"]
    return image
