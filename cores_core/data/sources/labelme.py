"""Rasterise LabelMe shapes to masks, pixel-identical to ReasonSeg's code with OpenCV 4.8 to 4.10.

Supported are polygons, rectangles, circles and masks; a shape without a type is a polygon, as in ReasonSeg. Circles are
drawn with Pillow, as in LabelMe. Lines and points, which have no area, and unknown types are rejected.

Points are truncated to integers, not rounded. Labels, without regard to case: those containing "ignore" mark ignored
pixels, "flag" is skipped, all others are the target. Shapes are painted from the largest to the smallest, so that small
targets in large ignored areas, and ignored holes in targets, are preserved.

Source: `get_mask_from_json` of LISA (arXiv:2308.00692), also used by CoReS (arXiv:2404.05673); filling follows OpenCV
4.8 (modules/imgproc/src/drawing.cpp). It is reimplemented here because `cv2.fillPoly` draws other borders since 4.11
(opencv/opencv#26187), and the ground truth of a benchmark must not depend on the installed version.
"""

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cores_core.errors import DataError
from cores_core.images import DECODE_ERRORS
from cores_core.masks import IGNORE_VALUE, POLYGON_REACH
from cores_core.sample import BoolMask

Ints = NDArray[np.int64]
_FRACTION_BITS = 16  # OpenCV's XY_SHIFT
_TARGET_VALUE = 1
_LINES_AT_ONCE = 256
"""Lines per batch, to bound memory."""
_FEW = 16
"""Up to this number of elements, NumPy uses insertion sort, which is stable."""


@dataclass(frozen=True)
class LabelmeShape:
    """One shape.

    Attributes:
        label: whether it is the target or ignored, see the module's docstring.
        points: (N, 2) points (x, y), truncated to integers: corners of a polygon, or of the box of other shapes.
        radius: of a circle around the exact `centre` (x, y), in pixels; None for other shapes.
        pixels: (h, w) bool mask inside the box of a mask shape; None for other shapes.
    """

    label: str
    points: Ints
    radius: float | None = None
    centre: tuple[float, float] = (0.0, 0.0)
    pixels: BoolMask | None = None

    @property
    def is_ignored(self) -> bool:
        """Whether the shape marks ignored pixels."""
        return "ignore" in self.label.lower()


@dataclass(frozen=True)
class LabelmeMasks:
    """Target and ignored pixels of an image, both (H, W) bool and disjoint."""

    target: BoolMask
    ignore: BoolMask


@dataclass(frozen=True)
class Patch:
    """A shape's (h, w) mask within its bounding box, whose corner in the image is (`left`, `top`)."""

    top: int
    left: int
    mask: BoolMask

    def paint(self, canvas: NDArray[np.uint8], value: int) -> None:
        """Set the shape's pixels in a (H, W) canvas to a value."""
        height, width = self.mask.shape
        canvas[self.top : self.top + height, self.left : self.left + width][self.mask] = value


def parse_shapes(entries: Any) -> list[LabelmeShape]:
    """Parse and validate the list `shapes` of a LabelMe file, without flags.

    Raises:
        DataError: a shape cannot be drawn. The message has no values, so that equal reasons can be counted.
    """
    if not isinstance(entries, list):
        raise DataError("shapes are not a list")
    shapes = [_parse_shape(entry) for entry in entries]
    return [shape for shape in shapes if shape is not None]


def draw_shapes(shapes: Sequence[LabelmeShape], size_hw: tuple[int, int]) -> LabelmeMasks:
    """Rasterise the shapes of one image; polygons of one or two points give dots and lines, as in the original.

    Raises:
        DataError: all targets are outside the image, or a circle is too large.
    """
    values = [IGNORE_VALUE if shape.is_ignored else _TARGET_VALUE for shape in shapes]
    order = list(range(len(shapes)))
    if len(set(values)) > 1:  # otherwise the order does not matter
        areas = [int(draw_shape(shape, size_hw).mask.sum()) for shape in shapes]
        order = _unstable_order(areas)[::-1]
    canvas = np.zeros(size_hw, dtype=np.uint8)
    is_outside = _TARGET_VALUE in values
    for index in order:
        patch = draw_shape(shapes[index], size_hw)
        patch.paint(canvas, values[index])
        is_outside &= values[index] != _TARGET_VALUE or not patch.mask.any()
    if is_outside:
        raise DataError("its target lies outside its image")
    return LabelmeMasks(target=canvas == _TARGET_VALUE, ignore=canvas == IGNORE_VALUE)


def check_drawn_size(tree: Any, size_hw: tuple[int, int]) -> None:
    """Check `imageHeight` and `imageWidth` of a LabelMe file, if present, against the image size.

    Raises:
        DataError: they differ.
    """
    for key, side in zip(("imageHeight", "imageWidth"), size_hw, strict=True):
        if tree.get(key) not in (None, side):
            raise DataError("shapes drawn on an image of another size (imageWidth, imageHeight)")


def draw_shape(shape: LabelmeShape, size_hw: tuple[int, int]) -> Patch:
    """Rasterise one shape in an image of size (height, width)."""
    if shape.radius is not None:
        return _draw_circle(shape.centre, shape.radius, size_hw)
    if shape.pixels is not None:
        left, top = shape.points[0].tolist()
        x, y = max(left, 0), max(top, 0)
        height, width = size_hw
        return Patch(y, x, shape.pixels[y - top : max(height - top, 0), x - left : max(width - left, 0)])
    return draw_polygon(shape.points, size_hw)


def draw_polygon(points: Ints, size_hw: tuple[int, int]) -> Patch:
    """Rasterise a polygon like OpenCV 4.8's `cv2.polylines`, one pixel wide, followed by `cv2.fillPoly`.

    Args:
        points: (N, 2) points (x, y), N > 0, within 32 bits; may be outside the image.
        size_hw: height and width of the image.
    """
    corners = np.clip([points.min(axis=0), points.max(axis=0) + 1], 0, size_hw[::-1])
    (left, top), (right, bottom) = corners.tolist()
    lines = np.stack([np.roll(points, 1, axis=0), points], axis=1)
    clipped, is_visible = _clip(lines, size_hw)
    pixels = np.zeros((bottom - top, right - left), dtype=bool)
    for x, y in _walk(clipped[is_visible]):
        pixels[y - top, x - left] = True
    # Even-odd filling: in each row, fill between crossings 1 and 2, 3 and 4, ..., as a cumulative XOR of the crossings.
    flips = np.zeros((bottom - top, right - left + 1), dtype=np.uint8)
    for x, y in _cross_rows(lines, clipped, top, bottom):
        is_inside = (left <= x) & (x < right)
        pixels[y[is_inside] - top, x[is_inside] - left] = True
        behind = np.clip(x + 1 - left, 0, right - left)
        np.bitwise_xor.at(flips.reshape(-1), (y - top) * flips.shape[1] + behind, 1)
    pixels |= np.bitwise_xor.accumulate(flips[:, :-1], axis=1).view(np.bool_)
    return Patch(top, left, pixels)


def _parse_shape(entry: Any) -> LabelmeShape | None:
    label, given = (entry.get("label"), entry.get("points")) if isinstance(entry, dict) else (None, None)
    if isinstance(label, str) and label.lower() == "flag":
        return None
    if not isinstance(label, str) or not isinstance(given, list) or not given:
        raise DataError("shape without a label or points")
    try:
        points = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError("points are not pairs of numbers") from error
    if points.ndim != 2 or points.shape[1] != 2:
        raise DataError("points are not pairs of numbers")
    if not (np.abs(points) < 2**31).all():  # also False for NaN
        raise DataError("a point lies far outside its image")
    kind = entry.get("shape_type") or "polygon"
    corners = points.astype(np.int64)
    if kind == "polygon" or (kind == "rectangle" and len(points) == 4):
        return LabelmeShape(label, corners)
    if kind not in ("rectangle", "circle", "mask"):
        raise DataError(f"a shape of type {str(kind)[:20]}, which is not polygon, rectangle, circle or mask")
    if len(points) != 2:
        raise DataError(f"a {kind} of {len(points)} points, not two")
    if kind == "circle":
        centre, rim = points.tolist()
        return LabelmeShape(label, corners, radius=math.dist(centre, rim), centre=(centre[0], centre[1]))
    if kind == "mask":
        return LabelmeShape(label, corners, pixels=_decode_pixels(entry.get("mask"), corners))
    (left, top), (right, bottom) = corners.tolist()
    return LabelmeShape(label, np.array([[left, top], [right, top], [right, bottom], [left, bottom]]))


def _decode_pixels(given: Any, corners: Ints) -> BoolMask:
    """Decode the base64 image of a mask shape, whose size is that of the box with inclusive `corners`; (h, w) bool."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(given))) as image:
            if image.size != tuple(corners[1] - corners[0] + 1):
                raise DataError("the pixels of a mask shape do not fit its points")
            return np.asarray(image.convert("L")) > 0
    except (TypeError, *DECODE_ERRORS) as error:
        raise DataError("the pixels of a mask shape cannot be read") from error


def _draw_circle(centre: tuple[float, float], radius: float, size_hw: tuple[int, int]) -> Patch:
    if radius > POLYGON_REACH * max(size_hw):
        raise DataError("a circle reaches far outside its image")
    canvas = Image.new("1", size_hw[::-1])
    (x, y) = centre
    ImageDraw.Draw(canvas).ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)
    return Patch(0, 0, np.asarray(canvas))


def _unstable_order(areas: Sequence[int]) -> list[int]:
    """Indices that sort the areas, with ties ordered as by `argsort` of NumPy 1.24, which the original code used.

    It is a median-of-three quicksort. In later versions the order of ties depends on the CPU.
    """
    order = list(range(len(areas)))
    parts = [(0, len(areas) - 1)]
    while parts:
        low, high = parts.pop()
        if high - low < _FEW:
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


def _clip(lines: Ints, size_hw: tuple[int, int]) -> tuple[Ints, NDArray[np.bool_]]:
    """Clip (N, 2, 2) lines to the image, top and bottom first, and return which are not entirely outside, (N,).

    Lines that turn out to be outside only left or right stay clipped at top and bottom, which affects the filling.
    """
    lines = lines.copy()
    is_visible = np.ones(len(lines), dtype=bool)
    for axis in (1, 0):
        last = size_hw[1 - axis] - 1
        is_beside = (lines < 0).all(axis=1) | (lines >= np.array(size_hw[::-1])).all(axis=1)
        is_visible &= ~np.any(is_beside, axis=1)
        for end in (0, 1):
            inside = np.clip(lines[:, end, axis], 0, last)
            moved = is_visible & (inside != lines[:, end, axis])
            spans = (lines[moved, 1] - lines[moved, 0]).astype(np.float64)
            distance = (inside - lines[:, end, axis])[moved].astype(np.float64)
            lines[moved, end, 1 - axis] += (distance * spans[:, 1 - axis] / spans[:, axis]).astype(np.int64)
            lines[moved, end, axis] = inside[moved]
    return lines, is_visible


def _walk(lines: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield x and y of the pixels of (N, 2, 2) lines in batches (Bresenham, from left to right)."""
    for start in range(0, len(lines), _LINES_AT_ONCE):
        batch = lines[start : start + _LINES_AT_ONCE]
        backwards = batch[:, 1, 0] < batch[:, 0, 0]
        batch = np.where(backwards[:, None, None], batch[:, ::-1], batch)
        spans = batch[:, 1] - batch[:, 0]
        lengths = np.abs(spans)
        major, minor = lengths.max(axis=1), lengths.min(axis=1)
        line, step = _count_up(major + 1)
        divisor = np.maximum(2 * major, 1)[line]
        sideways = np.maximum(2 * minor[line] * step + major[line] - 1, 0) // divisor
        is_steep = (lengths[:, 1] > lengths[:, 0])[line]
        x = batch[line, 0, 0] + np.where(is_steep, sideways, step)
        y = batch[line, 0, 1] + np.where(is_steep, step, sideways) * np.sign(spans[line, 1])
        yield x, y


def _cross_rows(lines: Ints, clipped: Ints, top: int, bottom: int) -> Iterator[tuple[Ints, Ints]]:
    """Yield x and y of the pixels where (N, 2, 2) lines cross the rows from top to bottom, in batches.

    A line includes the row of its upper end but not that of its lower end. Its slope is that of the clipped line unless
    that is horizontal. Only unclipped lines are offset to pixel centres.
    """
    is_level = lines[:, 0, 1] == lines[:, 1, 1]
    is_upwards = (lines[:, 1, 1] < lines[:, 0, 1])[:, None, None]
    lines, clipped = (np.where(is_upwards, ends[:, ::-1], ends)[~is_level] for ends in (lines, clipped))
    for start in range(0, len(lines), _LINES_AT_ONCE):
        whole, cut = lines[start : start + _LINES_AT_ONCE], clipped[start : start + _LINES_AT_ONCE]
        is_cut = (whole != cut).any(axis=(1, 2))
        through = np.where((cut[:, 0, 1] != cut[:, 1, 1])[:, None, None], cut, whole)
        x = (through[:, 0, 0] << _FRACTION_BITS) + np.where(is_cut, 0, 1 << _FRACTION_BITS >> 1)
        run, rise = (through[:, 1] - through[:, 0]).T
        slope = np.sign(run) * ((np.abs(run) << _FRACTION_BITS) // rise)  # truncated as in C
        first, end = np.maximum(whole[:, 0, 1], top), np.minimum(whole[:, 1, 1], bottom)
        line, step = _count_up(np.maximum(end - first, 0))
        row = first[line] + step
        yield (x[line] + (row - through[line, 0, 1]) * slope[line]) >> _FRACTION_BITS, row


def _count_up(counts: Ints) -> tuple[Ints, Ints]:
    """For each of sum(counts) items: the index of its owner, and its index among the items of that owner."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
