"""LabelMe shapes become masks, pixel for pixel as ReasonSeg's code draws them under OpenCV 4.8 to 4.10.

Points are truncated to integers, not rounded. A label with "ignore" in it marks pixels that count nowhere, "flag" marks
nothing, and every other label is the target; the case of letters does not matter. The largest shape is painted first, so
that a small target in a large ignored area stays a target, and an ignored hole in a target stays a hole.

Source: `get_mask_from_json` of LISA (arXiv:2308.00692), which CoReS (arXiv:2404.05673) took over; the fill of OpenCV 4.10,
modules/imgproc/src/drawing.cpp. It is written anew here because from 4.11 on `cv2.fillPoly` draws other borders, and the
ground truth of a benchmark must not depend on the installed version.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cores_core.errors import DataError
from cores_core.masks import IGNORE_VALUE
from cores_core.sample import BoolMask

Ints = NDArray[np.int64]
_FRACTION_BITS = 16  # OpenCV's XY_SHIFT
_TARGET_VALUE = 1
_EDGES_AT_ONCE = 256
"""Bounds the memory: an edge has at most as many pixels as the image has rows or columns."""
_SMALLEST_PARTITION = 16
"""NumPy sorts what is not longer than this plus one by insertion."""


@dataclass(frozen=True)
class LabelmeShape:
    """One shape: its label and its (N, 2) points, x before y, truncated to integers."""

    label: str
    points: Ints


@dataclass(frozen=True)
class LabelmeMasks:
    """What the shapes of one image cover: the target, and pixels that count nowhere. Both (H, W), never the same pixel."""

    target: BoolMask
    ignore: BoolMask


@dataclass(frozen=True)
class Patch:
    """A polygon's pixels in the part of the image that it reaches; `top` and `left` say where that part lies."""

    top: int
    left: int
    mask: BoolMask

    def paint(self, canvas: NDArray[np.uint8], value: int) -> None:
        """Set the polygon's pixels of a (H, W) canvas."""
        height, width = self.mask.shape
        canvas[self.top : self.top + height, self.left : self.left + width][self.mask] = value


def parse_shapes(entries: Any) -> list[LabelmeShape]:
    """Check the list `shapes` of a LabelMe file.

    Raises:
        DataError: a shape cannot be drawn; the message is a reason that repeats, without the value.
    """
    if not isinstance(entries, list):
        raise DataError("shapes are not a list")
    return [_parse_shape(entry) for entry in entries]


def draw_shapes(shapes: Sequence[LabelmeShape], size_hw: tuple[int, int]) -> LabelmeMasks:
    """Paint the shapes of one image; those of one or two points are dots and lines, as in the original."""
    drawn = [shape for shape in shapes if shape.label.lower() != "flag"]
    values = [IGNORE_VALUE if "ignore" in shape.label.lower() else _TARGET_VALUE for shape in drawn]
    order = list(range(len(drawn)))
    if len(set(values)) > 1:  # in one colour, the order does not show
        areas = [np.count_nonzero(draw_polygon(shape.points, size_hw).mask) for shape in drawn]
        order = _unstable_order(areas)[::-1]
    canvas = np.zeros(size_hw, dtype=np.uint8)
    for index in order:
        draw_polygon(drawn[index].points, size_hw).paint(canvas, values[index])
    return LabelmeMasks(target=canvas == _TARGET_VALUE, ignore=canvas == IGNORE_VALUE)


def draw_polygon(points: Ints, size_hw: tuple[int, int]) -> Patch:
    """The pixels that `cv2.polylines` and `cv2.fillPoly` of OpenCV 4.8 set, of 8-connected lines one pixel wide.

    Args:
        points: (N, 2) x and y, N > 0, of 32 bits; they may lie outside of the image.
        size_hw: height and width of the image.
    """
    ends = np.clip([points.min(axis=0), points.max(axis=0) + 1], 0, size_hw[::-1])
    (left, top), (right, bottom) = ends.tolist()
    lines = np.stack([np.roll(points, 1, axis=0), points], axis=1)
    pixels = np.zeros((bottom - top, right - left), dtype=bool)
    for x, y in _outline(lines, size_hw):
        pixels[y - top, x - left] = True
    flips = np.zeros((bottom - top, right - left + 1), dtype=np.uint8)  # one column more, for what ends at the border
    for x, y in _crossings(lines, top, bottom):
        whole, fraction = x >> _FRACTION_BITS, x & ((1 << _FRACTION_BITS) - 1)
        on_pixel = (fraction == 0) & (left <= whole) & (whole < right)
        pixels[y[on_pixel] - top, whole[on_pixel] - left] = True
        column = np.clip(whole + 1 - left, 0, right - left)  # the first pixel to the right of the crossing
        np.bitwise_xor.at(flips.reshape(-1), (y - top) * flips.shape[1] + column, 1)
    # Between the first and the second crossing of a row, the third and the fourth ..., ends included.
    pixels |= np.bitwise_xor.accumulate(flips[:, :-1], axis=1).view(np.bool_)
    return Patch(top, left, pixels)


def _parse_shape(entry: Any) -> LabelmeShape:
    label, given = (entry.get("label"), entry.get("points")) if isinstance(entry, dict) else (None, None)
    if not isinstance(label, str) or not isinstance(given, list):
        raise DataError("shape without a label or points")
    if not given:
        raise DataError("shape without a label or points")
    try:
        points = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError("points are not pairs of numbers") from error
    if points.ndim != 2 or points.shape[1] != 2:
        raise DataError("points are not pairs of numbers")
    if not (np.abs(points) < 2**31).all():  # nor is NaN
        raise DataError("a point lies far outside its image")
    return LabelmeShape(label, points.astype(np.int64))


def _unstable_order(areas: Sequence[int]) -> list[int]:
    """The indices that sort the areas, equal ones as NumPy 1.24's `argsort` leaves them, which the original code used.

    That is quicksort with the median of three. Later versions leave equal ones in an order that depends on the processor.
    """
    order = list(range(len(areas)))
    parts = [(0, len(areas) - 1)]
    while parts:
        low, high = parts.pop()
        if high - low <= _SMALLEST_PARTITION:
            order[low : high + 1] = sorted(order[low : high + 1], key=areas.__getitem__)
            continue
        middle = (low + high) // 2
        for i, j in ((low, middle), (middle, high), (low, middle)):
            if areas[order[j]] < areas[order[i]]:
                order[i], order[j] = order[j], order[i]
        pivot = areas[order[middle]]
        i, j = low, high - 1
        order[middle], order[j] = order[j], order[middle]
        while True:
            i = next(k for k in range(i + 1, high) if areas[order[k]] >= pivot)
            j = next(k for k in range(j - 1, low - 1, -1) if areas[order[k]] <= pivot)
            if i >= j:
                break
            order[i], order[j] = order[j], order[i]
        order[i], order[high - 1] = order[high - 1], order[i]
        parts += [(low, i - 1), (i + 1, high)]
    return order


def _outline(lines: Ints, size_hw: tuple[int, int]) -> Iterator[tuple[Ints, Ints]]:
    """x and y of the pixels of (N, 2, 2) lines, a batch at a time: Bresenham's, from left to right."""
    for start in range(0, len(lines), _EDGES_AT_ONCE):
        clipped = _clip(lines[start : start + _EDGES_AT_ONCE], size_hw)
        backwards = clipped[:, 1, 0] < clipped[:, 0, 0]
        clipped[backwards] = clipped[backwards, ::-1]
        spans = clipped[:, 1] - clipped[:, 0]
        lengths = np.abs(spans)
        major, minor = lengths.max(axis=1), lengths.min(axis=1)
        line, step = _count_up(major + 1)
        divisor = np.maximum(2 * major, 1)[line]
        sideways = np.maximum(2 * minor[line] * step + major[line] - 1, 0) // divisor
        is_steep = (lengths[:, 1] > lengths[:, 0])[line]
        x = clipped[line, 0, 0] + np.where(is_steep, sideways, step)
        y = clipped[line, 0, 1] + np.where(is_steep, step, sideways) * np.sign(spans[line, 1])
        yield x, y


def _clip(lines: Ints, size_hw: tuple[int, int]) -> Ints:
    """Those of the (N, 2, 2) lines that may touch the image, cut at its borders, top and bottom first."""
    lines = lines.copy()
    for axis, length in ((1, size_hw[0]), (0, size_hw[1])):
        is_beside = (lines[:, :, axis] < 0).all(axis=1) | (lines[:, :, axis] >= length).all(axis=1)
        lines = lines[~is_beside]
        for end in (0, 1):
            inside = np.clip(lines[:, end, axis], 0, length - 1)
            moved = inside != lines[:, end, axis]
            spans = (lines[moved, 1] - lines[moved, 0]).astype(np.float64)
            distance = (inside - lines[:, end, axis])[moved].astype(np.float64)
            lines[moved, end, 1 - axis] += (distance * spans[:, 1 - axis] / spans[:, axis]).astype(np.int64)
            lines[moved, end, axis] = inside[moved]
    return lines


def _crossings(lines: Ints, top: int, bottom: int) -> Iterator[tuple[Ints, Ints]]:
    """Where (N, 2, 2) lines cross the rows from top to bottom: x with 16 fraction bits, and y; a batch at a time.

    A line crosses the row of its upper end, but not that of its lower one. Its slope is truncated, so that a long line
    strays from its lower end: this is the border that OpenCV 4.11 changed.
    """
    lines = lines[lines[:, 0, 1] != lines[:, 1, 1]]
    for start in range(0, len(lines), _EDGES_AT_ONCE):
        batch = lines[start : start + _EDGES_AT_ONCE]
        upwards = batch[:, 1, 1] < batch[:, 0, 1]
        batch = np.where(upwards[:, None, None], batch[:, ::-1], batch)
        (x, y), (spans_x, spans_y) = batch[:, 0].T, (batch[:, 1] - batch[:, 0]).T
        slopes = np.sign(spans_x) * ((np.abs(spans_x) << _FRACTION_BITS) // spans_y)
        first = np.maximum(y, top)
        line, step = _count_up(np.maximum(np.minimum(batch[:, 1, 1], bottom) - first, 0))
        row = first[line] + step
        yield (x[line] << _FRACTION_BITS) + (row - y[line]) * slopes[line], row


def _count_up(counts: Ints) -> tuple[Ints, Ints]:
    """For each of sum(counts) items: whose it is, and its number among those of the same owner, from 0."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
