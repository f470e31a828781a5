"""Palette and cut-out, equal to the pixel."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import mask, noise_image
from PIL import Image

from cores_core.errors import DataError
from cores_core.formats.labelled import LabelledImage, LabelledMask
from cores_core.formats.pictures import MOST_MASKS, save_cutout, save_palette, voc_colours

BODY, TAIL, MOON = mask("####.", "####."), mask("..##.", "....."), mask("....#", ".....")
FISH = LabelledImage("fish.jpg", (2, 5), tuple(map(LabelledMask, ("tail", "body", "moon\n"), (TAIL, BODY, MOON))))


def test_pixels_of_a_palette_are_the_number_of_the_answer_and_the_smallest_is_on_top(tmp_path: Path) -> None:
    save_palette(FISH, tmp_path / "fish.png")
    with Image.open(tmp_path / "fish.png") as picture:
        assert picture.mode == "P"
        assert np.asarray(picture).tolist() == [[2, 2, 1, 1, 3], [2, 2, 2, 2, 0]]
        assert json.loads(picture.text["labels"]) == ["tail", "body", "moon"]
        assert np.asarray(picture.convert("RGB"))[0, 0].tolist() == [0, 128, 0]


def test_the_colours_are_those_of_pascal_voc() -> None:
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert voc_colours()[:5].tolist() == [list(colour) for colour in expected]
    assert voc_colours()[255].tolist() == [224, 224, 192]
    assert len(np.unique(voc_colours(), axis=0)) == 256


def test_a_palette_without_a_mask_is_black(tmp_path: Path) -> None:
    save_palette(LabelledImage("fish.jpg", (2, 5), ()), tmp_path / "fish.png")
    with Image.open(tmp_path / "fish.png") as picture:
        assert not np.asarray(picture).any()


def test_more_masks_than_a_palette_has_colours_are_one_error(tmp_path: Path) -> None:
    masks = (LabelledMask("tail", TAIL),) * (MOST_MASKS + 1)
    with pytest.raises(DataError, match="255 masks, but a palette has at most 254"):
        save_palette(LabelledImage("fish.jpg", (2, 5), masks), tmp_path / "fish.png")
    assert not list(tmp_path.iterdir())


def test_a_cutout_has_the_image_inside_and_nothing_outside(tmp_path: Path) -> None:
    image = noise_image(2, 5)
    save_cutout(image, TAIL, tmp_path / "tail.png")
    with Image.open(tmp_path / "tail.png") as picture:
        assert picture.mode == "RGBA"
        pixels = np.asarray(picture)
    assert np.array_equal(pixels[..., 3] == 255, TAIL)
    assert np.array_equal(pixels[TAIL][:, :3], image[TAIL])
    assert not pixels[~TAIL].any()


def test_a_cutout_of_another_size_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="for an image of"):
        save_cutout(noise_image(3, 5), TAIL, tmp_path / "tail.png")
