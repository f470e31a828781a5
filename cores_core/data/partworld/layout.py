"""Random placement of figures (position, size, rotation, slant), retried until every object is sufficiently visible.

Visibility is measured on a map of a quarter of the resolution that extends beyond the image, so that parts outside the
image count as hidden.
"""

import math

import numpy as np
from numpy.typing import NDArray

from cores_core.data.partworld.brush import Placed, fill
from cores_core.data.partworld.shapes import Figure, Points

FREE_CATEGORIES = frozenset({"fish", "snake", "aeroplane"})
"""Categories with any rotation; the others are nearly upright."""
UPRIGHT_DEGREES = 20.0
ALONE_SCALE = (0.75, 1.05)
CROWD_SCALE = (0.5, 0.8)
"""Range of an object's extent as a fraction of the image's shorter side."""
LEAST_VISIBLE = 0.6
"""Minimum visible fraction on the coarse map, which guarantees 55 % of each object at full resolution."""
LEAST_VISIBLE_ASIDE = 0.85
OVERLAP_SHARE = 0.35
"""Probability that an object may occlude others up to the limit; otherwise less crowded positions are tried first."""
ATTEMPTS = 24
SHRINK = 0.95
COARSENESS = 4
BORDER = 40  # pixels of the small map around the image


class Crowd:
    """The figures placed so far, and the visible pixels of each."""

    def __init__(self, size_hw: tuple[int, int]) -> None:
        """Start with an empty image of size (height, width)."""
        self.size_hw = size_hw
        self._shape = (size_hw[0] // COARSENESS + 2 * BORDER, size_hw[1] // COARSENESS + 2 * BORDER)
        self._visible: list[NDArray[np.bool_]] = []
        self._areas: list[int] = []

    def place_object(self, rng: np.random.Generator, figure: Figure, alone: bool) -> Placed | None:
        """Find a position where the figure is visible and occludes little, shrinking it with each try; None if none."""
        scale = rng.uniform(*(ALONE_SCALE if alone else CROWD_SCALE))
        least = LEAST_VISIBLE if rng.random() < OVERLAP_SHARE else LEAST_VISIBLE_ASIDE
        for attempt in range(ATTEMPTS):
            if attempt == ATTEMPTS // 2:
                least = LEAST_VISIBLE
            placed = _place(rng, figure, scale * SHRINK**attempt, self.size_hw)
            silhouette = self._silhouette(placed)
            visible = silhouette.copy()
            visible[:BORDER] = visible[-BORDER:] = visible[:, :BORDER] = visible[:, -BORDER:] = False
            area = int(silhouette.sum())
            if int(visible.sum()) >= least * area and self._hide_behind(silhouette, least):
                self._visible.append(visible)
                self._areas.append(area)
                return placed
        return None

    def place_occluder(self, rng: np.random.Generator, figure: Figure) -> Placed | None:
        """Find a position for an occluder that hides little; None if there is none."""
        for _ in range(ATTEMPTS // 4):
            scale, angle = rng.uniform(0.2, 0.45), rng.normal(0, 0.25)
            placed = place_anywhere(rng, figure, scale=scale, angle=angle, size_hw=self.size_hw)
            if self._hide_behind(self._silhouette(placed), LEAST_VISIBLE):
                return placed
        return None

    def _silhouette(self, placed: Placed) -> NDArray[np.bool_]:
        silhouette = np.zeros(self._shape, dtype=np.uint8)
        for piece, outline in zip(placed.figure.pieces, placed.outlines(), strict=True):
            if piece.part is not None:
                fill(silhouette, outline / COARSENESS + BORDER, 1)
        return silhouette.view(np.bool_)

    def _hide_behind(self, silhouette: NDArray[np.bool_], least: float) -> bool:
        """Remove a silhouette from the visible pixels, unless less than `least` of some object would remain."""
        remaining = [visible & ~silhouette for visible in self._visible]
        if any(int(rest.sum()) < least * area for rest, area in zip(remaining, self._areas, strict=True)):
            return False
        self._visible = remaining
        return True


def place_anywhere(
    rng: np.random.Generator, figure: Figure, scale: float, angle: float, size_hw: tuple[int, int]
) -> Placed:
    """Place a figure anywhere in the image. `scale`: half its unit square as a fraction of the shorter side."""
    linear = _linear(rng, angle) * scale * min(size_hw)
    return Placed(figure, linear, rng.uniform(0, 1, 2) * np.asarray(size_hw[::-1]))


def _place(rng: np.random.Generator, figure: Figure, scale: float, size_hw: tuple[int, int]) -> Placed:
    """Place a figure of a given extent in the image, with at most an eighth of it outside."""
    linear = _linear(rng, _angle(rng, figure.category))
    points = np.concatenate([piece.outline for piece in figure.pieces if piece.part is not None]) @ linear.T
    low, high = points.min(axis=0), points.max(axis=0)
    extent, room = high - low, np.asarray(size_hw[::-1], dtype=np.float64)
    size = 0.65 * extent.max() + 0.35 * extent.min()  # long thin figures may be longer than square ones
    factor = min(scale * room.min() / size, float((0.97 * room / extent).min()))
    slack = room - extent * factor + 0.12 * extent * factor
    corner = rng.uniform(0, 1, 2) * slack - 0.06 * extent * factor
    return Placed(figure, linear * factor, corner - low * factor)


def _linear(rng: np.random.Generator, angle: float) -> Points:
    """A random flip, stretch and slant followed by a rotation of `angle` radians, (2, 2)."""
    stretch, slant = math.exp(rng.uniform(-0.15, 0.15)), rng.uniform(-0.15, 0.15)
    shape = np.array([[stretch, slant], [0.0, 1 / stretch]]) @ np.diag([rng.choice([-1.0, 1.0]), 1.0])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear: Points = turn @ shape
    return linear


def _angle(rng: np.random.Generator, category: str) -> float:
    """Draw a rotation in radians that suits the category."""
    if category in FREE_CATEGORIES:
        return float(rng.uniform(-math.pi, math.pi) if rng.random() < 0.1 else rng.normal(0, 0.5))
    limit = math.radians(UPRIGHT_DEGREES)
    return float(rng.uniform(-3 * limit, 3 * limit) if rng.random() < 0.05 else rng.uniform(-limit, limit))
