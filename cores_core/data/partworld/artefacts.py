"""Random boats and bottles of PartWorld: types, proportions and poses vary, all parts are present.

Parts are those of PartImageNet (arXiv:2112.00933): a boat's `body` is its hull with mast and spars; a bottle's `mouth`
is its cap or lip with the top of the neck.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from cores_core.data.partworld.catalog import PARTS
from cores_core.data.partworld.shapes import (
    Figure,
    Paint,
    Piece,
    Points,
    deal_paints,
    ellipse,
    fitted,
    ribbon,
    rounded,
    smooth,
)

Point = tuple[float, float]


def draw_boat(rng: np.random.Generator) -> Figure:
    """Draw a sailing boat from the side, heeling a little: a dinghy, a catamaran, a galleon or a junk."""
    paints = deal_paints(rng, PARTS["boat"])
    kinds = (_dinghy, _catamaran, _galleon, _junk)
    pieces = kinds[int(rng.choice(4, p=(0.4, 0.2, 0.2, 0.2)))](rng, paints)
    return fitted("boat", pieces, angle=rng.uniform(-0.15, 0.15))


def _dinghy(rng: np.random.Generator, paints: Mapping[str, Paint]) -> list[Piece]:
    """One mast; a triangular or gaff mainsail, optionally a jib and a rudder."""
    mast, height, depth = rng.uniform(-0.1, 0.25), rng.uniform(1.2, 1.7), rng.uniform(0.35, 0.5)
    pieces = [Piece(ribbon([(mast, 0.1), (mast - 0.03, -height)], [0.09, 0.05]), "body", paints["body"])]
    pieces.append(Piece(ribbon([(mast, -0.1), (-0.9, -0.12)], [0.06]), "body", paints["body"]))
    luff = mast - 0.04
    if rng.random() < 0.35:
        corners = [(luff, -height * 0.7), (luff, -0.14), (-0.86, -0.16), (luff - 0.6, -height * 0.95)]
        sail = _billowed(corners, (0.0, 0.0, 0.06, 0.02))
    else:
        sail = _billowed([(luff, -height + 0.05), (luff, -0.14), (-0.86, -0.16)], (0.0, 0.0, rng.uniform(0.0, 0.15)))
    pieces.append(Piece(sail, "sail", paints["sail"]))
    if rng.random() < 0.7:
        corners = [(mast + 0.06, -height * rng.uniform(0.7, 0.95)), (0.9, -0.14), (mast + 0.1, -0.1)]
        pieces.append(Piece(_billowed(corners, (0.0, 0.0, -0.05)), "sail", paints["sail"]))
    if rng.random() < 0.4:
        rudder = [(-0.92, 0.1), (-0.74, 0.1), (-0.72, depth + 0.16), (-0.9, depth + 0.16)]
        pieces.append(Piece(rounded(rudder, 0.04), "body", paints["body"]))
    return pieces + _hull(rng, depth, (-0.9, 1.0), paints["body"])


def _hull(rng: np.random.Generator, depth: float, ends: Point, paint: Paint) -> list[Piece]:
    """A hull with a curved sheer between stern and bow x; optionally portholes or a stripe."""
    stern, bow = ends
    rise, length = rng.uniform(0.0, 0.15), bow - stern
    sheer = smooth([(stern, 0.0), (stern + 0.5 * length, 0.06), (bow, -rise)], closed=False)
    keel = [(bow, -rise), (bow - 0.17 * length, depth * 0.8), (stern + 0.5 * length, depth)]
    pieces = [Piece(np.concatenate([sheer, smooth([*keel, (stern + 0.06, depth * 0.8)], closed=False)]), "body", paint)]
    detail: Paint = "light" if rng.random() < 0.6 else "glass"
    if rng.random() < 0.5:
        for x in np.linspace(stern + 0.25 * length, bow - 0.3 * length, int(rng.integers(2, 6))):
            pieces.append(Piece(ellipse((x, depth * 0.4), (0.05, 0.05), count=16), None, detail))
    elif rng.random() < 0.6:
        stripe = [(stern + 0.1 * length, depth * 0.45), (bow - 0.15 * length, depth * 0.4)]
        pieces.append(Piece(ribbon(stripe, [0.06]), None, detail))
    return pieces


def _catamaran(rng: np.random.Generator, paints: Mapping[str, Paint]) -> list[Piece]:
    """Two slim hulls one behind the other, a deck between them, a tall mast."""
    height, mast, shift = rng.uniform(1.5, 1.9), rng.uniform(-0.05, 0.15), rng.uniform(0.12, 0.2)
    pieces = []
    for dx, dy in ((shift, -0.24), (0.0, 0.0)):
        hull = [(-0.9 + dx, -0.02 + dy), (0.98 + dx, -0.1 + dy), (0.75 + dx, 0.2 + dy), (-0.8 + dx, 0.22 + dy)]
        pieces.append(Piece(rounded(hull, 0.12), "body", paints["body"]))
        if dx:
            deck = [(-0.6, 0.0), (-0.45, -0.24), (0.45, -0.26), (0.35, 0.0)]
            pieces.append(Piece(np.asarray(deck), "body", paints["body"]))
            pieces.append(Piece(ribbon([(mast, 0.0), (mast - 0.03, -height)], [0.08]), "body", paints["body"]))
    top, foot = (mast - 0.07, -height), (mast - 0.05, -0.34)
    sail = _billowed([top, foot, (-0.85, -0.36)], (0.0, 0.0, rng.uniform(0.12, 0.22)))
    pieces.append(Piece(sail, "sail", paints["sail"]))
    jib = [(mast + 0.05, -height * rng.uniform(0.6, 0.85)), (0.9, -0.38), (mast + 0.08, -0.34)]
    pieces.append(Piece(_billowed(jib, (0.0, 0.0, -0.04)), "sail", paints["sail"]))
    pieces.append(Piece(ribbon([(-0.75, 0.08), (0.7, 0.05)], [0.04]), None, "light"))
    return pieces


def _galleon(rng: np.random.Generator, paints: Mapping[str, Paint]) -> list[Piece]:
    """A high-sterned hull, two or three masts with square sails, a bowsprit."""
    masts = np.linspace(-0.55, 0.5, int(rng.integers(2, 4))) + rng.uniform(-0.04, 0.04)
    rows, width = int(rng.integers(1, 3)), 0.68 / len(masts)
    pieces = [Piece(ribbon([(0.8, -0.1), (1.3, -0.45)], [0.09, 0.05]), "body", paints["body"])]
    for x in masts:
        height = rng.uniform(1.1, 1.5)
        pieces.append(Piece(ribbon([(x, 0.2), (x, -height)], [0.08, 0.05]), "body", paints["body"]))
        edges = np.linspace(-height + 0.1, -0.3, rows + 1)
        for row, (top, low) in enumerate(itertools.pairwise(edges)):
            half, gap = width * (0.75 + 0.25 * (row + 1) / rows), 0.04
            corners = [(x - half, low - gap), (x - half, top + gap), (x + half, top + gap), (x + half, low - gap)]
            pieces.append(Piece(_billowed(corners, (-0.15, 0.0, 0.15, -0.1)), "sail", paints["sail"]))
    castle = -rng.uniform(0.3, 0.5)
    hull = [(-1.0, castle), (-0.55, castle + 0.04), (-0.5, -0.06), (0.45, -0.04), (0.52, -0.2), (1.0, -0.26)]
    hull += [(0.78, 0.4), (0.5, 0.48), (-0.7, 0.48), (-0.88, 0.3)]
    pieces.append(Piece(rounded(hull, 0.07), "body", paints["body"]))
    port: Paint = "dark" if paints["body"] != "dark" else "light"
    for x in np.linspace(-0.7, 0.6, int(rng.integers(3, 7))):
        pieces.append(Piece(rounded([(x, 0.08), (x + 0.1, 0.08), (x + 0.1, 0.18), (x, 0.18)], 0.02), None, port))
    return pieces


def _junk(rng: np.random.Generator, paints: Mapping[str, Paint]) -> list[Piece]:
    """A crescent hull and one to three battened fan sails."""
    masts = ((0.05,), (-0.4, 0.35), (-0.62, 0.0, 0.58))[int(rng.integers(3))]
    size = 1.25 / len(masts) ** 0.7
    pieces = []
    for x in masts:
        height, y = rng.uniform(0.9, 1.15) * max(size, 0.75), -0.08
        pieces.append(Piece(ribbon([(x, 0.25), (x + 0.02, y - height - 0.15)], [0.08, 0.06]), "body", paints["body"]))
        left, right = x - 0.5 * size, x + 0.28 * size
        corners = [(right, y - 0.1), (left, y - 0.05), (left + 0.12 * size, y - height * 0.75), (right, y - height)]
        pieces.append(Piece(_billowed(corners, (0.0, 0.12, 0.06, 0.1)), "sail", paints["sail"]))
        for share in (0.25, 0.5, 0.75):
            batten = [(left + 0.1 * size * share, y - 0.05 - 0.7 * height * share)]
            batten.append((right, y - 0.1 - (height - 0.1) * share))
            pieces.append(Piece(ribbon(batten, [0.025]), None, "light" if paints["sail"] == "dark" else "dark"))
    bow, stern = rng.uniform(0.2, 0.45), rng.uniform(0.25, 0.5)
    sheer = smooth([(-1.05, -stern), (-0.5, 0.02), (0.4, 0.06), (1.05, -bow)], closed=False)
    keel = smooth([(0.98, 0.0), (0.5, 0.4), (-0.3, 0.45), (-0.9, 0.2)], closed=False)
    return [*pieces, Piece(np.concatenate([sheer, keel]), "body", paints["body"])]


def _billowed(corners: Sequence[Point], bulges: Sequence[float]) -> Points:
    """A cloth: edge i from corner i to the next bends by `bulges[i]` of its length, outwards where positive."""
    knots = np.asarray(corners, dtype=np.float64)
    center, t = knots.mean(axis=0), np.linspace(0, 1, 8, endpoint=False)[:, None]
    edges = []
    for start, end, bulge in zip(knots, np.roll(knots, -1, axis=0), bulges, strict=True):
        normal = np.array([end[1] - start[1], start[0] - end[0]])
        outwards = normal if normal @ ((start + end) / 2 - center) > 0 else -normal
        edges.append(start + (end - start) * t + 4 * t * (1 - t) * bulge * outwards)
    return np.concatenate(edges)


@dataclass(frozen=True)
class BottleShape:
    """Heights along a bottle 2 units tall, then half widths; `waist` scales the width at the middle of its body."""

    mouth_height: float
    neck_height: float
    shoulder_height: float
    mouth: float
    neck: float
    body: float
    waist: float
    foot: float


BOTTLES: Mapping[str, BottleShape] = MappingProxyType(
    {
        "claret": BottleShape(0.28, 0.38, 0.16, 0.14, 0.11, 0.29, 1.0, 1.0),
        "burgundy": BottleShape(0.28, 0.25, 0.55, 0.14, 0.12, 0.33, 1.0, 1.0),
        "beer": BottleShape(0.24, 0.3, 0.35, 0.16, 0.12, 0.30, 1.0, 1.0),
        "water": BottleShape(0.24, 0.04, 0.35, 0.17, 0.15, 0.34, 0.9, 0.95),
        "cola": BottleShape(0.24, 0.1, 0.6, 0.16, 0.12, 0.31, 0.82, 0.95),
        "flask": BottleShape(0.3, 0.08, 0.55, 0.22, 0.15, 0.62, 1.02, 0.55),
        "jar": BottleShape(0.34, 0.04, 0.15, 0.36, 0.34, 0.52, 1.0, 0.95),
        "thermos": BottleShape(0.42, 0.02, 0.12, 0.24, 0.24, 0.32, 1.0, 1.0),
    }
)


def draw_bottle(rng: np.random.Generator) -> Figure:
    """Draw a standing bottle of one of `BOTTLES`, leaning a little."""
    shape = BOTTLES[str(rng.choice(list(BOTTLES)))]
    paints = deal_paints(rng, PARTS["bottle"])
    stretch, widen = rng.uniform(0.85, 1.2, size=2), rng.uniform(0.85, 1.2)
    mouth_end = -1 + shape.mouth_height * rng.uniform(1.0, 1.25)
    neck_end = mouth_end + shape.neck_height * stretch[0]
    shoulder_end = min(neck_end + shape.shoulder_height * stretch[1], 0.3)
    neck, body = shape.neck * widen, shape.body * widen
    levels = [(mouth_end - 0.05, neck), (neck_end, neck), (shoulder_end, body)]
    levels += [((shoulder_end + 1) / 2, body * shape.waist), (1.0, body * shape.foot)]
    pieces = []
    if rng.random() < 0.2:
        handle = [(neck, neck_end), (body * 1.5, neck_end + 0.05), (body * 1.6, shoulder_end + 0.1)]
        handle.append((body * 0.9, shoulder_end + 0.35))
        pieces.append(Piece(ribbon(smooth(handle, closed=False), [0.12]), "body", paints["body"]))
    pieces.append(Piece(rounded(_turned(levels), rng.uniform(0.1, 0.3)), "body", paints["body"]))
    pieces += _label(rng, body * min(shape.waist, shape.foot), shoulder_end)
    pieces += _mouth(rng, shape.mouth * widen, mouth_end, paints["mouth"])
    return fitted("bottle", pieces, angle=rng.uniform(-0.12, 0.12))


def _turned(levels: Sequence[Point]) -> list[Point]:
    """The outline of a turned vessel from its (y, half width) levels, top first."""
    return [(width, y) for y, width in levels] + [(-width, y) for y, width in reversed(levels)]


def _label(rng: np.random.Generator, half: float, shoulder: float) -> list[Piece]:
    """Optionally a label, two ribs, or a reflection on the glass; `half` is the narrowest half width there."""
    middle, luck = (shoulder + 1) / 2 + rng.uniform(-0.05, 0.1), rng.random()
    tall = (1 - shoulder) * rng.uniform(0.15, 0.28)
    if luck < 0.45:
        inset = half * rng.uniform(0.7, 0.95)
        box = [(middle - tall, inset), (middle + tall, inset)]
        pieces = [Piece(rounded(_turned(box), 0.04), None, "light" if rng.random() < 0.7 else "accent")]
        if rng.random() < 0.6:
            pieces.append(Piece(ellipse((0.0, middle), (inset * 0.5, tall * 0.5)), None, "second"))
        return pieces
    if luck < 0.7:
        ribs = [middle - tall, middle, middle + tall]
        return [Piece(ribbon([(-half * 0.85, y), (half * 0.85, y)], [0.035]), None, "light") for y in ribs]
    if luck < 0.85:
        return [Piece(ribbon([(-half * 0.6, middle - tall), (-half * 0.6, middle + tall)], [0.06]), None, "glass")]
    return []


def _mouth(rng: np.random.Generator, half: float, end: float, paint: Paint) -> list[Piece]:
    """The top of the bottle down to y = `end`: a lip, a screw cap, a crown cap, a cork or a nozzle."""
    height = end + 1
    outlines: tuple[list[Point], ...] = (
        [(-1.0, half), (-1 + 0.35 * height, half), (-1 + 0.4 * height, half * 0.8), (end, half * 0.8)],
        [(-1.0, half * 1.05), (end, half * 1.05)],
        [(-1.0, half * 0.95), (-1 + 0.4 * height, half * 1.25), (-1 + 0.45 * height, half * 0.8), (end, half * 0.8)],
        [(-1.0, half * 0.7), (-1 + 0.4 * height, half * 0.7), (-1 + 0.4 * height, half * 1.1), (end, half * 1.1)],
        [(-1.15, half * 0.5), (-1 + 0.2 * height, half * 0.5), (-1 + 0.5 * height, half * 1.15), (end, half * 1.15)],
    )
    kind = int(rng.integers(len(outlines)))
    pieces = [Piece(rounded(_turned(outlines[kind]), 0.03), "mouth", paint)]
    if kind == 1:  # the ridges of a screw cap
        for x in np.linspace(-0.7, 0.7, 4) * half:
            ridge = ribbon([(x, -1 + 0.15 * height), (x, end - 0.15 * height)], [0.018])
            pieces.append(Piece(ridge, None, "light" if paint == "dark" else "dark"))
    return pieces
