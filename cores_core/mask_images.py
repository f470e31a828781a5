"""Read mask images: which pixels are inside, outside or ignored.

Values are 8-, 16- or 32-bit integers. The first rule that applies:

- Alpha is not constant, and the pixels inside have a single colour: alpha is the mask, by the rules for grey values.
- 1 occurs, and no values but 0, 1 and 255: 0 is outside, 1 inside, 255 ignored.
- Two values, one of them 0 (black): 0 is outside, the other value or colour is inside. Palette images are read by
  their colours.
- A single value: 0 (black) is an empty mask, any other covers the whole image.
- Greyscale with blended edges or JPEG noise: near black and near white values, and at most 5 % of the pixels between:
  values above half are inside, and the result has a note.

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
from cores_core.images import DECODE_ERRORS, check_size, turn_upright
from cores_core.masks import IGNORE_VALUE, Rle, encode_rle, segmentation_rle
from cores_core.sample import BoolMask

_WHITE_16_BIT = 65535
_NEAR = 32
"""Values within this distance of black or white, on a scale of 255, are near black or near white."""
_BLENDED_SHARE = 0.05
"""Maximum share of pixels between near black and near white."""
_GREY_SPREAD = 16
"""Maximum difference, on a scale of 255, between the channels of a colour image that is read as greyscale."""
_ROWS_AT_ONCE = 256
"""Rows that are processed together, to bound memory."""
_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")
_BLENDED = "its mask has blended edges: values above half are inside"
_AMBIGUOUS = "its mask is ambiguous: its values are neither black and one other, nor 0, 1 and 255"


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
    """Read a mask image by the rules in the module's docstring, after its EXIF rotation.

    Args:
        path: path, or an open binary file.
        size_hw: (height, width) that it must have after rotation.

    Raises:
        DataError: it is missing, damaged, of another size, or ambiguous. The message does not contain the path, so that
            equal errors can be counted.
    """
    try:
        with Image.open(path) as image:
            is_turned = image.size == size_hw
            check_size(*image.size)
            upright = turn_upright(image)
            if upright.size != size_hw[::-1]:
                advice = ": it has the size of the image before its EXIF rotation" if is_turned else ""
                raise DataError(f"its mask is of another size than its image{advice}")
            return _interpret(upright, is_lossy=image.format in _LOSSY)
    except FileNotFoundError as error:
        raise DataError("its mask is missing") from error
    except DECODE_ERRORS as error:
        raise DataError(f"its mask cannot be read ({type(error).__name__})") from error


def _interpret(image: Image.Image, is_lossy: bool) -> MaskImage:
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        alpha = rgba[..., 3]
        if alpha.min() < alpha.max():
            mask = _split(alpha, is_lossy)
            if not _has_one_colour(rgba[..., :3], mask.target):
                raise DataError("its mask is ambiguous: partly transparent, with several colours inside")
            return mask
        del rgba, alpha
    if image.mode in ("1", "L") or image.mode.startswith("I") or image.mode == "F":
        return _split(_values(image), is_lossy)
    colours = np.asarray(image.convert("RGB"))
    spread = max(map(_find_spread, _blocks(colours)))
    if spread == 0:
        return _split(colours[..., 0], is_lossy)
    found = _split_colours(colours)
    if found is None and spread > _GREY_SPREAD:
        raise DataError(_AMBIGUOUS)
    return found or _split(np.asarray(image.convert("RGB").convert("L")), is_lossy)


def _split_colours(colours: NDArray[np.uint8]) -> MaskImage | None:
    """Pixels of (H, W, 3) uint8 colours that are not black, if they all have one colour; else None."""
    is_inside = (colours[..., 0] | colours[..., 1] | colours[..., 2]) > 0
    return MaskImage(is_inside) if _has_one_colour(colours, is_inside) else None


def _has_one_colour(colours: NDArray[np.uint8], is_inside: BoolMask) -> bool:
    """Whether all pixels of (H, W, 3) inside a mask have the same colour."""
    row, column = divmod(int(is_inside.argmax()), is_inside.shape[1])
    other = [colours[..., channel] != colours[row, column, channel] for channel in range(colours.shape[2])]
    return not ((other[0] | other[1] | other[2]) & is_inside).any()


def _find_spread(colours: NDArray[np.uint8]) -> int:
    """Largest difference between the channels of a pixel of (H, W, 3)."""
    red, green, blue = (colours[..., channel] for channel in range(3))
    highest, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return int((highest - lowest).max())


def _split(values: NDArray[Any], is_lossy: bool) -> MaskImage:
    """Apply the rules for grey values to (H, W) integers.

    Args:
        is_lossy: whether compression may have changed the values. If not, near black and near white values are noise
            only where values between occur, too; else they are class ids, which are ambiguous.
    """
    shown, counts = _count(values)
    if 1 in shown and set(shown.tolist()) <= {0, 1, IGNORE_VALUE}:
        ignored = values == IGNORE_VALUE
        return MaskImage(values == 1, ignored if ignored.any() else None)
    if len(shown) == 1 or (len(shown) == 2 and shown[0] == 0):
        return MaskImage(values != 0)
    top = IGNORE_VALUE if shown[-1] <= IGNORE_VALUE else _WHITE_16_BIT
    is_grey = shown[0] >= 0 and shown[-1] <= top
    dark, bright = shown * IGNORE_VALUE <= _NEAR * top, shown * IGNORE_VALUE >= (IGNORE_VALUE - _NEAR) * top
    between = counts[~(dark | bright)].sum() / values.size
    if is_grey and dark.any() and bright.any() and (between > 0 or is_lossy) and between <= _BLENDED_SHARE:
        return MaskImage(values > top // 2, note=_BLENDED)
    raise DataError(_AMBIGUOUS)


def _count(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The values that occur, ascending, and their numbers of pixels; block by block, to bound memory."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        counts = sum(np.bincount(block.ravel(), minlength=_WHITE_16_BIT + 1) for block in _blocks(values))
        shown = np.flatnonzero(counts)
        return shown, np.asarray(counts)[shown]
    shown, counts = np.unique(values, return_counts=True)
    return shown.astype(np.int64), counts


def _blocks(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values[top : top + _ROWS_AT_ONCE] for top in range(0, len(values), _ROWS_AT_ONCE)]


def _values(image: Image.Image) -> NDArray[Any]:
    """(H, W) integers of an image with one channel."""
    if image.mode != "F":
        return np.asarray(image.convert("L") if image.mode == "1" else image)
    fractions = np.asarray(image)
    if not ((np.abs(fractions) < 1 << 31).all() and (fractions == np.rint(fractions)).all()):  # also False for NaN
        raise DataError("its mask has values that are not integers")
    return fractions.astype(np.int32)
