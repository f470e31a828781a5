"""Vector shapes of PartWorld: closed outlines in a figure's own coordinates.

A figure faces right (+x), y points down, and it fills about [-1, 1] x [-1, 1]. It is a list of pieces painted in order,
so later pieces cover earlier ones. This file is independent of pixels, colours and other figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(K, 2) x, y of a closed outline or an open path."""
Paint = Literal["main", "second", "accent", "dark", "light", "glass", "metal"]
"""Material role of a piece; a scene assigns colours and textures to roles."""


@dataclass(frozen=True)
class Piece:
    """One painted outline. `part` is a name from the catalog, or None for a decoration (an eye, a window) that
    belongs to whatever part it is painted on."""

    outline: Points
    part: str | None
    paint: Paint


@dataclass(frozen=True)
class Figure:
    """One object in its own coordinates: pieces in painting order."""

    category: str
    pieces: tuple[Piece, ...]


def ellipse(center: tuple[float, float], radii: tuple[float, float], angle: float = 0.0, count: int = 40) -> Points:
    """Outline of an ellipse; `angle` in radians, clockwise on the screen."""
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    points = np.stack([np.cos(turn) * radii[0], np.sin(turn) * radii[1]], axis=1)
    outline: Points = rotate(points, angle) + np.asarray(center)
    return outline


def rotate(points: Points, angle: float, pivot: tuple[float, float] = (0.0, 0.0)) -> Points:
    """Turn points about a pivot by `angle` radians, clockwise on the screen (y points down)."""
    cos, sin = np.cos(angle), np.sin(angle)
    origin = np.asarray(pivot)
    turned: Points = (points - origin) @ np.array([[cos, sin], [-sin, cos]]) + origin
    return turned


def smooth(points: Sequence[tuple[float, float]] | Points, closed: bool = True, steps: int = 8) -> Points:
    """Catmull-Rom curve through the points, `steps` samples per segment."""
    knots = np.asarray(points, dtype=np.float64)
    if closed:
        padded = np.concatenate([knots[-1:], knots, knots[:2]])
    else:
        padded = np.concatenate([knots[:1], knots, knots[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - 3 * c + d - a) * t**3))
    if not closed:
        pieces.append(knots[-1:])
    return np.concatenate(pieces)


def ribbon(path: Sequence[tuple[float, float]] | Points, widths: Sequence[float]) -> Points:
    """Outline of a tube along an open path, `widths` (full) interpolated from its first to its last point."""
    line = np.asarray(path, dtype=np.float64)
    width = np.interp(np.linspace(0, 1, len(line)), np.linspace(0, 1, len(widths)), widths)
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * width[:, None] / 2
    return np.concatenate([line + across, (line - across)[::-1]])


def rounded(points: Sequence[tuple[float, float]] | Points, radius: float, steps: int = 5) -> Points:
    """A closed polygon with every corner replaced by an arc that begins `radius` before it (or at 45 % of the edge)."""
    knots = np.asarray(points, dtype=np.float64)
    ends = []
    for shift in (1, -1):
        edge = np.roll(knots, shift, axis=0) - knots
        length = np.maximum(np.linalg.norm(edge, axis=1, keepdims=True), 1e-9)
        ends.append(knots + edge * np.minimum(radius / length, 0.45))
    t = np.linspace(0, 1, steps)[None, :, None]
    arcs = (1 - t) ** 2 * ends[0][:, None] + 2 * t * (1 - t) * knots[:, None] + t**2 * ends[1][:, None]
    outline: Points = arcs.reshape(-1, 2)
    return outline


def fitted(category: str, pieces: Sequence[Piece], angle: float = 0.0) -> Figure:
    """A figure of these pieces, turned by `angle`, centred, its longer axis spanning exactly 2 units."""
    turned = [rotate(piece.outline, angle) for piece in pieces]
    everything = np.concatenate(turned)
    low, high = everything.min(axis=0), everything.max(axis=0)
    scale = 2 / float((high - low).max())
    placed = [(outline - (low + high) / 2) * scale for outline in turned]
    return Figure(category, tuple(Piece(o, p.part, p.paint) for o, p in zip(placed, pieces, strict=True)))


def deal_paints(rng: np.random.Generator, parts: Sequence[str]) -> dict[str, Paint]:
    """Assign a different random paint to each of at most five parts, so that colours do not identify parts."""
    paints: tuple[Paint, ...] = ("main", "second", "accent", "metal", "dark")
    return dict(zip(parts, (paints[i] for i in rng.permutation(len(paints))), strict=False))
