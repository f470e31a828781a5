"""Random cars and bicycles of PartWorld: types, proportions and poses vary, all parts are present.

Parts are those of PartImageNet (arXiv:2112.00933): a car's `tier` (sic) is its wheels; a bicycle's `tier` is its wheels
as full discs, its `head` the handlebar with the stem, its `body` the frame with the pedals.
Deviation: side mirrors, saddles and handlebars are oversized, so that they stay visible in small images.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
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
    rotate,
    rounded,
    smooth,
)

SILL = 0.3
"""y of a car's lower edge, on which its axles lie."""


@dataclass(frozen=True)
class CarShape:
    """Side profile of a car from x = -1 (rear) to 1 (front). First x of the cabin's corners, then y of its levels."""

    rear_base: float
    roof_rear: float
    roof_front: float
    screen_base: float
    roof: float
    deck: float
    bonnet: float
    wheel: float
    corner: float


CARS: Mapping[str, CarShape] = MappingProxyType(
    {
        "sedan": CarShape(-0.68, -0.42, 0.14, 0.48, -0.44, -0.08, -0.06, 0.21, 0.12),
        "hatchback": CarShape(-0.96, -0.72, 0.16, 0.52, -0.50, -0.04, -0.06, 0.22, 0.14),
        "sports car": CarShape(-0.82, -0.28, 0.02, 0.50, -0.28, -0.02, 0.00, 0.23, 0.10),
        "van": CarShape(-0.99, -0.95, 0.52, 0.82, -0.70, -0.10, -0.10, 0.20, 0.12),
        "jeep": CarShape(-0.97, -0.92, 0.20, 0.34, -0.60, -0.10, -0.12, 0.28, 0.05),
        "pickup": CarShape(-0.18, -0.08, 0.26, 0.50, -0.50, -0.06, -0.08, 0.25, 0.07),
        "lorry": CarShape(0.10, 0.16, 0.66, 0.86, -0.46, 0.14, -0.02, 0.21, 0.07),
    }
)


def draw_car(rng: np.random.Generator) -> Figure:
    """Draw a car: mostly a side view of one of `CARS`, sometimes a front view."""
    paints = deal_paints(rng, PARTS["car"])
    if rng.random() < 0.4:  # dark tyres in 40 % of the cars; the part that was dark gets their paint
        freed = paints["tier"]
        paints = {part: freed if paint == "dark" else paint for part, paint in paints.items()} | {"tier": "dark"}
    if rng.random() < 0.2:
        return fitted("car", _car_front(rng, paints))
    name = str(rng.choice(list(CARS)))
    shape = _varied(rng, CARS[name])
    pieces = [Piece(_car_profile(shape), "body", paints["body"])]
    if name == "lorry":
        left, right, top, floor = -1.05, shape.rear_base - 0.02, -rng.uniform(0.6, 0.9), SILL - 0.14
        box = [(left, floor), (left, top), (right, top), (right, floor)]
        pieces.append(Piece(rounded(box, 0.04), "body", paints["body"]))
        pieces += _stripe(rng, -1.0, shape.rear_base - 0.07, -0.4) if rng.random() < 0.6 else []
    pieces += _car_windows(rng, name, shape) + _car_trim(rng, shape)
    front, rear = rng.uniform(0.54, 0.64), -rng.uniform(0.54, 0.64)
    axles = [rear, front] if name != "lorry" else [-0.72, -0.72 + 2.2 * shape.wheel, front]
    for axle in axles:
        pieces += _car_wheel(rng, (axle, SILL), shape.wheel, paints["tier"])
    pieces.append(_side_mirror(rng, shape, paints["side mirror"]))
    return fitted("car", pieces, angle=rng.uniform(-0.05, 0.05))


def _varied(rng: np.random.Generator, shape: CarShape) -> CarShape:
    """Vary a car's proportions: shift the four x of its cabin slightly, and scale its levels and sizes."""
    values = [float(getattr(shape, field.name)) for field in fields(CarShape)]
    moved = [value + rng.uniform(-0.03, 0.03) for value in values[:4]]
    return CarShape(*moved, *(value * rng.uniform(0.9, 1.12) for value in values[4:]))


def _car_profile(shape: CarShape) -> Points:
    outline = [
        (-0.97, SILL),
        (-1.0, shape.deck + 0.08),
        (-1.0 + 0.15 * (shape.rear_base + 1), shape.deck),
        (shape.rear_base, shape.deck),
        (shape.roof_rear, shape.roof),
        (shape.roof_front, shape.roof),
        (shape.screen_base, shape.bonnet),
        (0.95, shape.bonnet + 0.05),
        (1.02, shape.bonnet + 0.18),
        (1.02, SILL),
    ]
    return rounded(outline, shape.corner)


def _car_windows(rng: np.random.Generator, name: str, shape: CarShape) -> list[Piece]:
    """One to three panes between the roof and the belt line."""
    panes = 1 if name in ("lorry", "pickup", "sports car") else int(rng.integers(1, 4))
    first = 0.62 if name == "van" and rng.random() < 0.5 else 0.08  # a delivery van has windows in front only
    edges = np.linspace(first, 0.95, panes + 1)

    def at(along: float, down: float) -> tuple[float, float]:
        top = shape.roof_rear + along * (shape.roof_front - shape.roof_rear)
        base = shape.rear_base + along * (shape.screen_base - shape.rear_base)
        belt = min(shape.deck, shape.bonnet)
        return top + down * (base - top), shape.roof + down * (belt - shape.roof)

    paint: Paint = "glass" if rng.random() < 0.8 else "dark"
    gap = 0.03 if panes > 1 else 0.0
    return [
        Piece(rounded([at(a + gap, 0.92), at(a + gap, 0.2), at(b - gap, 0.2), at(b - gap, 0.92)], 0.05), None, paint)
        for a, b in itertools.pairwise(edges)
    ]


def _car_trim(rng: np.random.Generator, shape: CarShape) -> list[Piece]:
    """Headlight, rear light, and optionally a stripe and a door line."""
    lamp = ellipse((0.9, shape.bonnet + 0.18), (0.06, 0.05))
    pieces = [Piece(lamp, None, "light")]
    if rng.random() < 0.6:
        pieces.append(Piece(ellipse((-0.92, max(shape.deck, 0.0) + 0.1), (0.03, 0.05)), None, "light"))
    if rng.random() < 0.4:
        pieces += _stripe(rng, -0.9, 0.9, SILL - 0.09)
    if rng.random() < 0.6:
        x = 0.6 * shape.roof_front + 0.4 * shape.roof_rear
        pieces.append(Piece(ribbon([(x, shape.bonnet + 0.03), (x, SILL - 0.03)], [0.02]), None, "dark"))
    return pieces


def _stripe(rng: np.random.Generator, left: float, right: float, y: float) -> list[Piece]:
    paint: Paint = "light" if rng.random() < 0.5 else "accent"
    return [Piece(ribbon([(left, y), (right, y)], [rng.uniform(0.03, 0.07)]), None, paint)]


def _car_wheel(rng: np.random.Generator, center: tuple[float, float], radius: float, paint: Paint) -> list[Piece]:
    hub = rng.uniform(0.35, 0.6) * radius
    pieces = [Piece(ellipse(center, (radius, radius)), "tier", paint)]
    pieces.append(Piece(ellipse(center, (hub, hub)), None, "light" if paint == "metal" else "metal"))
    pieces.append(Piece(ellipse(center, (hub * 0.35, hub * 0.35)), None, "dark"))
    return pieces


def _side_mirror(rng: np.random.Generator, shape: CarShape, paint: Paint) -> Piece:
    """A mirror on the door, just behind the foot of the windscreen: round, boxy or drop-shaped."""
    size = 1.0 if shape.deck < shape.bonnet + 0.1 and shape.roof > -0.55 else 1.2  # taller cars, larger mirrors
    width, height = size * rng.uniform(0.14, 0.18), size * rng.uniform(0.12, 0.15)
    x, y = shape.screen_base - width * 0.9, shape.bonnet - 0.05
    box = [(x - width, y - height), (x + width * 0.8, y - height), (x + width, y + height * 0.4), (x, y + height)]
    drop = [(x - width, y - height), (x - width * 0.7, y + height), (x + width * 1.4, y + height * 0.6)]
    shapes = [ellipse((x, y), (width, height)), rounded(box, 0.05), rounded(drop, 0.06)]
    return Piece(shapes[int(rng.integers(len(shapes)))], "side mirror", paint)


def _car_front(rng: np.random.Generator, paints: Mapping[str, Paint]) -> list[Piece]:
    """A car seen from in front: wheels below, a mirror at each side."""
    roof, waist, floor = rng.uniform(0.42, 0.62), rng.uniform(0.75, 0.85), 0.5
    top, drop = -rng.uniform(0.5, 0.85), rng.uniform(0.22, 0.32)
    body = [(-waist, floor), (-waist, 0.0), (-waist * 0.9, -0.1), (-roof, top)]
    screen = [(-waist * 0.78, -0.12), (-roof * 0.88, top + 0.1)]
    pieces = []
    for side in (-1, 1):
        x = side * (waist - 0.17)
        tyre = [(x - 0.17, 0.3), (x + 0.17, 0.3), (x + 0.17, floor + drop), (x - 0.17, floor + drop)]
        pieces.append(Piece(rounded(tyre, 0.07), "tier", paints["tier"]))
    pieces.append(Piece(rounded(_mirrored(body), rng.uniform(0.05, 0.15)), "body", paints["body"]))
    pieces.append(Piece(rounded(_mirrored(screen), 0.06), None, "glass"))
    grille = [(-0.3, 0.34), (-0.34, rng.uniform(0.08, 0.18))]
    pieces.append(Piece(rounded(_mirrored(grille), 0.05), None, "dark" if paints["body"] != "dark" else "metal"))
    lamp = rng.uniform(0.09, 0.13)
    for side in (-1, 1):
        pieces.append(Piece(ellipse((side * waist * 0.7, 0.2), (lamp, lamp)), None, "light"))
        mirror = ellipse((side * (waist + 0.1), -0.16), (rng.uniform(0.14, 0.17), rng.uniform(0.1, 0.13)), side * 0.2)
        pieces.append(Piece(mirror, "side mirror", paints["side mirror"]))
    return pieces


def _mirrored(half: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A closed outline from its left half, listed from below upwards."""
    return half + [(-x, y) for x, y in reversed(half)]


@dataclass(frozen=True)
class BicycleShape:
    """Lengths of a bicycle whose axles lie on y = 0; `bar` names a handlebar of `_handlebar`."""

    wheel: float
    saddle: float
    bar: str
    step_through: bool
    tube: float


BICYCLES: Mapping[str, BicycleShape] = MappingProxyType(
    {
        "racing": BicycleShape(wheel=0.46, saddle=0.74, bar="drop", step_through=False, tube=0.08),
        "city": BicycleShape(wheel=0.46, saddle=0.70, bar="swept", step_through=True, tube=0.10),
        "mountain": BicycleShape(wheel=0.48, saddle=0.68, bar="flat", step_through=False, tube=0.12),
        "folding": BicycleShape(wheel=0.32, saddle=0.80, bar="high", step_through=True, tube=0.11),
        "children's": BicycleShape(wheel=0.40, saddle=0.58, bar="high", step_through=False, tube=0.13),
    }
)


def draw_bicycle(rng: np.random.Generator) -> Figure:
    """Draw a bicycle from the side, its front wheel turned a little."""
    shape = BICYCLES[str(rng.choice(list(BICYCLES)))]
    paints = deal_paints(rng, PARTS["bicycle"])
    radius, half_base = shape.wheel * rng.uniform(0.93, 1.07), rng.uniform(0.53, 0.6)
    rear, front = (-half_base, 0.0), (half_base, 0.0)
    steering = rng.uniform(0.75, 1.0)
    look = int(rng.integers(2**32))  # both wheels share one seed
    pieces: list[Piece] = []
    for center, width in ((rear, radius), (front, radius * steering)):
        pieces += _bicycle_wheel(np.random.default_rng(look), center, (width, radius), paints["tier"])
    saddle = (rng.uniform(-0.34, -0.26), -shape.saddle * rng.uniform(0.95, 1.08))
    head = (half_base - rng.uniform(0.2, 0.26), -rng.uniform(0.5, 0.58))
    pieces += _frame(shape, (rear, front), saddle, head, paints["body"])
    pieces += _cranks(rng, paints["body"])
    pieces.append(Piece(_saddle(rng, saddle), "seat", paints["seat"]))
    pieces += [Piece(bar, "head", paints["head"]) for bar in _handlebar(shape.bar, head, rng.uniform(0.95, 1.15))]
    return fitted("bicycle", pieces, angle=rng.uniform(-0.08, 0.08))


def _bicycle_wheel(
    rng: np.random.Generator, center: tuple[float, float], radii: tuple[float, float], paint: Paint
) -> list[Piece]:
    """A disc for the mask; on it, optionally, the lighter inside of a tyre, and spokes."""
    pieces = [Piece(ellipse(center, radii), "tier", paint)]
    rim = rng.uniform(0.78, 0.88)
    inside: Paint = "light" if rng.random() < 0.6 else "glass"
    if rng.random() < 0.7:
        pieces.append(Piece(ellipse(center, (radii[0] * rim, radii[1] * rim)), None, inside))
    spokes = int(rng.integers(3, 7))
    spoke_paint: Paint = "dark" if paint != "dark" else "metal"
    for turn in rng.uniform(0, np.pi) + np.arange(spokes) * np.pi / spokes:
        tip = np.array([np.cos(turn) * radii[0], np.sin(turn) * radii[1]]) * rim
        line = np.stack([np.asarray(center) - tip, np.asarray(center) + tip])
        pieces.append(Piece(ribbon(line, [0.018]), None, spoke_paint))
    return pieces


def _frame(
    shape: BicycleShape,
    axles: tuple[tuple[float, float], tuple[float, float]],
    saddle: tuple[float, float],
    head: tuple[float, float],
    paint: Paint,
) -> list[Piece]:
    """Tubes between axles, bottom bracket, saddle and steering head."""
    bracket = (-0.06, 0.04)
    upper = 0.35 if shape.step_through else 0.72  # how far up the seat tube the top tube begins
    joint = (bracket[0] + upper * (saddle[0] - bracket[0]), bracket[1] + upper * (saddle[1] - bracket[1]))
    low_head = (head[0] + 0.03, head[1] + 0.12)
    chain_side = [(axles[0], bracket), (axles[0], joint)]
    tubes = [*chain_side, (bracket, low_head), (joint, head), (bracket, saddle), (head, axles[1])]
    return [Piece(ribbon([a, b], [shape.tube]), "body", paint) for a, b in tubes]


def _cranks(rng: np.random.Generator, paint: Paint) -> list[Piece]:
    center, turn = (-0.06, 0.04), rng.uniform(-0.8, 0.8)
    pieces = [Piece(ellipse(center, (0.12, 0.12)), "body", paint)]
    for side in (0.0, np.pi):
        arm = rotate(np.array([[0.0, 0.0], [0.24, 0.0]]), turn + side) + np.asarray(center)
        x, y = arm[1]
        pedal = np.array([[x - 0.09, y - 0.03], [x + 0.09, y - 0.03], [x + 0.09, y + 0.03], [x - 0.09, y + 0.03]])
        pieces += [Piece(ribbon(arm, [0.05]), "body", paint), Piece(pedal, "body", paint)]
    pieces.append(Piece(ellipse(center, (0.05, 0.05)), None, "light"))
    return pieces


def _saddle(rng: np.random.Generator, post: tuple[float, float]) -> Points:
    """Wide behind, a thin nose in front; randomly slim or wide."""
    length, height = rng.uniform(0.25, 0.29), rng.uniform(0.13, 0.17)
    x, y = post[0], post[1] - 0.05
    outline = [
        (x - length, y - height * 0.8),
        (x - length * 0.3, y - height * 0.5),
        (x + length, y - height * 0.55),
        (x + length, y),
        (x + length * 0.1, y + height * 0.2),
        (x - length * 0.8, y + height * 0.6),
    ]
    return rounded(outline, 0.07)


def _handlebar(name: str, head: tuple[float, float], size: float) -> list[Points]:
    """Outlines of stem and bar, the bar drawn as a path from the stem's foot at (0, 0)."""
    paths: dict[str, list[tuple[float, float]]] = {
        "drop": [(-0.02, -0.22), (0.14, -0.26), (0.28, -0.22), (0.33, -0.09), (0.29, 0.03), (0.18, 0.06)],
        "swept": [(0.06, -0.2), (0.07, -0.3), (-0.02, -0.36), (-0.16, -0.34), (-0.3, -0.27)],
        "flat": [(-0.16, -0.17), (0.0, -0.22), (0.18, -0.29)],
        "high": [(0.0, -0.2), (0.03, -0.32), (0.0, -0.42), (-0.1, -0.45), (-0.24, -0.42)],
    }
    bar = np.asarray(paths[name]) * size + np.asarray(head)
    foot = np.asarray(head) + np.array([0.02, 0.06])
    top = bar[1] if name == "flat" else bar[0]
    width = 0.13 if name == "flat" else 0.1
    return [ribbon(np.stack([foot, top]), [0.11]), ribbon(smooth(bar, closed=False, steps=4), [width])]
