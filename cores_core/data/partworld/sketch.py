"""Drawing helpers for the animals of PartWorld: round limbs, free curves, and a sketch that collects pieces.

A sketch may have any position and size; `Sketch.figure` transforms it into a figure's own coordinates.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cores_core.data.partworld.catalog import PARTS
from cores_core.data.partworld.shapes import Figure, Paint, Piece, Points, ellipse, fitted, ribbon, rotate, smooth

Point = tuple[float, float]


class Sketch:
    """Pieces of one figure while it is drawn. Paints are assigned at random, so colours do not identify parts."""

    def __init__(self, category: str, rng: np.random.Generator) -> None:
        """Choose the paints: with probability 1/4 the same for all parts, otherwise one per part."""
        self._category = category
        self._pieces: list[Piece] = []
        coats: tuple[Paint, ...] = ("main", "second", "accent")
        likely = (1.0, 0.0, 0.0) if rng.random() < 0.25 else (0.55, 0.3, 0.15)
        self._paints = {part: coats[rng.choice(3, p=likely)] for part in PARTS[category]}

    def add(self, part: str, *outlines: Points) -> None:
        """Paint outlines that belong to a part, over everything painted so far."""
        self._pieces += [Piece(outline, part, self._paints[part]) for outline in outlines]

    def mark(self, paint: Paint, *outlines: Points) -> None:
        """Paint decorations; they belong to the part below them."""
        self._pieces += [Piece(outline, None, paint) for outline in outlines]

    def eye(self, center: Point, radius: float) -> None:
        """Paint an eye with a pupil."""
        self.mark("light", ellipse(center, (radius, radius), count=16))
        self.mark("dark", ellipse(center, (0.6 * radius, 0.6 * radius), count=12))

    def limb(self, part: str, joints: Sequence[Point], widths: Sequence[float], end: Point = (0.0, 0.0)) -> None:
        """Paint a leg or an arm: a round segment per joint pair, and an ellipse of radii `end` at the last joint."""
        if end != (0.0, 0.0):
            self.add(part, ellipse((joints[-1][0] + 0.5 * end[0], joints[-1][1]), end))
        for near, far, wide, narrow in zip(joints[:-1], joints[1:], widths[:-1], widths[1:], strict=True):
            self.add(part, tube([near, far], [wide, narrow]))

    def coat(self, rng: np.random.Generator, rear: Point, chest: Point, girth: float) -> None:
        """Mark a torso that runs from `rear` to `chest` with stripes, spots, or nothing."""
        style, paint = rng.choice(["none", "none", "stripes", "spots"]), rng.choice(["dark", "light", "accent"])
        for share in np.linspace(0.1, 0.85, 5):
            x, y = rear[0] + share * (chest[0] - rear[0]), rear[1] + share * (chest[1] - rear[1])
            if style == "stripes":
                stripe = [(x, y - 0.26 * girth), (x + 0.03, y - 0.08 * girth), (x, y + 0.15 * girth)]
                self.mark(paint, tube(stripe, [0.06, 0.05, 0.02]))
            elif style == "spots":
                size = rng.uniform(0.11, 0.19) * girth
                self.mark(paint, ellipse((x, y + rng.uniform(-0.22, 0.15) * girth), (size, 0.8 * size), count=16))

    def figure(self, tilt: float = 0.0, bend: float = 0.0) -> Figure:
        """Rotate by `tilt` radians, bend along y by `bend` x**2, and centre, scaled to a longer axis of 2."""
        pieces = []
        for piece in self._pieces:
            down = bend * piece.outline[:, 0] ** 2
            pieces.append(replace(piece, outline=piece.outline + np.stack([np.zeros_like(down), down], axis=1)))
        return fitted(self._category, pieces, tilt)


def tube(path: Sequence[Point] | Points, widths: Sequence[float]) -> Points:
    """Outline of a smooth tube with round ends through the points of an open path."""
    line = smooth(path, closed=False)
    sides = ribbon(line, widths)
    half = np.linspace(0, np.pi, 9)[1:-1, None]
    caps = []
    for center, side, along in (
        (line[-1], sides[len(line) - 1], line[-1] - line[-2]),
        (line[0], sides[-1], line[0] - line[1]),
    ):
        across = side - center
        forward = along / max(float(np.linalg.norm(along)), 1e-9) * float(np.linalg.norm(across))
        caps.append(center + np.cos(half) * across + np.sin(half) * forward)
    return np.concatenate([sides[: len(line)], caps[0], sides[len(line) :], caps[1]])


def curve(start: Point, heading: float, length: float, turn: float, count: int = 10) -> Points:
    """Open path from `start` towards `heading` that turns evenly by `turn` radians (clockwise on the screen)."""
    headings = heading + turn * np.linspace(0, 1, count)
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / count
    return np.concatenate([[start], np.asarray(start) + np.cumsum(steps, axis=0)])


def place(points: Points | Sequence[Point], at: Point, angle: float = 0.0) -> Points:
    """Rotate an outline around (0, 0) by `angle` radians, then move it to `at`."""
    placed: Points = rotate(np.asarray(points, dtype=np.float64), angle) + np.asarray(at)
    return placed


def leaf(base: Point, heading: float, length: float, width: float, round_end: float = 0.5) -> Points:
    """Outline of a feather, fin or ear: from `base` along `heading`, blunter with a larger `round_end` (0 to 1)."""
    shape = [
        (0.0, 0.0),
        (0.35, -0.42),
        (0.75, -0.2 - 0.3 * round_end),
        (1.0, 0.0),
        (0.75, 0.2 + 0.3 * round_end),
        (0.35, 0.42),
    ]
    return place(smooth(np.asarray(shape) * (length, width)), base, heading)
