"""Limits of the servers that tests call, and image files to send them."""

import io

import numpy as np
from PIL import Image

from cores_core.serve.limits import ServeLimits

LIMITS = ServeLimits(waiting=4, upload_bytes=200_000, pixels=100_000, questions=3, characters=200, kept_images=2)


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file of (H, W, 3) pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind)
    return file.getvalue()
