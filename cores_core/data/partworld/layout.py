"""Where things stand: random position, size, turn and slant, tried again until every object stays well visible.

Visibility is judged on a small map (a quarter of the resolution) that reaches beyond the image, so what sticks out of
the picture counts as hidden too.
"""

import math

import numpy as np
from numpy.typing import NDArray

from cores_core.data.partworld.brush import Placed, fill
from cores_core.data.partworld.shapes import Figure, Points

FREE_CATEGORIES = frozenset({"fish", "snake", "aeroplane"})
"""These turn any way; the others stand nearly upright."""
UPRIGHT_DEGREES = 20.0
ALONE_SCALE = (0.75, 1.05)
CROWD_SCALE = (0.5, 0.8)
"""Extent of an object as a share of the image's shorter side."""
LEAST_VISIBLE = 0.6
"""Promise: 55 % of each object is visible. The small map is coarse, so it must find a little more."""
LEAST_VISIBLE_ASIDE = 0.85
OVERLAP_SHARE = 0.35
"""How often an object may hide as much as the promise allows; else it looks for a place more to itself first."""
ATTEMPTS = 24
SHRINK = 0.95
COARSENESS = 4
BORDER = 40  # pixels of the small map around the image


class Crowd:
    """The figures that are placed so far and how much of each can still be seen."""

    def __init__(self, size_hw: tuple[int, int]) -> None:
        """Begin with nobody in an image of this size."""
        self.size_hw = size_hw
        self._shape = (size_hw[0] // COARSENESS + 2 * BORDER, size_hw[1] // COARSENESS + 2 * BORDER)
        self._visible: list[NDArray[np.bool_]] = []
        self._areas: list[int] = []

    def place_object(self, rng: np.random.Generator, figure: Figure, alone: bool) -> Placed | None:
        """Find a place where the figure is visible and hides little; it gets smaller from try to try."""
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
        """Find a place for something that is no object and still hides little."""
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
        """Take a silhouette away from what is visible, unless that leaves less than `least` of some object."""
        remaining = [visible & ~silhouette for visible in self._visible]
        if any(int(rest.sum()) < least * area for rest, area in zip(remaining, self._areas, strict=True)):
            return False
        self._visible = remaining
        return True


def place_anywhere(
    rng: np.random.Generator, figure: Figure, scale: float, angle: float, size_hw: tuple[int, int]
) -> Placed:
    """Put a figure anywhere in the image. `scale`: half its own unit square as a share of the shorter side."""
    linear = _linear(rng, angle) * scale * min(size_hw)
    return Placed(figure, linear, rng.uniform(0, 1, 2) * np.asarray(size_hw[::-1]))


def _place(rng: np.random.Generator, figure: Figure, scale: float, size_hw: tuple[int, int]) -> Placed:
    """Put a figure of a given extent somewhere in the image, at most an eighth of it outside."""
    linear = _linear(rng, _angle(rng, figure.category))
    points = np.concatenate([piece.outline for piece in figure.pieces if piece.part is not None]) @ linear.T
    low, high = points.min(axis=0), points.max(axis=0)
    extent, room = high - low, np.asarray(size_hw[::-1], dtype=np.float64)
    size = 0.65 * extent.max() + 0.35 * extent.min()  # a long thin figure may be longer than a square one
    factor = min(scale * room.min() / size, float((0.97 * room / extent).min()))
    slack = room - extent * factor + 0.12 * extent * factor
    corner = rng.uniform(0, 1, 2) * slack - 0.06 * extent * factor
    return Placed(figure, linear * factor, corner - low * factor)


def _linear(rng: np.random.Generator, angle: float) -> Points:
    """A random flip, stretch and slant followed by a turn of `angle` radians, (2, 2)."""
    stretch, slant = math.exp(rng.uniform(-0.15, 0.15)), rng.uniform(-0.15, 0.15)
    shape = np.array([[stretch, slant], [0.0, 1 / stretch]]) @ np.diag([rng.choice([-1.0, 1.0]), 1.0])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear: Points = turn @ shape
    return linear


def _angle(rng: np.random.Generator, category: str) -> float:
    """Draw a turn in radians that suits the category."""
    if category in FREE_CATEGORIES:
        return float(rng.uniform(-math.pi, math.pi) if rng.random() < 0.1 else rng.normal(0, 0.5))
    limit = math.radians(UPRIGHT_DEGREES)
    return float(rng.uniform(-3 * limit, 3 * limit) if rng.random() < 0.05 else rng.uniform(-limit, limit))
