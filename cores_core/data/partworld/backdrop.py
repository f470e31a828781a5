"""Random backgrounds without objects, drawn independently of the objects.

Every kind may occur with every category (a car under water, a fish on a road), so backgrounds carry no information.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np

from cores_core.data.partworld.paint import Pixels, mix, random_colour

Size = tuple[int, int]
"""Height and width."""


def draw_backdrop(rng: np.random.Generator, size_hw: Size) -> Pixels:
    """Draw a background of random kind, (H, W, 3) RGB 0..255."""
    kinds = list(BACKDROPS)
    if rng.random() < CALM_SHARE:
        kinds = [kind for kind in kinds if kind in CALM]
    image = BACKDROPS[kinds[int(rng.integers(len(kinds)))]](rng, size_hw)
    if rng.random() < 0.5:
        strength = np.float32(rng.uniform(8, 30))
        image = image + (soft_noise(rng, size_hw)[..., None] - np.float32(0.5)) * strength
    return np.clip(image, 0, 255)


def soft_noise(rng: np.random.Generator, size_hw: Size) -> Pixels:
    """Low-frequency noise, (H, W) about 0..1: two upsampled random grids."""
    coarse, fine = int(rng.integers(3, 7)), int(rng.integers(12, 40))
    large = cv2.resize(rng.random((coarse, coarse), dtype=np.float32), size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(rng.random((fine, fine), dtype=np.float32), size_hw[::-1], interpolation=cv2.INTER_LINEAR)
    noise: Pixels = large * np.float32(0.65) + small * np.float32(0.35)
    return noise


def _pair(rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Two background colours, often similar, so that objects have more contrast than the background."""
    first = random_colour(rng, (0.0, 0.5, 0.15, 1.0))
    second = random_colour(rng, (0.0, 0.5, 0.15, 1.0))
    return first, first + (second - first) * np.float32(rng.uniform(0.25, 1.0))


def _grid(size_hw: Size) -> tuple[Pixels, Pixels]:
    """Coordinates x (1, W) and y (H, 1) in units of the longer side."""
    unit = np.float32(1 / max(size_hw))
    return np.arange(size_hw[1], dtype=np.float32)[None] * unit, np.arange(size_hw[0], dtype=np.float32)[:, None] * unit


def _turned(rng: np.random.Generator, size_hw: Size) -> tuple[Pixels, Pixels]:
    """Coordinates along and across a random direction, each (H, W)."""
    x, y = _grid(size_hw)
    angle = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _plain(rng: np.random.Generator, size_hw: Size) -> Pixels:
    first, second = _pair(rng)
    return mix(_turned(rng, size_hw)[0], first, second)


def _noise(rng: np.random.Generator, size_hw: Size) -> Pixels:
    first, second = _pair(rng)
    sharpness = np.float32(rng.uniform(1, 5))
    return mix((soft_noise(rng, size_hw) - np.float32(0.5)) * sharpness + np.float32(0.5), first, second)


def _landscape(rng: np.random.Generator, size_hw: Size) -> Pixels:
    """Sky above hills above ground."""
    x, y = _grid(size_hw)
    image = mix(y + 0 * x, *_pair(rng))
    height = size_hw[0] / max(size_hw)
    for level in np.sort(rng.uniform(0.3, 0.9, int(rng.integers(1, 4)))):
        waves = np.sin(x * np.float32(rng.uniform(2, 16)) + np.float32(rng.uniform(0, 6)))
        horizon = np.float32(level * height) + np.float32(rng.uniform(0, 0.05)) * waves
        ground = mix(y - horizon + 0 * x, *_pair(rng))
        image = np.where((y > horizon)[..., None], ground, image)
    return image


def _water(rng: np.random.Generator, size_hw: Size) -> Pixels:
    """A vertical gradient with wobbling light."""
    x, y = _grid(size_hw)
    image = mix(y + 0 * x, *_pair(rng))
    ripple = np.sin(y * np.float32(rng.uniform(20, 60)) + 3 * np.sin(x * np.float32(rng.uniform(4, 14))))
    image += (np.maximum(ripple, 0) ** 2)[..., None] * np.float32(rng.uniform(5, 35))
    return image


def _road(rng: np.random.Generator, size_hw: Size) -> Pixels:
    """A road that runs to the horizon, with a dashed middle line."""
    image = _landscape(rng, size_hw)
    height, width = size_hw
    top, middle = height * rng.uniform(0.25, 0.6), width * rng.uniform(0.2, 0.8)
    foot = width * rng.uniform(0.3, 0.9)
    corners = [(middle - 6, top), (middle + 6, top), (middle + foot, height), (middle - foot, height)]
    cv2.fillPoly(image, [np.array(corners, dtype=np.int32)], random_colour(rng, (0, 0.2, 0.2, 0.7)).tolist())
    line = random_colour(rng, (0, 0.5, 0.7, 1.0)).tolist()
    for near in np.linspace(0.1, 0.9, 4) ** 2:
        begin, end = top + near * (height - top), top + min(near * 1.5, 1.0) * (height - top)
        a, b = 1 + 6 * near, 1 + 9 * near
        dash = [(middle - a, begin), (middle + a, begin), (middle + b, end), (middle - b, end)]
        cv2.fillPoly(image, [np.array(dash, dtype=np.int32)], line)
    return image


def _stripes(rng: np.random.Generator, size_hw: Size) -> Pixels:
    along, _ = _turned(rng, size_hw)
    wave = np.sin(along * np.float32(rng.uniform(10, 90)))
    return mix(wave * np.float32(rng.uniform(0.5, 4)) + np.float32(0.5), *_pair(rng))


def _checker(rng: np.random.Generator, size_hw: Size) -> Pixels:
    along, across = _turned(rng, size_hw)
    frequency = np.float32(rng.uniform(10, 50))
    return mix(np.sin(along * frequency) * np.sin(across * frequency) * 6 + np.float32(0.5), *_pair(rng))


def _blobs(rng: np.random.Generator, size_hw: Size) -> Pixels:
    """Many discs out of focus."""
    image = np.ascontiguousarray(_plain(rng, size_hw))
    short = min(size_hw)
    for _ in range(int(rng.integers(10, 40))):
        center = (int(rng.integers(size_hw[1])), int(rng.integers(size_hw[0])))
        radius = int(short * rng.uniform(0.03, 0.18))
        cv2.circle(image, center, radius, random_colour(rng, (0, 0.8, 0.2, 1.0)).tolist(), thickness=-1)
    span = 2 * int(rng.integers(1, 9)) + 1
    return np.asarray(cv2.blur(image, (span, span)), dtype=np.float32)


BACKDROPS: Mapping[str, Callable[[np.random.Generator, Size], Pixels]] = MappingProxyType(
    {
        "plain": _plain,
        "noise": _noise,
        "landscape": _landscape,
        "water": _water,
        "road": _road,
        "stripes": _stripes,
        "checker": _checker,
        "blobs": _blobs,
    }
)
"""Every kind of background."""
CALM = ("plain", "noise", "landscape", "water", "road")
CALM_SHARE = 0.6
"""How often a background is drawn from the calm kinds; otherwise any kind is equally likely."""
