"""Quadrupeds of PartWorld, drawn with their PartImageNet parts in many builds and poses.

Annotation rules are those of PartImageNet: a foot is the whole leg, the neck belongs to the body, ears, horns and trunk
belong to the head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from cores_core.data.partworld.shapes import Figure, ellipse, smooth
from cores_core.data.partworld.sketch import Point, Sketch, curve, leaf, place, tube


@dataclass(frozen=True)
class _Build:
    """Proportions of one sort of quadruped; a body is about 1 long. Angles in radians, clockwise on the screen."""

    girth: float
    leg: Point  # length below the belly line's hip, width
    neck: tuple[float, float, float]  # length, heading, width
    skull: float  # radius
    muzzle: Point  # length, width of its end
    ear: str
    tail: tuple[float, float, float, float, float]  # length, root width, end width, heading, turn
    toe: float = 1.0  # length of a paw, in leg widths
    crown: str = "none"


_FAN = ((0.1, -0.7), (-0.7, -0.95), (-1.5, -0.5), (-1.4, 0.5), (-0.7, 1.15), (-0.1, 0.5))
_BUILDS: Mapping[str, _Build] = MappingProxyType(
    {
        "cat": _Build(0.36, (0.48, 0.13), (0.2, -0.8, 0.26), 0.2, (0.2, 0.15), "pointed", (0.75, 0.11, 0.09, 3.3, 1.6)),
        "dog": _Build(
            0.38, (0.52, 0.14), (0.28, -0.9, 0.25), 0.18, (0.36, 0.15), "floppy", (0.5, 0.13, 0.08, 3.7, 1.0)
        ),
        "fox": _Build(
            0.33, (0.45, 0.11), (0.24, -0.8, 0.22), 0.18, (0.34, 0.07), "pointed", (0.65, 0.12, 0.22, 2.9, 0.5)
        ),
        "horse": _Build(
            0.4,
            (0.72, 0.13),
            (0.52, -1.0, 0.26),
            0.16,
            (0.44, 0.18),
            "upright",
            (0.65, 0.12, 0.18, 2.7, -1.0),
            0.75,
            "mane",
        ),
        "deer": _Build(
            0.36,
            (0.7, 0.11),
            (0.5, -1.15, 0.19),
            0.15,
            (0.36, 0.12),
            "upright",
            (0.33, 0.17, 0.13, 3.6, 0.6),
            0.75,
            "antlers",
        ),
        "cow": _Build(
            0.5,
            (0.5, 0.15),
            (0.26, -0.45, 0.34),
            0.2,
            (0.38, 0.22),
            "floppy",
            (0.7, 0.1, 0.12, 2.6, -1.0),
            0.75,
            "horns",
        ),
        "bear": _Build(
            0.56, (0.46, 0.2), (0.25, -0.35, 0.42), 0.24, (0.34, 0.18), "round", (0.28, 0.2, 0.16, 3.4, 0.3), 1.1
        ),
        "elephant": _Build(
            0.66, (0.62, 0.23), (0.18, -0.5, 0.42), 0.27, (0.95, 0.1), "fan", (0.6, 0.12, 0.1, 2.5, -0.8), 0.75, "trunk"
        ),
    }
)


def draw_quadruped(rng: np.random.Generator) -> Figure:
    """Draw a cat, dog, fox, horse, deer, cow, bear or elephant: walking, sitting, lying, or seen from the front."""
    build = _BUILDS[rng.choice(list(_BUILDS))]
    poses = ["walk", "sit", "lie", "front"]
    pose = rng.choice(poses, p=[0.8, 0.0, 0.1, 0.1] if build.toe < 1 else [0.5, 0.2, 0.15, 0.15])
    if build.crown == "trunk" and pose == "lie":
        pose = "walk"
    sketch = Sketch("quadruped", rng)
    if pose == "front":
        _front_quadruped(sketch, rng, build)
        return sketch.figure(tilt=rng.uniform(-0.06, 0.06))
    {"walk": _walking, "sit": _sitting, "lie": _lying}[pose](sketch, rng, build)
    return sketch.figure(tilt=rng.uniform(-0.12, 0.12))


def _vary(rng: np.random.Generator, value: float, share: float = 0.15) -> float:
    return value * rng.uniform(1 - share, 1 + share)


def _tail(sketch: Sketch, rng: np.random.Generator, build: _Build, root: Point, lift: float = 0.0) -> None:
    length, wide, narrow, heading, turn = build.tail
    path = curve(root, heading + lift + rng.uniform(-0.35, 0.35), _vary(rng, length), turn * rng.uniform(0.2, 1.3))
    sketch.add("tail", tube(path, [wide, 0.5 * (wide + narrow), narrow]))


def _torso(sketch: Sketch, rear: Point, chest: Point, girth: float) -> None:
    """Paint the torso from rear to chest."""
    middle = (0.5 * (rear[0] + chest[0]), 0.5 * (rear[1] + chest[1]) + 0.04)
    sketch.add("body", tube([rear, middle, chest], [0.95 * girth, 0.88 * girth, girth]))


def _neck_and_head(sketch: Sketch, rng: np.random.Generator, build: _Build, chest: Point, droop: float) -> None:
    length, heading, width = build.neck
    root = (chest[0] + 0.03, chest[1] - 0.15 * build.girth)
    heading += droop
    path = curve(root, heading, _vary(rng, length) + 0.25 * build.girth, 0.15)
    sketch.add("body", tube(path, [0.75 * build.girth, 1.1 * width, width]))
    if build.crown == "mane":
        sketch.mark("dark", tube(path[3:] + np.array([-0.22 * width, 0.0]), [0.05, 0.08, 0.06]))
    at = (float(path[-1, 0]) + 0.04, float(path[-1, 1]) - 0.03)
    _side_head(sketch, rng, build, at, angle=rng.uniform(-0.25, 0.3) + 0.4 * droop)


def _side_head(sketch: Sketch, rng: np.random.Generator, build: _Build, at: Point, angle: float) -> None:
    """Paint skull, muzzle, ears and crown around `at`; `angle` nods downwards."""
    r = _vary(rng, build.skull, 0.1)
    reach, end = build.muzzle
    _crown(sketch, rng, build, at, r)
    if build.crown == "trunk":
        path = curve((at[0] + 0.6 * r, at[1] + 0.2 * r), 1.0 + angle, reach, rng.choice([-1.6, 0.5, 1.2]))
        sketch.add("head", tube(path, [1.1 * r, 0.6 * r, end + 0.04]))
        tusk = tube(curve((at[0] + 0.6 * r, at[1] + 0.65 * r), 0.9, 0.3, -0.9, count=5), [0.08, 0.03])
        sketch.add("head", tusk)
        sketch.mark("light", tusk)
    else:
        path = place([(0.0, 0.15 * r), (0.6 * reach, 0.3 * r), (reach, 0.4 * r)], at, angle + 0.2)
        sketch.add("head", tube(path, [1.5 * r, 0.5 * (1.3 * r + end), end]))
        sketch.mark("dark", ellipse(tuple(path[-1] + (0.15 * end, -0.1 * end)), (0.25 * end, 0.22 * end), count=14))
    sketch.add("head", ellipse(at, (1.05 * r, r)))
    _ears(sketch, build, at, r)
    sketch.eye((at[0] + 0.45 * r, at[1] - 0.15 * r), 0.15 * r)


def _ears(sketch: Sketch, build: _Build, at: Point, r: float) -> None:
    x, y = at
    ears = {
        "pointed": [
            leaf((x + dx * r, y - 0.5 * r), -1.7 + lean, 1.05 * r, 0.7 * r, 0.0)
            for dx, lean in ((0.25, 0.3), (-0.35, -0.1))
        ],
        "upright": [leaf((x - 0.2 * r, y - 0.6 * r), -1.9 + lean, 1.2 * r, 0.6 * r, 0.2) for lean in (0.4, -0.3)],
        "floppy": [leaf((x - 0.35 * r, y - 0.6 * r), 2.0, 1.5 * r, 0.75 * r, 1.0)],
        "round": [ellipse((x + dx * r, y - 0.85 * r), (0.38 * r, 0.38 * r)) for dx in (0.3, -0.5)],
        "fan": [place(smooth(_FAN) * r, at)],
    }[build.ear]
    sketch.add("head", *ears)
    if build.ear in ("floppy", "fan"):
        sketch.mark("dark", tube(curve((x - 0.15 * r, y - 0.3 * r), 1.7, 0.8 * r, 0.4, count=5), [0.02, 0.02]))


def _crown(sketch: Sketch, rng: np.random.Generator, build: _Build, at: Point, r: float) -> None:
    """Paint horns or antlers behind the skull."""
    root = (at[0] - 0.1 * r, at[1] - 0.6 * r)
    if build.crown == "horns":
        for heading in (-1.3, -0.6):
            sketch.add("head", tube(curve(root, heading, 0.25, -0.9), [0.1, 0.04]))
    elif build.crown == "antlers" and rng.random() < 0.7:
        for heading in (-2.1, -1.2):
            beam = curve(root, heading, 0.42, 0.3)
            sketch.add("head", tube(beam, [0.07, 0.05]))
            for knot, lean in ((5, 0.9), (8, -0.9)):
                sketch.add("head", tube(curve(tuple(beam[knot]), heading + lean, 0.16, 0.0, count=3), [0.05, 0.04]))


def _leg(sketch: Sketch, build: _Build, hip: Point, swing: float, bend: float) -> None:
    """Paint one leg; `swing` moves the foot forward, `bend` the knee."""
    length, width = build.leg
    x, y = hip
    joints = [hip, (x + 0.45 * swing + bend, y + 0.5 * length), (x + swing, y + length * (1 - 0.25 * abs(swing)))]
    sketch.limb("foot", joints, [1.65 * width, 1.15 * width, 0.95 * width], (0.75 * width * build.toe, 0.5 * width))


def _walking(sketch: Sketch, rng: np.random.Generator, build: _Build) -> None:
    half, girth = _vary(rng, 0.42, 0.2), _vary(rng, build.girth)
    rear, chest = (-half, rng.uniform(-0.06, 0.04)), (half, 0.0)
    stride = rng.uniform(0.05, 0.3)
    phases = stride * np.sin(rng.uniform(0, 2 * np.pi) + np.asarray([0.0, 2.4, 3.4, 5.6]))
    drop = 0.2 * girth
    _tail(sketch, rng, build, (rear[0] - 0.42 * girth, rear[1] - 0.12 * girth))
    _leg(sketch, build, (rear[0] + 0.1, drop), phases[0] + 0.1, -0.05)
    _leg(sketch, build, (chest[0] - 0.05, drop), phases[1] + 0.1, 0.03)
    _torso(sketch, rear, chest, girth)
    sketch.coat(rng, rear, chest, girth)
    droop = rng.uniform(1.1, 1.6) if rng.random() < 0.2 and build.crown != "trunk" else rng.uniform(-0.3, 0.35)
    _neck_and_head(sketch, rng, build, chest, droop)
    _leg(sketch, build, (rear[0] - 0.05, drop), phases[2] - 0.05, -0.05)
    _leg(sketch, build, (chest[0] - 0.02, drop), phases[3] - 0.05, 0.03)


def _sitting(sketch: Sketch, rng: np.random.Generator, build: _Build) -> None:
    width, girth = build.leg[1], _vary(rng, build.girth)
    rear, chest = (-0.32, 0.32), (0.1 + rng.uniform(-0.06, 0.08), -0.22)
    ground = 0.36 + 0.5 * girth
    _tail(sketch, rng, build, (rear[0] - 0.3 * girth, ground - 0.12), lift=rng.uniform(-0.2, 0.3))
    sketch.limb("foot", [(chest[0] + 0.06, 0.0), (chest[0] + 0.2, ground)], [1.5 * width, width], (0.8 * width, 0.06))
    _torso(sketch, rear, chest, girth)
    _neck_and_head(sketch, rng, build, chest, rng.uniform(-0.6, -0.2))
    sketch.add("foot", ellipse((rear[0] + 0.08, ground - 0.24), (0.21, 0.26), 0.4))
    sketch.add("foot", tube([(rear[0] + 0.05, ground), (rear[0] + 0.38, ground)], [1.1 * width, width]))
    sketch.limb("foot", [(chest[0], 0.0), (chest[0] + 0.1, ground)], [1.6 * width, width], (0.8 * width, 0.07))


def _lying(sketch: Sketch, rng: np.random.Generator, build: _Build) -> None:
    width, girth = build.leg[1], _vary(rng, build.girth)
    rear, chest = (-0.42, 0.06), (0.4, 0.0)
    ground = 0.06 + 0.48 * girth
    _tail(sketch, rng, build, (rear[0] - 0.4 * girth, ground - 0.15))
    reach = rng.uniform(0.35, 0.55)
    sketch.limb("foot", [(0.3, 0.1), (0.5 + reach, ground - 0.03)], [1.3 * width, width], (width, 0.06))
    _torso(sketch, rear, chest, girth)
    sketch.coat(rng, rear, chest, girth)
    _neck_and_head(sketch, rng, build, chest, rng.uniform(-0.5, -0.1))
    sketch.add("foot", ellipse((-0.38, ground - 0.2), (0.26, 0.21), -0.4))
    sketch.add("foot", tube([(-0.35, ground), (0.05, ground)], [1.1 * width, width]))
    joints = [(0.36, 0.08), (0.3, ground), (0.36 + reach, ground)]
    sketch.limb("foot", joints, [1.6 * width, width, width], (width, 0.07))


def _front_quadruped(sketch: Sketch, rng: np.random.Generator, build: _Build) -> None:
    width, girth, r = _vary(rng, build.leg[1]), _vary(rng, build.girth), 1.15 * build.skull
    ground, side = 0.35 + 0.6 * build.leg[0], rng.choice([-1, 1])
    path = curve((0.3 * girth * side, 0.25), 0.6 if side > 0 else np.pi - 0.6, 0.75, -1.9 * side)
    sketch.add("tail", tube(path, [0.13, 0.1 + 0.5 * build.tail[2]]))
    for x in (-1, 1):
        sketch.limb(
            "foot",
            [(0.45 * girth * x, 0.3), (0.55 * girth * x, ground - 0.05)],
            [1.6 * width, width],
            (0.02, 0.6 * width),
        )
    sketch.add("body", tube([(0.0, -0.25), (0.0, 0.1), (0.0, 0.3)], [0.9 * girth, 1.25 * girth, 1.1 * girth]))
    for x in (-1, 1):
        sketch.limb(
            "foot", [(0.22 * girth * x, 0.2), (0.24 * girth * x, ground)], [1.25 * width, width], (0.02, 0.6 * width)
        )
    _front_face(sketch, build, (rng.uniform(-0.06, 0.06), -0.32 - 0.5 * build.neck[0]), r)


def _front_face(sketch: Sketch, build: _Build, at: Point, r: float) -> None:
    x, y = at
    for s in (-1, 1):
        if build.ear == "fan":
            sketch.add("head", ellipse((x + 1.35 * s * r, y), (0.75 * r, 1.0 * r), 0.2 * s))
        elif build.ear == "round":
            sketch.add("head", ellipse((x + 0.75 * s * r, y - 0.75 * r), (0.4 * r, 0.4 * r)))
        else:
            heading = -np.pi / 2 + s * {"floppy": 1.9, "pointed": 0.25, "upright": 0.8}[build.ear]
            sketch.add("head", leaf((x + 0.6 * s * r, y - 0.5 * r), heading, 1.1 * r, 0.75 * r, 0.2))
        if build.crown in ("horns", "antlers"):
            horn = curve((x + 0.35 * s * r, y - 0.7 * r), 0.6 * s - np.pi / 2, 0.3, -0.8 * s)
            sketch.add("head", tube(horn, [0.08, 0.05]))
    long = 0.55 if build.ear in ("upright", "floppy") else 0.25
    sketch.add("head", ellipse(at, (r, 0.95 * r)), ellipse((x, y + long * r), (0.65 * r, 0.85 * r)))
    if build.crown == "trunk":
        sketch.add("head", tube(curve((x, y + 0.4 * r), 1.57, 0.75, 0.5), [0.8 * r, 0.55 * r, 0.35 * r]))
    else:
        sketch.mark("dark", ellipse((x, y + (long + 0.35) * r), (0.2 * r, 0.14 * r), count=14))
    for aside in (-0.45, 0.45):
        sketch.eye((x + aside * r, y - 0.15 * r), 0.15 * r)
