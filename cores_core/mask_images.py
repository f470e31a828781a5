"""Read a mask image: which of its pixels are inside, outside, or ignored.

- Values 0, 1 and 255 only, with a 1: 1 is inside, 255 is ignored, 0 is outside.
- Two values, one of them 0 (black): 0 is outside, the other value or colour is inside. A palette means its colours.
- One value: black is an empty mask, anything else covers the whole image.
- Partly transparent, and the visible pixels have one colour: opaque pixels (alpha above 127) are inside.
- Greyscale with blended edges or JPEG noise, at least 95 % of it near black or white: values above 127 are inside.

Everything else is refused, because it does not say where the target ends.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cores_core.errors import DataError
from cores_core.images import DECODE_ERRORS
from cores_core.masks import IGNORE_VALUE
from cores_core.sample import BoolMask

_THRESHOLD = 127
_NEAR = 32
"""Distance from black or white, of 255, within which blended greyscale values count as near."""
_NEAR_SHARE = 0.95


@dataclass(frozen=True)
class MaskImage:
    """Target pixels, (H, W) bool, and ignored ones; `ignore` is None if there are none. The two are disjoint."""

    target: BoolMask
    ignore: BoolMask | None = None


def load_mask_image(path: Path, size_hw: tuple[int, int]) -> MaskImage:
    """Read a mask image of `size_hw` (height, width); see the rules above.

    Raises:
        DataError: it is missing, damaged, of another size, or its values are ambiguous. The message is a reason that
            repeats, without the path.
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
        if alpha.min() < IGNORE_VALUE:
            visible = rgba[..., :3][alpha > _THRESHOLD]
            if len(np.unique(visible, axis=0)) > 1:
                raise DataError("its mask is partly transparent and of several colours, so where it ends is not clear")
            return MaskImage(alpha > _THRESHOLD)
    values = _values(image)
    shown = np.unique(values)
    if 1 in shown and set(shown.tolist()) <= {0, 1, IGNORE_VALUE}:
        ignored = values == IGNORE_VALUE
        return MaskImage(values == 1, ignored if ignored.any() else None)
    if len(shown) == 1 or (len(shown) == 2 and shown[0] == 0):
        return MaskImage(values != 0)
    is_grey = shown[0] >= 0 and shown[-1] <= IGNORE_VALUE
    near = (values <= _NEAR) | (values >= IGNORE_VALUE - _NEAR)
    if is_grey and near.mean() >= _NEAR_SHARE:
        return MaskImage(values > _THRESHOLD)
    raise DataError("its mask has more than two values, so where it ends is not clear")


def _values(image: Image.Image) -> NDArray[np.int64]:
    """(H, W) the value of each pixel: a grey value, or for other colours a number above 255. Black is 0."""
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L") if image.mode == "1" else image).astype(np.int64)
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.int64)
    if image.mode == "F":
        raise DataError("its mask holds fractions, and 8 or 16 bits are needed")
    colours = np.asarray(image.convert("RGB")).astype(np.int64)
    if (colours[..., 0] == colours[..., 1]).all() and (colours[..., 0] == colours[..., 2]).all():
        return colours[..., 0]
    numbers: NDArray[np.int64] = colours @ np.array([1 << 32, 1 << 16, 1]) << 8
    return numbers
