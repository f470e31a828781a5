"""Boolean masks: run-length coding, boxes, thresholds. The home of the pixel-ignore rule.

RLE is COCO's, `{"size": [H, W], "counts": str}`, as pycocotools reads and writes it.
"""

from typing import Any, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from cores_core.errors import DataError
from cores_core.sample import BoolMask

IGNORE_VALUE = 255
"""Pixels of this value in a label file count nowhere. In memory they are a bool map."""


class Rle(TypedDict):
    """COCO run-length encoding; `size` is (height, width), `counts` its compressed text."""

    size: list[int]
    counts: str


def encode_rle(mask: BoolMask) -> Rle:
    """Encode a (H, W) mask."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Rle(size=[int(n) for n in rle["size"]], counts=rle["counts"].decode("ascii"))


def decode_rle(rle: Rle) -> BoolMask:
    """Decode into a (H, W) mask."""
    decoded: BoolMask = coco.decode({"size": rle["size"], "counts": rle["counts"].encode("ascii")}).astype(bool)
    return decoded


def merge_rles(rles: list[Rle]) -> Rle:
    """The union of masks of one size."""
    merged = coco.merge([{"size": r["size"], "counts": r["counts"].encode("ascii")} for r in rles])
    return Rle(size=[int(n) for n in merged["size"]], counts=merged["counts"].decode("ascii"))


def segmentation_rle(segmentation: Any, size_hw: tuple[int, int]) -> Rle:
    """The mask of a COCO `segmentation`: polygons, an uncompressed RLE or a compressed one.

    Polygons are filled as pycocotools fills them; those of fewer than three points are left out.

    Raises:
        DataError: it is none of these, of another size, or empty.
    """
    height, width = size_hw
    try:
        if isinstance(segmentation, dict):
            if list(segmentation["size"]) != [height, width]:
                raise DataError(f"its mask is of size {segmentation['size']}, not {[height, width]}")
            counts = segmentation["counts"]
            coded = coco.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation
        else:
            polygons = [[float(number) for number in polygon] for polygon in segmentation if len(polygon) >= 6]
            if not polygons:
                raise DataError("it has no polygon of three points")
            coded = coco.merge(coco.frPyObjects(polygons, height, width))
        text = coded["counts"]
        rle = Rle(size=[height, width], counts=text if isinstance(text, str) else text.decode("ascii"))
        if coco.decode({"size": rle["size"], "counts": rle["counts"].encode("ascii")}).shape != size_hw:
            raise DataError("its mask does not fill its image")
    except (KeyError, TypeError, ValueError, IndexError, UnicodeError, AttributeError) as error:
        raise DataError(f"not a segmentation: {type(error).__name__} {error}") from error
    return rle


def rle_area(rle: Rle) -> int:
    """Number of pixels inside."""
    return int(coco.area({"size": rle["size"], "counts": rle["counts"].encode("ascii")}))


def resize_mask(mask: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring a (H, W) map of coverage, 0-255, to another size; each pixel is the mean of what it covers."""
    if mask.shape == size_hw:
        return mask
    return np.asarray(cv2.resize(mask, size_hw[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)


def binarize(logits: NDArray[np.float32]) -> BoolMask:
    """Threshold logits at 0, that is at probability one half."""
    return logits > 0


def bounding_box(mask: BoolMask) -> tuple[int, int, int, int]:
    """Smallest x, y, width, height around a mask, in pixels; all 0 for an empty one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return 0, 0, 0, 0
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
