"""Read any still image as upright 8-bit RGB, or say in one sentence why not; and fit sizes to a square."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cores_core.errors import DataError
from cores_core.sample import RgbImage

MAX_PIXELS = 200_000_000
"""Larger images are refused: they would need more than 600 MB uncompressed."""
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
)
"""All exceptions that Pillow raises for a file that it cannot decode."""


def load_image(path: Path) -> RgbImage:
    """Read a file as (H, W, 3) uint8 RGB, EXIF rotation applied, transparency on white, 16 bit scaled to 8.

    Raises:
        DataError: missing, a folder, no image, truncated or too large.
    """
    if path.is_dir():
        raise DataError(f"this is a folder, not an image: {path}")
    if not path.is_file():
        raise DataError(f"no such image: {path}")
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"image too large: {path} has {image.width} x {image.height} pixels")
            return to_rgb(image)
    except Image.DecompressionBombError as error:
        raise DataError(f"image too large: {path} ({error})") from error
    except UnidentifiedImageError as error:
        raise DataError(f"not an image that can be read: {path}", hint="use JPEG, PNG, WebP, BMP or TIFF") from error
    except DECODE_ERRORS as error:
        raise DataError(f"damaged image: {path} ({error})", hint="save or download it again") from error


def fit_hw(size_hw: tuple[int, int], longest: int) -> tuple[int, int]:
    """The height and width with the longer side at `longest` and the proportions kept, rounded, at least 1 pixel."""
    scale = longest / max(size_hw)
    height, width = (max(int(side * scale + 0.5), 1) for side in size_hw)
    return height, width


def resize_image(image: RgbImage, size_hw: tuple[int, int]) -> RgbImage:
    """Bring an image to another size, antialiased bilinear."""
    return np.asarray(Image.fromarray(image).resize(size_hw[::-1], Image.Resampling.BILINEAR), dtype=np.uint8)


def to_rgb(image: Image.Image) -> RgbImage:
    """Turn any PIL image upright and into 8-bit RGB; see `load_image`."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        scale = 255 / 65535 if values.max() > 255 else 1.0
        image = Image.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)
