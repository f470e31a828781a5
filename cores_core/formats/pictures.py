"""Pictures of masks: a palette PNG of all answers, and the pixels of one answer cut out of its image.

Palette: pixel 0 is background, pixel k the k-th mask; the names stand in the file as JSON, under `labels`. Where masks
overlap the smallest one is seen, so that a part lies on its object. Colours are those of PASCAL VOC; 255, which is
"ignored" in many tools, is not used.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cores_core.errors import DataError
from cores_core.files import replacing
from cores_core.formats.labelled import LabelledImage
from cores_core.sample import BoolMask, RgbImage

MOST_MASKS = 254
LABELS_KEY = "labels"
"""Of the PNG's text (iTXt) that holds the names as a JSON list, the k-th for pixels of value k, counted from 1."""


def save_palette(image: LabelledImage, path: Path) -> None:
    """Write one picture of all masks of an image.

    Raises:
        DataError: there are more than 254.
    """
    if len(image.masks) > MOST_MASKS:
        hint = "ask fewer questions, or choose another format"
        raise DataError(f"{len(image.masks)} masks, and a palette has {MOST_MASKS}: {image.image}", hint=hint)
    picture = Image.fromarray(_number_pixels([labelled.mask for labelled in image.masks], image.size_hw))
    picture.putpalette(voc_colours().ravel().tolist())
    about = PngInfo()
    about.add_itxt(LABELS_KEY, json.dumps([labelled.name for labelled in image.masks]))
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=about)


def save_cutout(image: RgbImage, mask: BoolMask, path: Path) -> None:
    """Write an RGBA PNG of an image's size: its (H, W, 3) pixels inside the (H, W) mask, all else transparent black.

    Raises:
        DataError: the two are of different sizes.
    """
    if image.shape[:2] != mask.shape:
        raise DataError(f"a mask of {mask.shape} for an image of {image.shape[:2]}")
    pixels = np.dstack([image, np.full(mask.shape, 255, dtype=np.uint8)]) * mask[..., None]
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def voc_colours() -> NDArray[np.uint8]:
    """(256, 3): the colours of PASCAL VOC's palette, black first."""
    numbers = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for place in range(8):  # three bits of a number give one bit of each colour, the lowest the highest
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * place + channel) & 1) << (7 - place)).astype(np.uint8)
    return colours


def _number_pixels(masks: Sequence[BoolMask], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W): for each pixel the number of the smallest mask that covers it, of equal ones the last; else 0."""
    numbers = np.zeros(size_hw, dtype=np.uint8)
    for number, mask in sorted(enumerate(masks, start=1), key=lambda pair: -int(pair[1].sum())):
        numbers[mask] = number
    return numbers
