"""Bipeds of PartWorld: monkeys and apes with their PartImageNet parts, standing, sitting, climbing or on all fours.

Annotation rules are those of PartImageNet: a hand is the whole arm and a foot the whole leg. Gorilla-like figures have
a tail, so that every figure has every part of its category.
"""

from dataclasses import dataclass

import numpy as np

from cores_core.data.partworld.shapes import Figure, ellipse
from cores_core.data.partworld.sketch import Point, Sketch, curve, tube


@dataclass(frozen=True)
class _Build:
    """Proportions of one biped whose torso is about 0.7 long."""

    girth: float
    arm: Point  # length, width
    leg: Point  # length, width
    skull: float  # radius
    tail: Point  # length, width


def draw_biped(rng: np.random.Generator) -> Figure:
    """Draw a monkey or a gorilla-like ape: facing us, hanging, sitting sideways, or walking on its knuckles."""
    build = _build(rng)
    sketch = Sketch("biped", rng)
    pose = rng.choice(["front", "hanging", "sitting", "knuckles"], p=[0.35, 0.2, 0.25, 0.2])
    if pose == "sitting":
        _sitting(sketch, rng, build)
    elif pose == "knuckles":
        _on_knuckles(sketch, rng, build)
    else:
        _facing(sketch, rng, build, hanging=pose == "hanging")
    return sketch.figure(tilt=rng.uniform(-0.12, 0.12))


def _build(rng: np.random.Generator) -> _Build:
    heavy = rng.random() < 0.4
    girth = rng.uniform(0.5, 0.62) if heavy else rng.uniform(0.32, 0.44)
    return _Build(
        girth=girth,
        arm=(rng.uniform(0.75, 0.95), 0.17 if heavy else rng.uniform(0.11, 0.14)),
        leg=(rng.uniform(0.5, 0.6) if heavy else rng.uniform(0.6, 0.8), 0.19 if heavy else rng.uniform(0.13, 0.16)),
        skull=rng.uniform(0.22, 0.28),
        tail=(rng.uniform(0.5, 0.7) if heavy else rng.uniform(0.9, 1.3), rng.uniform(0.11, 0.14)),
    )


def _bent(root: Point, heading: float, length: float, bend: float) -> list[Point]:
    """Three joints of a limb: it leaves `root` along `heading` and turns by `bend` at its middle."""
    x, y = root[0] + 0.5 * length * np.cos(heading), root[1] + 0.5 * length * np.sin(heading)
    return [root, (x, y), (x + 0.5 * length * np.cos(heading + bend), y + 0.5 * length * np.sin(heading + bend))]


def _arm(sketch: Sketch, build: _Build, shoulder: Point, heading: float, bend: float) -> None:
    length, width = build.arm
    sketch.limb("hand", _bent(shoulder, heading, length, bend), [1.3 * width, width, 0.85 * width])
    x, y = _bent(shoulder, heading, 1.05 * length, bend)[-1]
    sketch.add("hand", ellipse((x, y), (0.85 * width, 0.68 * width), heading + bend))
    for finger in (-0.5, 0.1, 0.7):
        sketch.add("hand", tube(curve((x, y), heading + bend + finger, 1.3 * width, 0.0, count=3), [0.06, 0.045]))


def _leg(sketch: Sketch, build: _Build, hip: Point, heading: float, bend: float, toes: int) -> None:
    """Paint a leg whose foot points to the side `toes` (-1 or 1)."""
    length, width = build.leg
    joints = _bent(hip, heading, length, bend)
    sketch.limb("foot", joints, [1.6 * width, 1.2 * width, width])
    x, y = joints[-1]
    sketch.add("foot", tube([(x - 0.02 * toes, y + 0.03), (x + 0.2 * toes, y + 0.05)], [1.1 * width, 0.75 * width]))


def _facing(sketch: Sketch, rng: np.random.Generator, build: _Build, hanging: bool) -> None:
    half, side = 0.5 * build.girth, rng.choice([-1, 1])
    length, width = build.tail
    heading = np.pi / 2 - side * rng.uniform(0.7, 1.3)
    tail = curve((0.0, 0.33), heading, length + 1.2 * build.girth, -side * rng.uniform(1.6, 2.8), count=14)
    sketch.add("tail", tube(tail, [width, width, 0.8 * width]))
    squat = rng.uniform(0.1, 0.8)
    for s in (-1, 1):
        _leg(sketch, build, (0.6 * half * s, 0.3), np.pi / 2 - s * squat, s * squat * rng.uniform(1.0, 1.4), s)
    widths = [0.8 * build.girth, build.girth, 0.9 * build.girth]
    sketch.add("body", tube([(0.0, -0.3), (0.0, 0.0), (0.0, 0.26)], widths))
    if rng.random() < 0.5:
        sketch.mark(rng.choice(["light", "second", "accent"]), ellipse((0.0, 0.1), (0.3 * build.girth, 0.24)))
    _face(sketch, rng, build, (rng.uniform(-0.06, 0.06), -0.42 - 0.85 * build.skull))
    raised = (True, True) if hanging else (bool(rng.random() < 0.25), bool(rng.random() < 0.15))
    for s, up in zip((-1, 1), raised, strict=True):
        aim = rng.uniform(-0.9, -0.5) if up else rng.uniform(0.5, 1.0)
        bend = rng.uniform(-0.7, -0.3) if up else rng.uniform(0.2, 1.0)
        shoulder = (s * (0.85 * half), -0.33)
        _arm(sketch, build, shoulder, aim if s > 0 else np.pi - aim, s * bend)


def _face(sketch: Sketch, rng: np.random.Generator, build: _Build, at: Point) -> None:
    """Head seen from the front: round ears, a pale face, two eyes, nose and mouth."""
    x, y = at
    r = build.skull
    sketch.add("head", *(ellipse((x + 1.0 * s * r, y), (0.36 * r, 0.42 * r)) for s in (-1, 1)))
    sketch.add("head", ellipse(at, (r, 1.05 * r)), ellipse((x, y + 0.5 * r), (0.72 * r, 0.6 * r)))
    if rng.random() < 0.75:
        pale = [ellipse((x + 0.32 * s * r, y - 0.15 * r), (0.4 * r, 0.45 * r)) for s in (-1, 1)]
        sketch.mark("second", *pale, ellipse((x, y + 0.5 * r), (0.6 * r, 0.48 * r)))
    for s in (-1, 1):
        sketch.eye((x + 0.32 * s * r, y - 0.15 * r), 0.17 * r)
        sketch.mark("dark", ellipse((x + 0.1 * s * r, y + 0.3 * r), (0.06 * r, 0.06 * r), count=10))
    sketch.mark("dark", tube([(x - 0.3 * r, y + 0.6 * r), (x, y + 0.7 * r), (x + 0.3 * r, y + 0.6 * r)], [0.02, 0.02]))


def _profile(sketch: Sketch, rng: np.random.Generator, build: _Build, at: Point) -> None:
    """Head seen from the side, its muzzle to the right."""
    x, y = at
    r = build.skull
    sketch.add("head", ellipse(at, (r, r)), ellipse((x + 0.7 * r, y + 0.4 * r), (0.62 * r, 0.48 * r), 0.2))
    if rng.random() < 0.75:
        sketch.mark(
            "second",
            ellipse((x + 0.5 * r, y - 0.15 * r), (0.38 * r, 0.42 * r)),
            ellipse((x + 0.75 * r, y + 0.42 * r), (0.5 * r, 0.38 * r), 0.2),
        )
    ear = ellipse((x - 0.35 * r, y), (0.36 * r, 0.42 * r))
    sketch.add("head", ear)
    sketch.mark(rng.choice(["second", "accent"]), ellipse((x - 0.33 * r, y), (0.22 * r, 0.28 * r)))
    sketch.eye((x + 0.5 * r, y - 0.2 * r), 0.16 * r)
    sketch.mark("dark", tube([(x + 1.15 * r, y + 0.5 * r), (x + 0.7 * r, y + 0.6 * r)], [0.02, 0.02]))


def _sitting(sketch: Sketch, rng: np.random.Generator, build: _Build) -> None:
    girth = build.girth
    length, width = build.tail
    hip, chest = (-0.15, 0.32), (rng.uniform(-0.05, 0.12), -0.25)
    tail = curve((hip[0] - 0.2 * girth, hip[1] + 0.1), np.pi - 0.1, length, rng.uniform(0.3, 2.6), count=14)
    sketch.add("tail", tube(tail, [width, width, 0.8 * width]))
    reach = rng.uniform(-0.3, 1.0)
    _arm(sketch, build, (chest[0] + 0.1, chest[1] + 0.05), reach, rng.uniform(-0.9, 0.2))
    _leg(sketch, build, (hip[0] + 0.15, hip[1]), -0.35, 1.7, 1)
    sketch.add("body", tube([hip, (hip[0] + 0.02, 0.05), chest], [1.05 * girth, girth, 0.8 * girth]))
    _profile(sketch, rng, build, (chest[0] + 0.1, chest[1] - 0.5 * girth - 0.4 * build.skull))
    _leg(sketch, build, (hip[0], hip[1] + 0.06), -0.4 + rng.uniform(-0.15, 0.1), 1.8, 1)
    _arm(sketch, build, (chest[0] - 0.05, chest[1] + 0.05), rng.uniform(0.8, 1.5), rng.uniform(-1.2, -0.5))


def _on_knuckles(sketch: Sketch, rng: np.random.Generator, build: _Build) -> None:
    girth = 1.05 * build.girth
    length, width = build.tail
    hip, chest = (-0.4, 0.08), (0.28, -0.18)
    tail = curve((hip[0] - 0.35 * girth, hip[1] - 0.05), np.pi - 0.2, length, rng.uniform(0.3, 2.2), count=14)
    sketch.add("tail", tube(tail, [width, width, 0.8 * width]))
    stride = rng.uniform(0.1, 0.35)
    _arm(sketch, build, (chest[0] + 0.08, chest[1] + 0.05), 1.4 - stride, 0.15)
    _leg(sketch, build, (hip[0] + 0.12, hip[1] + 0.1), 1.2 - stride, 0.6, 1)
    sketch.add("body", tube([hip, (-0.05, -0.08), chest], [0.9 * girth, girth, 1.05 * girth]))
    _profile(sketch, rng, build, (chest[0] + 0.45 * girth + 0.3 * build.skull, chest[1] - rng.uniform(0.1, 0.35)))
    _leg(sketch, build, (hip[0] - 0.02, hip[1] + 0.1), 1.3 + 0.5 * stride, 0.5, 1)
    _arm(sketch, build, (chest[0] - 0.03, chest[1] + 0.05), 1.6 + stride, -0.2)
