"""Reptiles of PartWorld: lizards, crocodiles and turtles with their PartImageNet parts, from the side or from above.

Annotation rules are those of PartImageNet: a foot is the whole leg, a turtle's shell belongs to its body.
"""

import numpy as np

from cores_core.data.partworld.shapes import Figure, Points, ellipse, smooth
from cores_core.data.partworld.sketch import Point, Sketch, curve, leaf, place, tube


def draw_reptile(rng: np.random.Generator) -> Figure:
    """Draw a lizard from above or from the side, a crocodile, or a turtle from above or from the side."""
    sketch = Sketch("reptile", rng)
    kind = rng.choice(["above", "lizard", "crocodile", "turtle", "turtle above"], p=[0.25, 0.25, 0.2, 0.2, 0.1])
    if kind == "above":
        _lizard_above(sketch, rng)
        return sketch.figure(tilt=rng.uniform(-1.0, 1.0))
    if kind == "turtle above":
        _turtle_above(sketch, rng)
        return sketch.figure(tilt=rng.uniform(-1.0, 1.0))
    if kind == "turtle":
        _turtle(sketch, rng)
    else:
        _lizard(sketch, rng, crocodile=kind == "crocodile")
    return sketch.figure(tilt=rng.uniform(-0.1, 0.1))


def _lizard(sketch: Sketch, rng: np.random.Generator, crocodile: bool) -> None:
    half, girth = rng.uniform(0.3, 0.42), rng.uniform(0.3, 0.42)
    width, ground = rng.uniform(0.13, 0.16), rng.uniform(0.36, 0.48)
    rear, chest = (-half, 0.05), (half, -0.02)
    tail = curve(rear, np.pi - rng.uniform(0.0, 0.3), rng.uniform(0.8, 1.1), rng.uniform(-0.3, 1.9))
    sketch.add("tail", tube(tail, [0.8 * girth, 0.4 * girth, 0.05]))
    for x, knee in ((rear[0] + 0.2, -0.16), (chest[0] + 0.08, 0.1)):
        sketch.limb("foot", [(x, 0.08), (x + knee, 0.2), (x + 0.08, ground)], [0.15, width, width], (0.12, 0.06))
    sketch.add("body", tube([rear, (0.0, 0.0), chest, (half + 0.2, -0.1)], [0.85 * girth, girth, girth, 0.7 * girth]))
    if crocodile or rng.random() < 0.4:
        top = 0.04 - 0.45 * girth
        sketch.add("body", *(leaf((x, top), -1.9, 0.17, 0.12, 0.0) for x in np.linspace(-half, half, 6)))
    _lizard_head(sketch, rng, (half + 0.28, -0.13), crocodile)
    for x, knee in ((rear[0] + 0.02, -0.18), (chest[0] - 0.08, 0.12)):
        swing = rng.uniform(-0.1, 0.12)
        joints = [(x, 0.06), (x + knee, 0.2), (x + swing, ground + 0.04)]
        sketch.limb("foot", joints, [0.2, 1.1 * width, width], (0.14, 0.065))
    sketch.coat(rng, (rear[0] + 0.15, 0.0), (chest[0], 0.0), 0.8 * girth)


def _lizard_head(sketch: Sketch, rng: np.random.Generator, at: Point, crocodile: bool) -> None:
    x, y = at
    if crocodile:
        gape = rng.uniform(0.0, 0.3)
        sketch.add("head", tube(place([(0.0, 0.04), (0.5, 0.06)], at, gape), [0.18, 0.07]))
        sketch.add("head", tube(place([(0.0, -0.02), (0.3, 0.0), (0.52, -0.02)], at, -0.3 * gape), [0.24, 0.12, 0.09]))
        sketch.add("head", ellipse((x + 0.03, y - 0.1), (0.08, 0.07)))
        sketch.eye((x + 0.04, y - 0.1), 0.035)
        return
    nod = rng.uniform(-0.35, 0.25)
    jaw = smooth([(-0.2, -0.1), (0.0, -0.15), (0.2, -0.09), (0.36, 0.0), (0.3, 0.09), (0.0, 0.14), (-0.2, 0.1)])
    sketch.add("head", place(jaw * rng.uniform(1.1, 1.4), at, nod))
    sketch.mark("dark", tube(place([(0.08, 0.05), (0.3, 0.03)], at, nod), [0.015, 0.015]))
    sketch.eye((x + 0.1, y - 0.05), 0.035)


def _lizard_above(sketch: Sketch, rng: np.random.Generator) -> None:
    turn, width = rng.uniform(-0.7, 0.7), rng.uniform(0.22, 0.32)
    spine = curve((0.0, 0.0), 0.0, 0.75, turn)
    tail = curve((0.02, 0.0), np.pi, rng.uniform(0.8, 1.1), rng.choice([-1, 1]) * rng.uniform(0.4, 1.8), count=14)
    sketch.add("tail", tube(tail, [0.75 * width, 0.4 * width, 0.04]))
    for knot, aim in ((1, 0.0), (8, turn)):
        for side in (-1, 1):
            heading = aim + side * (np.pi / 2 + rng.uniform(-0.35, 0.35))
            hip = spine[knot]
            knee = hip + 0.28 * np.asarray([np.cos(heading), np.sin(heading)])
            shin = heading - side * rng.uniform(0.5, 1.0)
            foot = knee + 0.2 * np.asarray([np.cos(shin), np.sin(shin)])
            sketch.limb("foot", [tuple(hip), tuple(knee), tuple(foot)], [0.14, 0.11, 0.09])
            sketch.add("foot", *(leaf(tuple(foot), shin + toe, 0.15, 0.08, 0.8) for toe in (-0.7, 0.0, 0.7)))
    sketch.add("body", tube(spine, [0.7 * width, width, 1.05 * width, 0.65 * width]))
    if rng.random() < 0.6:
        sketch.mark(rng.choice(["dark", "light", "accent"]), *(ellipse(tuple(at), (0.05, 0.05)) for at in spine[1:9:2]))
    at = (float(spine[-1, 0]), float(spine[-1, 1]))
    jaw = smooth(
        [(-0.08, 0.0), (0.0, -0.14), (0.14, -0.16), (0.3, -0.08), (0.36, 0.0), (0.3, 0.08), (0.14, 0.16), (0.0, 0.14)]
    )
    sketch.add("head", place(jaw * rng.uniform(0.95, 1.2), at, turn))
    for eye in place([(0.16, -0.1), (0.16, 0.1)], at, turn):
        sketch.eye(tuple(eye), 0.035)


def _shell_marks(sketch: Sketch, rng: np.random.Generator, spots: Points, radius: float) -> None:
    if rng.random() < 0.8:
        paint = rng.choice(["dark", "light", "accent"])
        sketch.mark(paint, *(ellipse(tuple(spot), (radius, radius), 0.5, count=6) for spot in spots))


def _turtle(sketch: Sketch, rng: np.random.Generator) -> None:
    height, width = rng.uniform(0.45, 0.7), rng.uniform(0.16, 0.2)
    sketch.add("tail", leaf((-0.5, 0.02), np.pi - rng.uniform(-0.2, 0.3), rng.uniform(0.46, 0.56), 0.32, 0.1))
    for x, swing in ((-0.3, 0.1), (0.45, 0.1)):
        sketch.limb("foot", [(x, 0.0), (x + swing, 0.28)], [1.2 * width, width], (0.11, 0.06))
    neck = curve((0.45, 0.0), rng.uniform(-0.8, -0.1), rng.uniform(0.35, 0.5), rng.uniform(-0.2, 0.5))
    sketch.add("body", tube(neck, [0.22, 0.17]))
    sketch.add("head", ellipse(tuple(neck[-1] + (0.06, 0.0)), (0.21, 0.155), rng.uniform(-0.2, 0.3)))
    sketch.eye((float(neck[-1, 0]) + 0.14, float(neck[-1, 1]) - 0.04), 0.035)
    for x, swing in ((-0.4, -0.08), (0.34, 0.03)):
        sketch.limb("foot", [(x, 0.02), (x + swing, 0.33)], [1.4 * width, 1.1 * width], (0.13, 0.07))
    sketch.add(
        "body",
        smooth(
            [
                (-0.66, 0.08),
                (-0.5, -0.55 * height),
                (0.0, -height),
                (0.45, -0.6 * height),
                (0.64, 0.06),
                (0.3, 0.13),
                (-0.3, 0.14),
            ]
        ),
    )
    spots = np.asarray([(-0.36, -0.3), (0.0, -0.35), (0.34, -0.3), (-0.18, -0.68), (0.16, -0.68)]) * (1, height)
    _shell_marks(sketch, rng, spots, 0.2 * height)


def _turtle_above(sketch: Sketch, rng: np.random.Generator) -> None:
    long, wide = rng.uniform(0.5, 0.6), rng.uniform(0.4, 0.5)
    sketch.add("tail", leaf((-0.8 * long, 0.0), np.pi + rng.uniform(-0.3, 0.3), 0.5, 0.32, 0.1))
    for side in (-1, 1):
        front = rng.uniform(0.7, 1.5)
        sketch.add("foot", leaf((0.5 * long, 0.6 * wide * side), front * side, 0.5, 0.26, 0.8))
        rear = 2.3 + rng.uniform(-0.3, 0.3)
        sketch.add("foot", leaf((-0.55 * long, 0.55 * wide * side), rear * side, 0.42, 0.25, 0.9))
    nose = rng.uniform(-0.1, 0.1)
    sketch.add("head", tube([(0.6 * long, 0.0), (long + 0.2, nose)], [0.22, 0.27]))
    sketch.add("body", ellipse((0.0, 0.0), (long, wide)))
    for aside in (-0.07, 0.07):
        sketch.eye((long + 0.2, nose + aside), 0.03)
    ring = curve((0.0, -0.55 * wide), 0.0, 2 * np.pi * 0.55 * wide, 2 * np.pi, count=6)[:-1]
    _shell_marks(sketch, rng, np.concatenate([ring - ring.mean(axis=0), [(0.0, 0.0)]]), 0.22 * wide)
