"""Convert masks to polygons with OpenCV's contours, in the two coordinate conventions of other tools.

- Corners: integers are pixel corners, as in COCO. pycocotools' filling reproduces the mask exactly.
- Centres: integers are pixel centres and the outline is included, as in OpenCV and Pillow (LabelMe, YOLO). Filling with
  either reproduces the mask exactly.

There is a polygon per 8-connected component. Holes are cut out by bridges: the polygon runs from the outline along a
row to the hole, around it, and back the same way, so that even-odd filling excludes the hole.

A tolerance above 0 simplifies polygons (Ramer-Douglas-Peucker): removed points are at most that far from the polygon.
Ends of bridges are kept.
"""

import itertools
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cores_core.masks import bounding_box
from cores_core.sample import BoolMask

DRAWING_TOLERANCE = 0.5
"""In pixels, for polygons that are edited by hand: halves the points at a cost of 1 % IoU; see docs/formats.md."""
Points = NDArray[np.int32]
"""(N, 2) points (x, y)."""
LEAST_POINTS = 3
"""Minimum number of points accepted by other tools; polygons of a single pixel or line repeat their first point."""


@dataclass(frozen=True)
class _Outline:
    """A closed curve: its (N, 2) points, and for each whether a bridge ends there, (N,)."""

    points: Points
    is_anchor: NDArray[np.bool_]


def trace_corners(mask: BoolMask, tolerance: float = 0.0) -> list[Points]:
    """Polygons of a (H, W) mask along pixel edges, with x in 0 to W and y in 0 to H; none for an empty mask.

    Args:
        tolerance: maximum distance of removed points from the polygon, in pixels.
    """
    return _trace(mask, tolerance, by_corners=True)


def trace_centres(mask: BoolMask, tolerance: float = 0.0) -> list[Points]:
    """Polygons of a (H, W) mask through its border pixels, with x in 0 to W - 1 and y in 0 to H - 1.

    Args:
        tolerance: maximum distance of removed points from the polygon, in pixels.
    """
    return _trace(mask, tolerance, by_corners=False)


def _trace(mask: BoolMask, tolerance: float, by_corners: bool) -> list[Points]:
    left, top, width, height = bounding_box(mask)
    if not width:
        return []
    cropped = mask[top : top + height, left : left + width].astype(np.uint8)
    if by_corners:  # at double resolution each quarter of a pixel is at one of its corners
        cropped = cropped.repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(cropped, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    curves = [np.asarray(contour, dtype=np.int32).reshape(-1, 2) for contour in contours]
    if by_corners:
        curves = [_without_repeats((curve + 1) // 2) for curve in curves]
    outer = np.asarray(hierarchy, dtype=np.int64).reshape(-1, 4)[:, 3]  # of a hole the outline around it, else -1
    holes: dict[int, list[Points]] = {}
    for curve, parent in zip(curves, outer.tolist(), strict=True):
        holes.setdefault(parent, []).append(curve)
    offset = np.array([left, top], dtype=np.int32)
    return [
        _simplify(_cut_holes(curve, holes.get(index, [])), tolerance) + offset
        for index, (curve, parent) in enumerate(zip(curves, outer.tolist(), strict=True))
        if parent < 0
    ]


def _without_repeats(curve: Points) -> Points:
    """Remove consecutive duplicate points from a closed curve."""
    is_new: NDArray[np.bool_] = (curve != np.roll(curve, 1, axis=0)).any(axis=1)
    return curve[is_new]


def _cut_holes(outline: Points, holes: list[Points]) -> _Outline:
    """Connect each hole from its leftmost point to the nearest point to the left, of the outline or of another hole.

    All pixels between the two are inside the mask. The other hole starts further left, so bridges cannot form a cycle.
    """
    starts = [int(np.lexsort((hole[:, 1], hole[:, 0]))[0]) for hole in holes]
    curves = [outline, *(np.roll(hole, -start, axis=0) for hole, start in zip(holes, starts, strict=True))]
    points = np.concatenate(curves)
    owners = np.repeat(np.arange(len(curves)), [len(curve) for curve in curves])
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    places = points[:, 1].astype(np.int64) * (int(points[:, 0].max()) + 1) + points[:, 0]
    order = np.argsort(places, kind="stable")
    last = np.searchsorted(places[order], places[firsts], side="right") - 1
    bridges: list[list[tuple[int, int]]] = [[] for _ in curves]
    for hole in range(1, len(curves)):
        while owners[order[last[hole]]] == hole:
            last[hole] -= 1
        end = int(order[last[hole]])
        bridges[owners[end]].append((end - int(firsts[owners[end]]), hole))
    return _walk(curves, list(map(sorted, bridges)))


def _walk(curves: list[Points], bridges: list[list[tuple[int, int]]]) -> _Outline:
    """Join the curves to one: follow the first, with a detour around another curve at each bridge.

    Args:
        bridges: for each curve its pairs, in order, of a point index and the curve that a bridge leads to.
    """
    pieces: list[Points] = []
    is_anchor: list[NDArray[np.bool_]] = []
    waiting = [(0, 0, 0)]  # index of a curve, of a point on it, and the number of its bridges already followed
    while waiting:
        number, place, behind = waiting.pop()
        curve = curves[number]
        if behind < len(bridges[number]):
            end, hole = bridges[number][behind]
            waiting += [(number, end, behind + 1), (hole, 0, 0)]
            piece = curve[place : end + 1]
        elif number:
            piece = np.concatenate([curve[place:], curve[:1]])
        else:
            piece = curve[place:]
        anchors = np.zeros(len(piece), dtype=bool)
        anchors[0] = number > 0 or behind > 0
        anchors[-1] |= number > 0 or behind < len(bridges[number])
        pieces.append(piece)
        is_anchor.append(anchors)
    return _Outline(np.concatenate(pieces), np.concatenate(is_anchor))


def _simplify(outline: _Outline, tolerance: float) -> Points:
    """Simplify an outline, keeping anchors. If fewer than `LEAST_POINTS` remain, only collinear points are removed."""
    steps = np.diff(outline.points, axis=0, prepend=outline.points[-1:])
    turns = (steps != np.roll(steps, -1, axis=0)).any(axis=1)  # steps lead to one of eight neighbours
    kept = outline.is_anchor | turns if tolerance == 0 else _choose_stretches(outline, tolerance)
    chosen = outline.points[kept]
    if len(chosen) < LEAST_POINTS and tolerance > 0:
        return _simplify(outline, tolerance=0.0)
    if not len(chosen):  # a single pixel
        chosen = outline.points[:1]
    return np.concatenate([chosen, np.repeat(chosen[:1], max(LEAST_POINTS - len(chosen), 0), axis=0)])


def _choose_stretches(outline: _Outline, tolerance: float) -> NDArray[np.bool_]:
    """Which points to keep, (N,) bool, with each section between anchors simplified separately."""
    anchors = np.flatnonzero(outline.is_anchor) if outline.is_anchor.any() else np.zeros(1, dtype=np.int64)
    first = int(anchors[0])
    points = np.roll(outline.points, -first, axis=0)
    closed = np.concatenate([points, points[:1]])
    kept = np.zeros(len(points), dtype=bool)
    for start, end in itertools.pairwise([*(anchors - first).tolist(), len(points)]):
        kept[start:end] = _choose(closed[start : end + 1], tolerance)[:-1]
    return np.roll(kept, first)


def _choose(points: Points, tolerance: float) -> NDArray[np.bool_]:
    """Which points of a section to keep, including both ends (Ramer-Douglas-Peucker, distances to segments)."""
    kept = np.zeros(len(points), dtype=bool)
    kept[[0, -1]] = True
    waiting = [(0, len(points) - 1)]
    while waiting:
        start, end = waiting.pop()
        if end - start < 2:
            continue
        distances = _measure_distances(points[start + 1 : end], points[start], points[end])
        furthest = int(distances.argmax())
        if distances[furthest] > tolerance:
            middle = start + 1 + furthest
            kept[middle] = True
            waiting += [(start, middle), (middle, end)]
    return kept


def _measure_distances(points: Points, start: Points, end: Points) -> NDArray[np.float64]:
    """Distances of (N, 2) points from the segment between two points, (N,)."""
    along = (end - start).astype(np.float64)
    offsets = (points - start).astype(np.float64)
    share = np.clip(offsets @ along / max(float(along @ along), 1.0), 0.0, 1.0)
    return np.asarray(np.hypot(*(offsets - share[:, None] * along).T))
