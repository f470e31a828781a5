"""Read mask images: which pixels are inside, outside or ignored.

- Only values 0, 1 and 255, including 1: 1 is inside, 255 is ignored, 0 is outside.
- Two values, one of them 0 (black): 0 is outside, the other value or colour is inside. Palettes count by their colours.
- One value: black is an empty mask, anything else covers the whole image.
- An alpha channel with several values is the mask, by the rules for grey values, if the inside has a single colour.
- Greyscale with blended edges or JPEG noise, at most 5 % of the pixels between near black and near white: values above
  half are inside, and the result has a note.

Everything else is rejected as ambiguous.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cores_core.errors import DataError
from cores_core.images import DECODE_ERRORS
from cores_core.masks import IGNORE_VALUE, Rle, encode_rle, segmentation_rle
from cores_core.sample import BoolMask

_DEEP_WHITE = 65535
_NEAR = 32
"""Maximum difference from black or white, on a scale of 255, of near black and near white values."""
_BLENDED_SHARE = 0.05
_GREY_SPREAD = 16
"""Maximum difference, on a scale of 255, between the channels of a JPEG that is treated as greyscale."""
_BLENDED = "its mask has blended edges: values above half are inside"


@dataclass(frozen=True)
class MaskImage:
    """Content of a mask image.

    Attributes:
        target: (H, W) bool. ignore: (H, W) bool, disjoint from the target; None if no pixel is ignored.
        note: an assumption made in reading it; None if there was none.
    """

    target: BoolMask
    ignore: BoolMask | None = None
    note: str | None = None


@dataclass(frozen=True)
class RowMask:
    """The mask of a JSONL row.

    Attributes:
        mask: pixels inside. ignore: ignored pixels, or None. note: as in `MaskImage`.
    """

    mask: Rle
    ignore: Rle | None = None
    note: str | None = None


def read_row_mask(given: Any, locate: Callable[[str], Path], size_hw: tuple[int, int]) -> RowMask:
    """Read the mask of a JSONL row.

    Args:
        given: `[]` for an empty mask, the path of a mask image, a list of polygons, or a COCO RLE.
        locate: resolves a path. size_hw: height and width of the upright image.

    Raises:
        DataError: it is none of these, or cannot be read.
    """
    if given == []:
        return RowMask(encode_rle(np.zeros(size_hw, dtype=bool)))
    if not isinstance(given, str):
        return RowMask(segmentation_rle(given, size_hw))
    image = load_mask_image(locate(given), size_hw)
    return RowMask(encode_rle(image.target), None if image.ignore is None else encode_rle(image.ignore), image.note)


def load_mask_image(path: Path | BinaryIO, size_hw: tuple[int, int]) -> MaskImage:
    """Read a mask image, a file or its content, of `size_hw` (height, width) by the rules in the module's docstring.

    Raises:
        DataError: it is missing, damaged, of another size, or ambiguous. The message does not contain the path, so that
            equal errors can be counted.
    """
    try:
        with Image.open(path) as image:
            if image.size != size_hw[::-1]:
                raise DataError("its mask is of another size than its image")
            return _interpret(image)
    except FileNotFoundError as error:
        raise DataError("its mask is missing") from error
    except DECODE_ERRORS as error:
        raise DataError(f"its mask cannot be read ({type(error).__name__})") from error


def _interpret(image: Image.Image) -> MaskImage:
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        alpha = rgba[..., 3]
        if alpha.min() < alpha.max():
            shape = _split(alpha.astype(np.int64), np.unique(alpha))
            if len(np.unique(rgba[..., :3][shape.target], axis=0)) > 1:
                raise DataError("its mask is ambiguous: partly transparent, with several colours inside")
            return shape
    values = _values(image)
    shown = np.unique(values)
    if 1 in shown and set(shown.tolist()) <= {0, 1, IGNORE_VALUE}:
        ignored = values == IGNORE_VALUE
        return MaskImage(values == 1, ignored if ignored.any() else None)
    return _split(values, shown)


def _split(values: NDArray[np.int64], shown: NDArray[Any]) -> MaskImage:
    """Threshold an image of two values or of blended ones; `shown` are its unique values in ascending order."""
    if len(shown) == 1 or (len(shown) == 2 and shown[0] == 0):
        return MaskImage(values != 0)
    top = IGNORE_VALUE if shown[-1] <= IGNORE_VALUE else _DEEP_WHITE
    is_grey = shown[0] >= 0 and shown[-1] <= top
    dark, bright = values * IGNORE_VALUE <= _NEAR * top, values * IGNORE_VALUE >= (IGNORE_VALUE - _NEAR) * top
    between = 1 - dark.mean() - bright.mean()  # 0 for a map of class ids
    if is_grey and dark.any() and bright.any() and 0 < between <= _BLENDED_SHARE:
        return MaskImage(values > top // 2, note=_BLENDED)
    raise DataError("its mask is ambiguous: it has more than two values")


def _values(image: Image.Image) -> NDArray[np.int64]:
    """(H, W) value of each pixel: the grey value, or for other colours a code above 65535. Black is 0."""
    if image.mode in ("1", "L") or image.mode.startswith("I"):
        return np.asarray(image.convert("L") if image.mode == "1" else image).astype(np.int64)
    if image.mode == "F":
        fractions = np.asarray(image)
        if not (np.isfinite(fractions).all() and (fractions == np.rint(fractions)).all()):
            raise DataError("its mask has values that are not integers")
        return fractions.astype(np.int64)
    colours = np.asarray(image.convert("RGB")).astype(np.int64)
    spread = np.ptp(colours, axis=2).max()
    if spread == 0:
        return colours[..., 0]
    numbers: NDArray[np.int64] = colours @ np.array([1 << 32, 1 << 16, 1]) << 16
    if spread <= _GREY_SPREAD and len(np.unique(numbers)) > 2:
        return np.asarray(image.convert("RGB").convert("L")).astype(np.int64)
    return numbers
