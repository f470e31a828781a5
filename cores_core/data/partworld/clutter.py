"""Unlabelled distractors: loose shapes behind the objects and occluders in front of them.

Some loose shapes look like a part (a lone wheel or wing), so that parts cannot be recognised by their outline without
context. They are ordinary figures whose parts have no id.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from cores_core.data.partworld.shapes import Figure, Paint, Piece, Points, ellipse, ribbon, smooth

THING = "thing"
"""Category and part name of all distractors; not in the catalog."""


def draw_loose_shape(rng: np.random.Generator) -> Figure:
    """Draw one background shape, about [-1, 1] x [-1, 1]."""
    kinds = list(LOOSE_SHAPES)
    return LOOSE_SHAPES[kinds[int(rng.integers(len(kinds)))]](rng)


def draw_occluder(rng: np.random.Generator) -> Figure:
    """Draw one occluder: a bar or a post (reaching from -6 to 6 along one axis), a bush, or grass."""
    kinds = list(OCCLUDERS)
    return OCCLUDERS[kinds[int(rng.integers(len(kinds)))]](rng)


def _thing(*pieces: tuple[Points, Paint]) -> Figure:
    return Figure(THING, tuple(Piece(outline, THING, paint) for outline, paint in pieces))


def _polygon(rng: np.random.Generator) -> Figure:
    return _thing((_ring_of_points(rng, int(rng.integers(3, 8))), "main"))


def _blob(rng: np.random.Generator) -> Figure:
    return _thing((smooth(_ring_of_points(rng, int(rng.integers(5, 9)))), "second"))


def _wheel(rng: np.random.Generator) -> Figure:
    rim = rng.uniform(0.4, 0.8)
    disc = ellipse((0, 0), (1, 1))
    return _thing((disc, "dark"), (disc * rim, "metal"), (disc * 0.15, "dark"))


def _wing(rng: np.random.Generator) -> Figure:
    thickness = rng.uniform(0.25, 0.6)
    return _thing((smooth([(-1, 0.1), (-0.3, -thickness), (0.7, -thickness / 2), (1, 0.1), (0.1, 0.25)]), "main"))


def _fork(rng: np.random.Generator) -> Figure:
    spread, notch = rng.uniform(0.4, 0.9), rng.uniform(-0.5, 0.2)
    return _thing((np.array([(1, 0.12), (-1, spread), (notch, 0), (-1, -spread), (1, -0.12)]), "second"))


def _leaf(rng: np.random.Generator) -> Figure:
    width = rng.uniform(0.2, 0.5)
    blade = smooth([(-1, 0), (-0.4, -width), (0.4, -width * 0.8), (1, 0), (0.4, width * 0.8), (-0.4, width)])
    return _thing((blade, "main"), (ribbon([(-1.2, 0), (0.0, 0.02), (0.9, 0)], [0.07, 0.03]), "dark"))


def _stick(rng: np.random.Generator) -> Figure:
    path = smooth([(-1, rng.uniform(-0.4, 0.4)), (0, 0), (1, rng.uniform(-0.4, 0.4))], closed=False)
    return _thing((ribbon(path, [rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.3)]), "second"))


def _eyed_ball(rng: np.random.Generator) -> Figure:
    ball, eye = ellipse((0, 0), (1, rng.uniform(0.7, 1))), (rng.uniform(0.1, 0.5), -0.2)
    return _thing((ball, "main"), (ellipse(eye, (0.2, 0.2)), "light"), (ellipse(eye, (0.1, 0.1)), "dark"))


def _box(rng: np.random.Generator) -> Figure:
    height = rng.uniform(0.3, 1)
    return _thing((_rectangle(1, height), "accent"), (_rectangle(0.5, height * 0.5), "glass"))


def _bar(rng: np.random.Generator) -> Figure:
    return _thing((_rectangle(6, rng.uniform(0.05, 0.16)), "metal"))


def _post(rng: np.random.Generator) -> Figure:
    width = rng.uniform(0.06, 0.18)
    return _thing((_rectangle(width, 6), "second"), (_rectangle(width * 0.3, 6), "light"))


def _bush(rng: np.random.Generator) -> Figure:
    count = int(rng.integers(6, 14))
    clumps = [_ring_of_points(rng, 11) * rng.uniform(0.2, 0.45) + rng.uniform(-0.7, 0.7, 2) for _ in range(count)]
    return _thing(*((clump, "second" if i % 3 == 0 else "main") for i, clump in enumerate(clumps)))


def _grass(rng: np.random.Generator) -> Figure:
    roots, tips = np.linspace(-1.5, 1.5, 14), rng.normal(0, 0.25, 14)
    heights = rng.uniform(0.4, 1.2, 14)
    blades = [
        ribbon(smooth([(x, 1.5), (x + tip * 0.3, 0.5), (x + tip, 1 - 2 * height)], closed=False), [0.12, 0.01])
        for x, tip, height in zip(roots, tips, heights, strict=True)
    ]
    return _thing(*((blade, "main") for blade in blades))


def _ring_of_points(rng: np.random.Generator, count: int) -> Points:
    """A star-shaped polygon of random radii, (count, 2)."""
    angles = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
    ring: Points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.55, 1, (count, 1))
    return ring


def _rectangle(half_width: float, half_height: float) -> Points:
    return np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]) * (half_width, half_height)


LOOSE_SHAPES: Mapping[str, Callable[[np.random.Generator], Figure]] = MappingProxyType(
    {
        "polygon": _polygon,
        "blob": _blob,
        "wheel": _wheel,
        "wing": _wing,
        "fork": _fork,
        "leaf": _leaf,
        "stick": _stick,
        "eyed ball": _eyed_ball,
        "box": _box,
    }
)
"""Shapes behind the objects, equally likely."""

OCCLUDERS: Mapping[str, Callable[[np.random.Generator], Figure]] = MappingProxyType(
    {"bar": _bar, "post": _post, "bush": _bush, "grass": _grass}
)
"""Occluders in front of the objects, equally likely."""
