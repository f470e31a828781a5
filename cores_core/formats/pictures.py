"""Write masks as pictures: a palette PNG of all masks of an image, and an RGBA cut-out of one mask.

Palette: value 0 is background, value k the k-th mask; the labels are stored in the file as JSON. Where masks overlap,
the smallest one is visible, so that parts appear on their objects. Colours are those of PASCAL VOC; 255, which many
tools ignore, is not used.
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
from cores_core.images import encode_png
from cores_core.sample import BoolMask, RgbImage

MOST_MASKS = 254
LABELS_KEY = "labels"
"""Key of the PNG text chunk (iTXt) with the labels as a JSON list; the k-th, from 1, is that of pixel value k."""


def save_palette(image: LabelledImage, path: Path) -> None:
    """Write all masks of an image as one palette PNG.

    Raises:
        DataError: there are more than 254 masks.
    """
    if len(image.masks) > MOST_MASKS:
        hint = "ask fewer questions, or choose another format"
        raise DataError(f"{len(image.masks)} masks, but a palette has at most {MOST_MASKS}: {image.image}", hint=hint)
    picture = Image.fromarray(_number_pixels([labelled.mask for labelled in image.masks], image.size_hw))
    picture.putpalette(voc_colours().ravel().tolist())
    about = PngInfo()
    about.add_itxt(LABELS_KEY, json.dumps([labelled.name for labelled in image.masks]))
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=about)


def save_cutout(image: RgbImage, mask: BoolMask, path: Path) -> None:
    """Write an RGBA PNG with the (H, W, 3) pixels of an image inside a (H, W) mask; the rest is transparent black.

    Raises:
        DataError: image and mask have different sizes.
    """
    if image.shape[:2] != mask.shape:
        raise DataError(f"a mask of {mask.shape} for an image of {image.shape[:2]}")
    pixels = np.dstack([image, np.full(mask.shape, 255, dtype=np.uint8)]) * mask[..., None]
    with replacing(path) as temporary:
        temporary.write_bytes(encode_png(pixels))


def voc_colours() -> NDArray[np.uint8]:
    """(256, 3) uint8 colours of PASCAL VOC's palette; the first is black."""
    numbers = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for place in range(8):  # each three bits of an index give one bit per channel; the lowest give the highest
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * place + channel) & 1) << (7 - place)).astype(np.uint8)
    return colours


def _number_pixels(masks: Sequence[BoolMask], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W) number, from 1, of the smallest mask covering each pixel (of equal ones the last); 0 for none."""
    numbers = np.zeros(size_hw, dtype=np.uint8)
    for number, mask in sorted(enumerate(masks, start=1), key=lambda pair: -int(pair[1].sum())):
        numbers[mask] = number
    return numbers
