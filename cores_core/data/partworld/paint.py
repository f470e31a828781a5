"""Colours and textures for the paint roles of a figure.

A role ("main", "glass") gets a `Texture`: two colours mixed by a pattern in the figure's own coordinates, so that it
rotates and scales with the figure. Colours do not depend on the category.
"""

import colorsys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from cores_core.data.partworld.shapes import Paint

Pixels = NDArray[np.float32]
"""(H, W, 3) RGB between 0 and 255, or (H, W) with one value per pixel."""
Pattern = Literal["plain", "gradient", "stripes", "spots", "checker", "noise"]

PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
PATTERN_SHARES = (0.55, 0.2, 0.07, 0.06, 0.02, 0.1)
LIMITS: Mapping[Paint, tuple[float, float, float, float]] = {
    "main": (0.1, 0.95, 0.3, 0.98),
    "second": (0.1, 0.95, 0.3, 0.98),
    "accent": (0.3, 1.0, 0.35, 1.0),
    "dark": (0.0, 0.6, 0.06, 0.3),
    "light": (0.0, 0.3, 0.8, 1.0),
    "glass": (0.05, 0.4, 0.55, 0.95),
    "metal": (0.0, 0.15, 0.45, 0.85),
}
"""Minimum and maximum saturation, minimum and maximum value (HSV), by role."""
ANY_COLOUR = (0.0, 1.0, 0.1, 1.0)
CAMOUFLAGE_SHARE = 0.03
"""Probability that a figure's first colour is that of its surroundings."""
EQUAL_SHARE = 0.08
"""Probability that another role has the same colour as the first."""
NOISE_SIZE = 12


@dataclass(frozen=True)
class Texture:
    """Two colours mixed by a pattern. `first`, `second`: (3,) RGB; `grid`: random numbers for the pattern "noise"."""

    pattern: Pattern
    first: Pixels
    second: Pixels
    frequency: float
    angle: float
    phase: float
    grid: Pixels


def make_palette(rng: np.random.Generator, roles: Iterable[Paint], surroundings: Pixels) -> Mapping[Paint, Texture]:
    """Choose a texture for each role; `surroundings` (3,) is the colour of the background at the figure."""
    colours = {role: _stand_out(rng, role, surroundings) for role in roles}
    first = next(iter(colours))
    if rng.random() < CAMOUFLAGE_SHARE:
        colours[first] = _near(rng, surroundings, spread=30)
    for role in colours:
        if rng.random() < EQUAL_SHARE:
            colours[role] = colours[first]
    return {role: make_texture(rng, colour) for role, colour in colours.items()}


def make_texture(rng: np.random.Generator, colour: Pixels) -> Texture:
    """Give a colour (3,) a random pattern and a second colour, similar or different."""
    pattern = PATTERNS[int(rng.choice(len(PATTERNS), p=PATTERN_SHARES))]
    partner = random_colour(rng) if rng.random() < 0.2 else _near(rng, colour, spread=45)
    return Texture(
        pattern=pattern,
        first=colour,
        second=partner,
        frequency=float(rng.uniform(5, 16)),
        angle=float(rng.uniform(0, np.pi)),
        phase=float(rng.uniform(0, 2 * np.pi)),
        grid=rng.random((NOISE_SIZE, NOISE_SIZE), dtype=np.float32),
    )


def random_colour(rng: np.random.Generator, limits: tuple[float, float, float, float] = ANY_COLOUR) -> Pixels:
    """Draw an RGB colour (3,): any hue, saturation and value between the limits."""
    saturation, value = rng.uniform(limits[0], limits[1]), rng.uniform(limits[2], limits[3])
    return np.asarray(colorsys.hsv_to_rgb(rng.random(), saturation, value), dtype=np.float32) * 255


def paint_texture(texture: Texture, x: Pixels, y: Pixels) -> Pixels:
    """Evaluate a texture at figure coordinates.

    Args:
        texture: what to paint.
        x, y: (H, W) coordinates of each pixel in the figure.

    Returns:
        (H, W, 3) colours.
    """
    return mix(_share_of_second(texture, x, y), texture.first, texture.second)


def mix(share: Pixels, first: Pixels, second: Pixels) -> Pixels:
    """Blend two colours (3,) by the share (H, W) of the second, clipped to 0..1; one OpenCV call, five times faster."""
    affine = np.stack([second - first, first], axis=1)
    return np.asarray(cv2.transform(np.clip(share, 0, 1), affine), dtype=np.float32)


def _share_of_second(texture: Texture, x: Pixels, y: Pixels) -> Pixels:
    """Share of the second colour per pixel, (H, W), not clipped to 0..1; steep patterns have hard edges."""
    if texture.pattern == "plain":
        return np.zeros(x.shape, dtype=np.float32)
    if texture.pattern == "noise":
        return np.asarray(cv2.resize(texture.grid, x.shape[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float32)
    cos, sin = np.float32(np.cos(texture.angle)), np.float32(np.sin(texture.angle))
    along: Pixels = x * cos + y * sin
    if texture.pattern == "gradient":
        return along * np.float32(0.6) + np.float32(0.5)
    frequency, phase = np.float32(texture.frequency), np.float32(texture.phase)
    wave: Pixels = np.sin(along * (2 * frequency) + phase)
    if texture.pattern == "stripes":
        return wave * np.float32(3) + np.float32(0.5)
    across: Pixels = y * cos - x * sin
    wave *= np.sin(across * (2 * frequency))
    if texture.pattern == "spots":
        return np.abs(wave) * np.float32(5) - np.float32(2.2)
    return wave * np.float32(8) + np.float32(0.5)


def _stand_out(rng: np.random.Generator, role: Paint, surroundings: Pixels) -> Pixels:
    """Draw a colour for a role, retrying a few times if it is too similar to the surroundings."""
    limits = ANY_COLOUR if rng.random() < 0.1 else LIMITS[role]
    colour = random_colour(rng, limits)
    for _ in range(5):
        if float(np.linalg.norm(colour - surroundings)) > 110:
            break
        colour = random_colour(rng, limits)
    return colour


def _near(rng: np.random.Generator, colour: Pixels, spread: float) -> Pixels:
    """Draw a colour (3,) near another, by up to `spread` in each channel."""
    step = rng.uniform(-spread, spread) + rng.uniform(-spread / 3, spread / 3, 3)
    return np.clip(colour + step, 0, 255).astype(np.float32)
