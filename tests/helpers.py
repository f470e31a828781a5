"""Small things that many tests draw with."""

import numpy as np

from cores_core.sample import BoolMask, RgbImage


def mask(*rows: str) -> BoolMask:
    """A mask one can check by eye: `mask("##..", "....")` is (2, 4), True where there is a `#`."""
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def noise_image(height: int, width: int, seed: int = 0) -> RgbImage:
    """An image in which no two places look alike."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
