"""Camera effects on a whole image: light, colour cast, blur, noise, JPEG, vignetting.

Each effect has its own probability and is mild, so that parts stay recognisable. No effect moves pixels, so masks are
unchanged.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from cores_core.data.partworld.paint import Pixels

Bytes = NDArray[np.uint8]
"""(H, W, 3) RGB 0..255."""


def photograph(rng: np.random.Generator, image: Pixels) -> Bytes:
    """Apply random camera effects to a rendered image (H, W, 3)."""
    if rng.random() < 0.4:
        image = image * _uneven_light(rng, image.shape[:2])[..., None]
    if rng.random() < 0.25:
        image = image * _dark_corners(rng, image.shape[:2])[..., None]
    photo = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        photo = _develop(rng, photo)
    if rng.random() < 0.3:
        photo = np.asarray(cv2.GaussianBlur(photo, (0, 0), float(rng.uniform(0.4, 1.1))), dtype=np.uint8)
    if rng.random() < 0.35:
        photo = _add_sensor_noise(rng, photo)
    if rng.random() < 0.3:
        photo = _compress(photo, quality=int(rng.integers(30, 90)))
    return photo


def _uneven_light(rng: np.random.Generator, shape_hw: tuple[int, ...]) -> Pixels:
    """Factor (H, W) that falls off in a random direction."""
    corners = rng.uniform(0.75, 1.2, (2, 2)).astype(np.float32)
    return np.asarray(cv2.resize(corners, shape_hw[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _dark_corners(rng: np.random.Generator, shape_hw: tuple[int, ...]) -> Pixels:
    """Factor (H, W): 1 in the middle, down to about a half in the corners."""
    x = np.linspace(-1, 1, shape_hw[1], dtype=np.float32)[None]
    y = np.linspace(-1, 1, shape_hw[0], dtype=np.float32)[:, None]
    factor: Pixels = 1 - np.float32(rng.uniform(0.08, 0.25)) * (x * x + y * y)
    return factor


def _develop(rng: np.random.Generator, photo: Bytes) -> Bytes:
    """Gamma, contrast and brightness, and a slight colour cast, with one look-up table per channel."""
    levels = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.uniform(-0.35, 0.35))
    contrast, brightness = rng.uniform(0.75, 1.25), rng.uniform(-0.06, 0.06)
    cast = rng.uniform(0.9, 1.1, (1, 3))
    table = ((levels - 0.5) * contrast + 0.5 + brightness) * cast * 255
    return np.asarray(cv2.LUT(photo, np.clip(table, 0, 255).astype(np.uint8)[None]), dtype=np.uint8)


def _add_sensor_noise(rng: np.random.Generator, photo: Bytes) -> Bytes:
    """Add noise of triangular distribution: the difference of two random bytes is cheap to draw."""
    draws = rng.integers(0, 256, (2, *photo.shape), dtype=np.uint8)
    grain = np.subtract(draws[0], draws[1], dtype=np.float32)
    grain *= np.float32(rng.uniform(1.5, 8) / 104)  # the difference has a standard deviation of 104
    grain += photo
    noisy: Bytes = np.clip(grain, 0, 255, out=grain).astype(np.uint8)
    return noisy


def _compress(photo: Bytes, quality: int) -> Bytes:
    """Encode and decode the image as JPEG in memory; the order of the channels does not matter."""
    _, encoded = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), dtype=np.uint8)
