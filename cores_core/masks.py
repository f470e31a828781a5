"""Boolean masks: COCO run-length encoding (RLE), polygons, boxes, thresholds, and the value of ignored pixels.

An RLE is `{"size": [H, W], "counts": str}`, as read and written by pycocotools.
"""

from typing import Any, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from cores_core.errors import DataError
from cores_core.sample import BoolMask

POLYGON_REACH = 10
"""Polygons that extend beyond the image by more than this multiple of its longer side are rejected: they are annotation
errors, and could exhaust memory."""
IGNORE_VALUE = 255
"""Value of ignored pixels in label files, excluded from losses and scores. In memory they are a bool mask."""


class Rle(TypedDict):
    """COCO run-length encoding; `size` is [height, width], `counts` the compressed text."""

    size: list[int]
    counts: str


def encode_rle(mask: BoolMask) -> Rle:
    """Encode a (H, W) bool mask."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Rle(size=[int(n) for n in rle["size"]], counts=rle["counts"].decode("ascii"))


def decode_rle(rle: Rle) -> BoolMask:
    """Decode to a (H, W) bool mask."""
    decoded: BoolMask = coco.decode({"size": rle["size"], "counts": rle["counts"].encode("ascii")}).astype(bool)
    return decoded


def merge_rles(rles: list[Rle]) -> Rle:
    """Union of masks of the same size."""
    merged = coco.merge([{"size": r["size"], "counts": r["counts"].encode("ascii")} for r in rles])
    return Rle(size=[int(n) for n in merged["size"]], counts=merged["counts"].decode("ascii"))


def segmentation_rle(segmentation: Any, size_hw: tuple[int, int]) -> Rle:
    """Convert a COCO `segmentation` to an RLE of `size_hw` (height, width).

    Accepts polygons, an uncompressed or a compressed RLE. Polygons are filled like in pycocotools; those of fewer than
    three points are skipped. The input is validated first, because pycocotools' C code does not check it.

    Raises:
        DataError: it is none of these, has another size, or has no valid polygon.
    """
    height, width = size_hw
    if not isinstance(segmentation, dict | list | tuple):
        raise DataError("not a segmentation (a list of polygons or a COCO RLE)")
    if any(isinstance(part, dict) for part in segmentation):
        raise DataError("a list of RLEs in place of one")
    try:
        if not isinstance(segmentation, dict):
            coded = coco.merge(coco.frPyObjects(_check_polygons(segmentation, size_hw), height, width))
            return Rle(size=[height, width], counts=coded["counts"].decode("ascii"))
        if list(segmentation["size"]) != [height, width]:
            raise DataError(f"its mask is of size {segmentation['size']}, not {[height, width]}")
        counts = segmentation["counts"]
        runs = np.asarray(counts, dtype=np.int64) if isinstance(counts, list) else _read_runs(counts)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"not a segmentation ({type(error).__name__}: {error})") from error
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
        raise DataError("the runs of its mask do not fill its image")
    coded = coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return Rle(size=[height, width], counts=coded["counts"].decode("ascii"))


def _check_polygons(polygons: Any, size_hw: tuple[int, int]) -> list[list[float]]:
    if isinstance(polygons, list) and polygons and all(isinstance(number, int | float) for number in polygons):
        raise DataError("one flat polygon: write a list of polygons, [[x, y, x, y, ...]]")
    if isinstance(polygons, list) and any(_is_list_of_points(polygon) for polygon in (polygons, *polygons)):
        raise DataError("polygons of [x, y] points: write each polygon as one flat list, [[x, y, x, y, ...]]")
    kept = [[float(number) for number in polygon] for polygon in polygons if len(polygon) >= 6]
    if not kept:
        raise DataError("it has no polygon of three points")
    reach = POLYGON_REACH * max(size_hw)
    for polygon in kept:
        if not np.isfinite(polygon).all():
            raise DataError("a coordinate is not a finite number")
        if len(polygon) % 2:
            raise DataError("a polygon has an odd number of coordinates")
        if not all(-reach <= number <= reach for number in polygon):
            raise DataError("a polygon lies far outside its image")
    return kept


def _is_list_of_points(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) > 2 and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
    )


def _read_runs(text: str | bytes) -> NDArray[np.int64]:
    """Decode run lengths from COCO's compressed text: 5 bits per character, deltas to the run two positions before."""
    values = (
        np.frombuffer(text if isinstance(text, bytes) else text.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    )
    if len(values) == 0 or values.min() < 0 or values.max() > 63 or values[-1] & 32:
        raise ValueError("counts are not in COCO's format")
    ends = np.flatnonzero(values & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 11:
        raise ValueError("a run is too long")
    shifts = 5 * (np.arange(len(values)) - np.repeat(starts, ends - starts + 1))
    runs = np.add.reduceat((values & 31) << shifts, starts)
    runs -= np.where(values[ends] & 16, np.int64(1) << (5 * (ends - starts + 1)), 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs


def rle_area(rle: Rle) -> int:
    """Number of pixels inside the mask."""
    return int(coco.area({"size": rle["size"], "counts": rle["counts"].encode("ascii")}))


def resize_mask(mask: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a (H, W) coverage map, 0-255, by area averaging."""
    if mask.shape == size_hw:
        return mask
    return np.asarray(cv2.resize(mask, size_hw[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)


def binarize(logits: NDArray[np.float32]) -> BoolMask:
    """Threshold logits at 0, i.e. at probability 0.5."""
    return logits > 0


def bounding_box(mask: BoolMask) -> tuple[int, int, int, int]:
    """Bounding box x, y, width, height of a mask in pixels; all 0 if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return 0, 0, 0, 0
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
