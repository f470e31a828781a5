"""Fish, birds and snakes of PartWorld, drawn with their PartImageNet parts in many shapes and poses.

Annotation rules are those of PartImageNet: a fish's tail fin is its tail and not a fin, a bird's foot is its whole leg,
and a bird's beak belongs to its head.
"""

import numpy as np

from cores_core.data.partworld.shapes import Figure, Points, ellipse, smooth
from cores_core.data.partworld.sketch import Point, Sketch, curve, leaf, place, tube


def draw_fish(rng: np.random.Generator) -> Figure:
    """Draw a fish from the side: slim, tall, long or shark-like."""
    kind = rng.choice(["common", "tall", "long", "shark"])
    depth = {"common": 0.27, "tall": 0.45, "long": 0.17, "shark": 0.21}[kind] * rng.uniform(0.85, 1.15)
    sketch = Sketch("fish", rng)
    back = _fish_edge(-depth, rng.uniform(0.36, 0.48))
    belly = _fish_edge(depth * rng.uniform(0.75, 1.05), rng.uniform(0.36, 0.5))
    _fish_tail(sketch, rng, shark=kind == "shark", size=0.3 + 0.4 * depth)
    height = depth * rng.uniform(0.55, 0.8) + 0.08
    _fish_back_fin(sketch, rng, back, height)
    first = int(rng.integers(20, 24))
    sketch.add("fin", _raised(belly[first : first + 9], 0.8 * height, lean=0.12))
    sketch.add("fin", _raised(belly[12:18], 0.7 * height, lean=0.15))
    sketch.add("body", np.concatenate([back, belly[::-1]]))
    _fish_marks(sketch, rng, back, belly)
    _fish_head(sketch, rng, back, belly)
    heading = np.pi - rng.uniform(-0.2, 0.9)
    sketch.add("fin", leaf((0.2, 0.3 * depth), heading, 0.26 + 0.2 * depth, 0.13 + 0.2 * depth, rng.uniform(0.2, 1)))
    return sketch.figure(tilt=rng.uniform(-0.25, 0.25), bend=rng.uniform(-0.2, 0.2))


def draw_bird(rng: np.random.Generator) -> Figure:
    """Draw a bird: perching, wading, duck-like, flying past, or spread out and seen from below."""
    kind = rng.choice(["perching", "wading", "duck", "flying", "spread"], p=[0.3, 0.2, 0.15, 0.2, 0.15])
    sketch = Sketch("bird", rng)
    if kind == "spread":
        _spread_bird(sketch, rng)
        return sketch.figure(tilt=rng.uniform(-0.6, 0.6))
    if kind == "flying":
        _flying_bird(sketch, rng)
        return sketch.figure(tilt=rng.uniform(-0.35, 0.2))
    _standing_bird(sketch, rng, kind)
    return sketch.figure()


def draw_snake(rng: np.random.Generator) -> Figure:
    """Draw a snake: crawling in waves, coiled flat, rearing up, or heaped in coils."""
    sketch = Sketch("snake", rng)
    width = rng.uniform(0.15, 0.22)
    pose = rng.choice(["wave", "spiral", "rearing", "heap"])
    path = {"wave": _wave_path, "spiral": _spiral_path, "rearing": _rearing_path}.get(pose, _heap)(sketch, rng, width)
    sketch.add("body", tube(path, [0.25 * width, 0.8 * width, width, width, width, 0.75 * width]))
    if rng.random() < 0.6:
        _snake_bands(sketch, rng, path, width)
    ahead = path[-1] - path[-3]
    _snake_head(sketch, rng, (float(path[-1, 0]), float(path[-1, 1])), float(np.arctan2(ahead[1], ahead[0])), width)
    return sketch.figure(tilt=rng.uniform(-0.3, 0.3) if pose in ("wave", "spiral") else 0.0)


def _fish_edge(depth: float, widest: float) -> Points:
    """Back or belly line of a fish in 41 points, from the nose at x = 0.7 to the tail root at x = -0.5."""
    along = np.linspace(0, 1, 41)
    bulge = np.sin(np.pi * along ** (np.log(0.5) / np.log(widest))) ** 0.8
    return np.stack([0.7 - 1.2 * along, depth * (0.85 * bulge + 0.22 * np.minimum(1, 3 * along))], axis=1)


def _raised(edge: Points, height: float, lean: float) -> Points:
    """Fin on a stretch of back or belly: as high as `height`, leaning towards the tail."""
    outward = np.sign(edge[len(edge) // 2, 1])
    along = np.linspace(0, 1, len(edge))
    crest = edge + np.stack([-lean * np.sqrt(along), outward * height * np.sin(np.pi * along**0.6) ** 0.6], axis=1)
    root = edge * (1.0, 0.7)
    return np.concatenate([root, crest[::-1]])


def _fish_tail(sketch: Sketch, rng: np.random.Generator, shark: bool, size: float) -> None:
    upper = size * rng.uniform(0.8, 1.2)
    lower = upper * (rng.uniform(0.4, 0.6) if shark else rng.uniform(0.85, 1.1))
    reach = -0.52 - rng.uniform(0.26, 0.5)
    notch = min(reach + rng.choice([-0.08, 0.1, 0.17]), -0.7)
    corners = [
        (-0.4, -0.05),
        (-0.58, -0.1),
        (reach, -upper),
        (notch, -0.3 * upper),
        (notch + 0.03, 0.0),
        (notch, 0.3 * lower),
        (reach, lower),
        (-0.58, 0.1),
        (-0.4, 0.05),
    ]
    sketch.add("tail", smooth(corners))


def _fish_back_fin(sketch: Sketch, rng: np.random.Generator, back: Points, height: float) -> None:
    style = rng.choice(["sail", "triangle", "double"])
    if style == "sail":
        sketch.add("fin", _raised(back[10:32], height, lean=0.1))
    elif style == "triangle":
        sketch.add("fin", _raised(back[13:24], 1.4 * height, lean=0.22))
    else:
        sketch.add("fin", _raised(back[11:21], 1.1 * height, lean=0.1), _raised(back[24:33], 0.8 * height, lean=0.1))


def _fish_head(sketch: Sketch, rng: np.random.Generator, back: Points, belly: Points) -> None:
    gill = int(rng.integers(11, 14))
    across = np.linspace(0, 1, 9)[1:-1, None]
    cheek = back[gill] * (1 - across) + belly[gill] * across
    cheek[:, 0] -= 0.08 * np.sin(np.pi * across[:, 0])
    sketch.add("head", np.concatenate([back[: gill + 1], cheek, belly[: gill + 1][::-1]]))
    middle = 0.4 * back[6, 1]
    sketch.eye((float(back[6, 0]), float(middle)), 0.3 * abs(float(back[6, 1])))
    if rng.random() < 0.6:
        sketch.mark("dark", tube([(0.67, 0.02), (0.58, 0.04), (0.53, 0.06)], [0.015, 0.02]))


def _fish_marks(sketch: Sketch, rng: np.random.Generator, back: Points, belly: Points) -> None:
    style = rng.choice(["none", "bars", "spots"])
    paint = rng.choice(["dark", "light"])
    for at in rng.choice(np.arange(17, 36, 4), size=3, replace=False):
        if style == "bars":
            sketch.mark(
                paint,
                tube([tuple(0.8 * back[at] + 0.2 * belly[at]), tuple(0.2 * back[at] + 0.8 * belly[at])], [0.05, 0.03]),
            )
        elif style == "spots":
            share = rng.uniform(0.35, 0.8)
            sketch.mark(paint, ellipse(tuple(share * back[at] + (1 - share) * belly[at]), (0.03, 0.03), count=12))


def _bird_head(sketch: Sketch, rng: np.random.Generator, at: Point, radius: float, beak: str) -> None:
    """Head of radius `radius` with a beak: short, hooked, long or flat."""
    x, y = at
    reach = {"short": 1.9, "hooked": 1.8, "long": 3.2, "flat": 2.3}[beak] * radius
    thick = {"short": 0.45, "hooked": 0.6, "long": 0.35, "flat": 0.45}[beak] * radius
    drop = {"short": 0.15, "hooked": 0.75, "long": 0.5, "flat": 0.45}[beak] * radius
    bill = smooth(
        [
            (x + 0.5 * radius, y - thick),
            (x + 0.65 * reach, y - 0.5 * thick + 0.2 * drop),
            (x + reach, y + drop),
            (x + 0.7 * reach, y + 0.6 * thick + 0.4 * drop),
            (x + 0.5 * radius, y + 1.2 * thick),
        ]
    )
    if rng.random() < 0.25:
        sketch.add(
            "head",
            *(
                leaf((x - 0.2 * radius, y - 0.5 * radius), -1.9 - 0.35 * i, 1.3 * radius, 0.5 * radius)
                for i in range(3)
            ),
        )
    sketch.add("head", bill)
    sketch.add("head", ellipse(at, (radius * rng.uniform(1.0, 1.15), radius)))
    if rng.random() < 0.6:
        sketch.mark(rng.choice(["accent", "dark", "light"]), bill)
    sketch.eye((x + 0.35 * radius, y - 0.2 * radius), 0.2 * radius)


def _wing(sketch: Sketch, base: Point, heading: float, length: float, width: float, feathers: int = 4) -> None:
    """Wing from the shoulder along `heading`, with blunt feathers fanning from its rear edge."""
    backward = -0.75 if np.sin(heading) < 0 else 0.75  # the rear edge lies towards the tail
    for i in range(feathers):
        lag = backward * (i + 1) / feathers
        sketch.add("wing", leaf(base, heading + lag, length * (1 - 0.12 * i), width, 0.7))
    sketch.add("wing", leaf(base, heading, length, 1.1 * width, 0.4))


def _bird_leg(sketch: Sketch, hip: Point, ground: float, swing: float, width: float) -> None:
    x, y = hip
    ankle = (x + swing, ground)
    sketch.limb("foot", [hip, (x - 0.05 + 0.5 * swing, 0.55 * y + 0.45 * ground), ankle], [2 * width, width, width])
    for dx in (0.2, 0.14, -0.1):
        sketch.add("foot", tube([ankle, (ankle[0] + dx, ground + 0.05 - 0.1 * (dx == 0.2))], [width, 0.6 * width]))


def _standing_bird(sketch: Sketch, rng: np.random.Generator, kind: str) -> None:
    neck = {"perching": 0.05, "wading": 0.5, "duck": 0.3}[kind] * rng.uniform(0.8, 1.3)
    legs = {"perching": 0.35, "wading": 0.75, "duck": 0.28}[kind] * rng.uniform(0.9, 1.2)
    pitch = {"perching": -0.6, "wading": -0.25, "duck": -0.08}[kind] + rng.uniform(-0.2, 0.15)
    girth = rng.uniform(0.42, 0.52) * (0.85 if kind == "wading" else 1.0)
    rear, breast = place([(-0.4, 0.0), (0.3, 0.0)], (0, 0), pitch)
    head_radius = rng.uniform(0.17, 0.21) * (0.8 if kind == "wading" else 1.0)
    tail = rng.uniform(0.35, 0.7) * (0.8 if kind != "perching" else 1.0)
    for spread in (-0.18, 0.0, 0.18):
        sketch.add("tail", leaf(tuple(rear * 0.6), np.pi + pitch + spread, tail + 0.2, 0.26, 0.9))
    raised = rng.random() < 0.3
    shoulder = tuple(0.3 * breast + (0.0, -0.08))
    if raised:
        _wing(sketch, shoulder, -1.5 + rng.uniform(-0.2, 0.2), 0.8, 0.3)
    ground = 0.12 + legs + 0.5 * girth
    for swing, dx in ((rng.uniform(-0.05, 0.15), -0.1), (rng.uniform(-0.2, 0.0), 0.06)):
        _bird_leg(sketch, (dx, 0.12), ground, swing, rng.uniform(0.06, 0.08))
    lean = rng.uniform(-1.5, -0.9)
    throat = tube(
        curve(tuple(0.75 * breast), lean - 0.3, neck + 0.25, rng.uniform(0.2, 0.7)),
        [0.8 * girth, 1.3 * head_radius, 1.3 * head_radius],
    )
    sketch.add("body", throat, tube([tuple(rear), (0.0, 0.02), tuple(breast)], [0.45 * girth, girth, 0.8 * girth]))
    crown = curve(tuple(0.75 * breast), lean - 0.3, neck + 0.25, 0.45)[-1]
    beaks = {"perching": ["short", "hooked"], "wading": ["long"], "duck": ["flat"]}[kind]
    _bird_head(sketch, rng, tuple(crown + np.array([0.04, -0.05])), head_radius, rng.choice(beaks))
    if raised:
        _wing(sketch, shoulder, -2.1 + rng.uniform(-0.3, 0.2), 0.85, 0.32)
    else:
        droop = rng.uniform(-0.15, 0.45) * (rng.random() < 0.6)
        _folded_wing(sketch, rng, tuple(0.7 * breast + (0, 0.02)), np.pi + pitch - droop, girth)


def _folded_wing(sketch: Sketch, rng: np.random.Generator, shoulder: Point, heading: float, girth: float) -> None:
    length = rng.uniform(0.6, 0.8)
    sketch.add("wing", leaf(shoulder, heading, length, 1.15 * girth * 0.75, 0.2))
    if rng.random() < 0.7:
        for i in (1, 2):
            start, end = place([(0.3 * length, 0.06 * i - 0.1), (0.72 * length, 0.05 * i - 0.08)], shoulder, heading)
            sketch.mark("dark", tube([tuple(start), tuple(end)], [0.015, 0.015]))


def _flying_bird(sketch: Sketch, rng: np.random.Generator) -> None:
    beat = rng.uniform(-0.3, 0.3)
    _wing(sketch, (0.15, -0.05), -1.05 + beat, rng.uniform(0.7, 0.9), 0.32)
    for spread in (-0.22, 0.0, 0.22):
        sketch.add("tail", leaf((-0.25, 0.0), np.pi + spread, rng.uniform(0.5, 0.6), 0.26, 0.9))
    for drop in (0.12, 0.17):
        foot = (-0.38 + drop, 0.33 + drop)
        sketch.limb("foot", [(-0.1, 0.1), foot], [0.12, 0.08])
        for angle in (0.2, 1.0, 2.2):
            sketch.add("foot", tube(curve(foot, angle, 0.13, 0.3, count=3), [0.07, 0.05]))
    sketch.add("body", tube([(-0.4, 0.0), (0.0, 0.03), (0.45, -0.04)], [0.16, 0.36, 0.2]))
    _bird_head(sketch, rng, (0.52, -0.08), rng.uniform(0.14, 0.17), rng.choice(["short", "hooked", "long"]))
    down = rng.random() < 0.3
    _wing(sketch, (0.2, 0.0), 1.3 + 0.5 * beat if down else -1.9 + beat, rng.uniform(0.75, 0.95), 0.36)


def _spread_bird(sketch: Sketch, rng: np.random.Generator) -> None:
    sweep, span = rng.uniform(-0.1, 0.35), rng.uniform(0.75, 1.0)
    for spread in (-0.3, 0.0, 0.3):
        sketch.add("tail", leaf((-0.25, 0.0), np.pi + spread, 0.55, 0.26, 0.9))
    for side in (-1, 1):
        edge = [
            (0.28, 0.05),
            (0.36, 0.35 * span),
            (0.2 - sweep, span),
            (0.0 - sweep, 1.02 * span),
            (-0.1 - 0.5 * sweep, 0.7 * span),
            (-0.2 - 0.3 * sweep, 0.4 * span),
            (-0.18, 0.05),
        ]
        sketch.add("wing", smooth(np.asarray(edge) * (1, side)))
        sketch.limb("foot", [(-0.12, 0.08 * side), (-0.34, 0.2 * side)], [0.12, 0.1], (0.09, 0.07))
        for angle in (-0.5, 0.0, 0.5):
            sketch.add("foot", tube(curve((-0.34, 0.2 * side), np.pi + angle, 0.14, 0.0, count=3), [0.07, 0.04]))
    sketch.add("body", tube([(-0.3, 0.0), (0.0, 0.0), (0.35, 0.0)], [0.2, 0.34, 0.22]))
    _bird_head(sketch, rng, (0.46, 0.0), rng.uniform(0.14, 0.16), rng.choice(["short", "hooked"]))


def _wave_path(sketch: Sketch, rng: np.random.Generator, width: float) -> Points:
    along = np.linspace(0, 1, 24)
    waves, height = rng.uniform(1.2, 2.2), rng.uniform(0.25, 0.42)
    phase = rng.uniform(0, 2 * np.pi)
    return np.stack([1.9 * along - 0.95, height * np.sin(2 * np.pi * waves * along + phase)], axis=1)


def _spiral_path(sketch: Sketch, rng: np.random.Generator, width: float) -> Points:
    turns = rng.uniform(1.4, 2.0)
    angle = np.linspace(0, 2 * np.pi * turns, 36) + rng.uniform(0, 2 * np.pi)
    radius = np.linspace(0.18, 0.24 + 1.35 * width * turns, 36)
    coil = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return np.concatenate([coil, curve(tuple(coil[-1]), angle[-1] + np.pi / 2, 0.35, -0.8, count=5)[1:]])


def _rearing_path(sketch: Sketch, rng: np.random.Generator, width: float) -> Points:
    along = np.linspace(0, 1, 16)[:-1]
    ground = np.stack([1.1 * along - 0.9, 0.5 + 0.13 * np.sin(3 * np.pi * along + np.pi)], axis=1)
    neck = [(0.35, 0.5), (0.5, 0.3), (0.42, 0.0), (0.32, -0.25), (0.38, -0.48), (0.55, -0.55)]
    return np.concatenate([ground, np.asarray(neck) + rng.uniform(-0.04, 0.04, (6, 2))])


def _heap(sketch: Sketch, rng: np.random.Generator, width: float) -> Points:
    """Paint the lower coils of a heap and return the path of its neck."""
    rounds = int(rng.integers(2, 4))
    tail = curve((-0.2, 0.55), np.pi - 0.2, 0.75, rng.uniform(0.3, 0.9))
    sketch.add("body", tube(tail, [width, 0.3 * width]))
    for i in range(rounds):
        sketch.add("body", ellipse((0.0, 0.5 - 0.85 * width * i), (0.62 - 0.11 * i, 0.75 * width)))
        reach, y = 0.48 - 0.1 * i, 0.5 - 0.85 * width * i
        fold = [(-reach, y + 0.2 * width), (0.0, y + 0.5 * width), (reach, y + 0.2 * width)]
        sketch.mark("dark", tube(fold, [0.01, 0.02, 0.01]))
    top = 0.5 - 0.85 * width * (rounds - 1)
    sway = rng.uniform(-0.12, 0.12)
    return np.asarray(
        [
            (0.25, top),
            (0.05, top - 0.05),
            (-0.12, top - 0.25),
            (-0.02 + sway, top - 0.5),
            (0.12 + sway, top - 0.68),
            (0.3 + sway, top - 0.72),
        ]
    )


def _snake_bands(sketch: Sketch, rng: np.random.Generator, path: Points, width: float) -> None:
    paint = rng.choice(["dark", "light", "accent"])
    for at in range(len(path) // 3, len(path) - 2, int(rng.integers(2, 4))):
        sketch.mark(paint, ellipse(tuple(path[at]), (0.3 * width, 0.3 * width), count=14))


def _snake_head(sketch: Sketch, rng: np.random.Generator, at: Point, heading: float, width: float) -> None:
    size = width * rng.uniform(1.5, 1.8)
    half = [(-0.6, 0.0), (-0.35, 0.5), (0.3, 0.5), (1.1, 0.2), (1.2, 0.0)]
    jaw = smooth(half + [(x, -y) for x, y in half[-2:0:-1]])
    tongue = [place([(1.0 * size, 0.0), (1.6 * size, y * size)], at, heading) for y in (-0.12, 0.12)]
    sketch.add("head", *(tube(line, [0.05, 0.03]) for line in tongue), place(jaw * size, at, heading))
    from_above = rng.random() < 0.5
    for side in (-0.28, 0.28) if from_above else (-0.2 if abs(heading) < np.pi / 2 else 0.2,):
        center = place([(0.4 * size, side * size)], at, heading)[0]
        sketch.eye((float(center[0]), float(center[1])), 0.13 * size)
