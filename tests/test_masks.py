"""Run-length codes bring back the mask they were made of."""

import numpy as np
import pytest
from helpers import mask
from pycocotools import mask as coco

from cores_core.errors import DataError
from cores_core.masks import (
    binarize,
    bounding_box,
    decode_rle,
    encode_rle,
    merge_rles,
    resize_mask,
    rle_area,
    segmentation_rle,
)


@pytest.mark.parametrize("seed", range(20))
def test_any_mask_survives_the_round_trip(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 60, 2)
    drawn = rng.random((height, width)) < rng.random()
    rle = encode_rle(drawn)
    assert rle["size"] == [height, width]
    assert isinstance(rle["counts"], str)
    assert decode_rle(rle).dtype == np.bool_
    assert np.array_equal(decode_rle(rle), drawn)
    assert rle_area(rle) == drawn.sum()


@pytest.mark.parametrize("filled", [True, False])
def test_a_full_and_an_empty_mask_survive_too(filled: bool) -> None:
    drawn = np.full((3, 5), filled)
    assert np.array_equal(decode_rle(encode_rle(drawn)), drawn)


def test_a_slice_of_a_mask_is_encoded_as_seen() -> None:
    drawn = mask("#.#.", ".#.#", "##..")[::-1, 1:]
    assert np.array_equal(decode_rle(encode_rle(drawn)), drawn)


def test_the_code_is_that_of_coco() -> None:
    assert encode_rle(mask(".#", ".#")) == {"size": [2, 2], "counts": "22"}  # down the columns: 2 outside, 2 inside


def test_merging_is_the_union() -> None:
    merged = merge_rles([encode_rle(mask("##..", "....")), encode_rle(mask(".##.", "#..."))])
    assert np.array_equal(decode_rle(merged), mask("###.", "#..."))
    assert rle_area(merged) == 4


def test_merging_one_changes_nothing() -> None:
    rle = encode_rle(mask(".#.", "###"))
    assert merge_rles([rle]) == rle


def test_a_box_is_x_y_width_height() -> None:
    assert bounding_box(mask(".....", "..##.", "...#.")) == (2, 1, 2, 2)


def test_one_pixel_has_a_box_of_one_by_one() -> None:
    assert bounding_box(mask("...", "..#")) == (2, 1, 1, 1)


def test_an_empty_mask_has_a_box_of_zeros() -> None:
    assert bounding_box(mask("...", "...")) == (0, 0, 0, 0)


def test_a_logit_of_zero_is_outside() -> None:
    logits = np.array([[-1.0, 0.0, 1e-6]], dtype=np.float32)
    assert np.array_equal(binarize(logits), mask("..#"))


def test_a_resized_mask_keeps_how_much_is_covered() -> None:
    checker = mask("#.#.", ".#.#").astype(np.uint8) * np.uint8(255)
    assert resize_mask(checker, (1, 2)).tolist() == [[128, 128]]
    assert resize_mask(checker, (2, 4)) is checker


@pytest.mark.parametrize("seed", range(20))
def test_a_segmentation_may_be_runs_or_their_compressed_text_or_bytes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = rng.random((rng.integers(1, 60), rng.integers(1, 60))) < rng.choice([0.02, 0.5, 0.98])
    if seed == 0:
        target[:] = True
    rle = encode_rle(target)
    assert segmentation_rle(rle, target.shape) == rle
    in_bytes = coco.encode(np.asfortranarray(target, dtype=np.uint8))
    assert isinstance(in_bytes["counts"], bytes)
    assert segmentation_rle(in_bytes, target.shape) == rle
    flat = target.flatten(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    assert segmentation_rle({"size": list(target.shape), "counts": runs}, target.shape) == rle


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        7,
        "text",
        {},
        {"size": [4, 4], "counts": "~~~~"},
        {"size": [4, 4], "counts": ""},
        {"size": [4, 4], "counts": b"~~~~"},
        {"size": [4, 4], "counts": b"\xff\xfe"},
        {"size": [4, 4], "counts": b""},
        {"size": [4, 4], "counts": None},
        {"size": [4, 4], "counts": [5, 5]},
        {"size": [4, 4], "counts": [-4, 20]},
        {"size": [4, 4], "counts": [[16]]},
        {"size": [4, 4], "counts": "o" * 40},
        [[0, 0, 1e12, 0, 1, 1]],
        [[0, 0, float("nan"), 0, 1, 1]],
        [[0, 0, 1, 0, 1, 1, 2]],
        [["a"] * 6],
    ],
)
def test_what_is_no_segmentation_is_refused_before_it_reaches_c(segmentation: object) -> None:
    with pytest.raises(DataError):
        segmentation_rle(segmentation, (4, 4))
