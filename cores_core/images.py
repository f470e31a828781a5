"""Load images as upright 8-bit RGB, with one clear error for files that cannot be used; resizing and normalisation."""

import io
import re
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cores_core.errors import CoresWarning, DataError, reason_of
from cores_core.sample import RgbImage

MAX_PIXELS = 200_000_000
"""Maximum number of pixels; larger images would need more than 600 MB uncompressed."""
MAX_SIDE = 65_535
"""Maximum length of a side in pixels, as in JPEG; a file with a longer side is likely damaged."""
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
)
"""All exceptions that Pillow raises for files it cannot decode."""
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif",
)  # fmt: skip
"""Suffixes of image files in lower case. HEIC is among them so that such files are refused and not overlooked."""
UPLOAD_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Formats of `decode_image`. Pillow knows more, some of which start other programs (EPS) or are seldom used."""
MAX_URL_BYTES = 1 << 30
"""Maximum size of an image file that is read from a URL."""
URL_ERRORS = (OSError, ValueError, RuntimeError, LookupError)
"""Exceptions of fsspec and its file systems for URLs that they cannot read."""
_PNG_OPTIONS = (
    cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH,
)  # fmt: skip
"""Runs only: a sixth of Pillow's time for photographs, whose files are 2-16 % larger; smaller files for masks."""
_BIT_DEPTHS = (8, 10, 12, 14)
"""Bit depths of sensors whose values are stored in 16 bits."""
_CERTAIN_BITS = 16
_ROWS_AT_ONCE = 256
"""Rows per block when an image is scaled or converted, to bound memory."""
_WITH_PREVIEWS = ("MPO",)
"""Formats whose further images are previews or other views of the first."""
_UNSIGNED = ("I;32", "I;32L", "I;32B", "I;32N")
"""Pillow's names of unsigned 32-bit values in files, which it reads as signed ones."""
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
"""Start of a URL; a Windows drive has a single letter. One slash suffices, because `Path` collapses `//`."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # Pillow's limit is lower than MAX_PIXELS


def has_url_form(text: str) -> bool:
    """Whether a text starts like a URL, with a scheme and a slash."""
    return _URL.match(text) is not None


def is_url(source: str | Path) -> bool:
    """Whether a source is a URL and not the path of a file that exists."""
    return has_url_form(str(source)) and not Path(source).exists()


def load_image(source: str | Path) -> RgbImage:
    """Load a file as (H, W, 3) uint8 RGB, with EXIF rotation applied, transparency on white, scaled to 8 bits.

    Of an animation or a file of several pages the first image is read, with a `CoresWarning`.

    Floats in 0 to 1, and 16-bit values that use more than 14 bits, are scaled by the range of their type. Others are
    scaled by an assumed range with a `CoresWarning`: integers by the smallest of 8, 10, 12 and 14 bits that contains
    them, otherwise from 0 (or a negative minimum) to the maximum.

    Raises:
        DataError: missing, a URL, a folder, not an image, truncated, too large, or with values that are not finite.
    """
    path = Path(source)
    if is_url(source):
        raise DataError(f"this is a URL, not a file: {source}", hint="download the image first, then give its path")
    if path.is_dir():
        raise DataError(f"this is a folder, not an image: {path}")
    if not path.is_file():
        raise DataError(f"no such image: {path}")
    try:
        return _decode(path, MAX_PIXELS, formats=None)
    except DataError as error:
        raise DataError(f"{error.message}: {path}", error.hint) from error


def load_image_url(url: str) -> RgbImage:
    """Load an image of a file system that fsspec knows (s3://, gs://, https://, file:// ...), as `decode_image` does.

    Raises:
        DataError: its file system's package is not installed, it cannot be read, or is no image that can be used.
    """
    from fsspec import open as open_url

    try:
        with open_url(url, "rb") as file:
            data = file.read(MAX_URL_BYTES + 1)
    except ImportError as error:
        hint = "install the package that is named, or download the image first"
        raise DataError(f"no support for this kind of URL: {url} ({reason_of(error)})", hint=hint) from error
    except URL_ERRORS as error:
        hint = "check the URL and the access to it, or download the image first"
        raise DataError(f"cannot read the URL: {url} ({reason_of(error)})", hint=hint) from error
    if len(data) > MAX_URL_BYTES:
        raise DataError(f"larger than {MAX_URL_BYTES >> 20} MiB: {url}", hint="download the image first")
    try:
        return decode_image(data)
    except DataError as error:
        raise DataError(f"{error.message}: {url}", error.hint) from error


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> RgbImage:
    """Decode the bytes of an image file from an untrusted source as `load_image` does, `UPLOAD_FORMATS` only.

    Args:
        max_pixels: larger images are refused before they are decoded.

    Raises:
        DataError: no image, truncated, too large, or with values that are not finite.
    """
    if not data:
        raise DataError("the image is empty (0 bytes)")
    return _decode(io.BytesIO(data), max_pixels, UPLOAD_FORMATS)


def _decode(file: Path | io.BytesIO, max_pixels: int, formats: tuple[str, ...] | None) -> RgbImage:
    try:
        with Image.open(file, formats=formats) as image:
            check_size(image.width, image.height, max_pixels)
            if getattr(image, "is_animated", False) and image.format not in _WITH_PREVIEWS:
                _warn("the file has several images: the first one was read")
            return to_rgb(_read_unsigned(_read_deep_colours(image, file)))
    except Image.DecompressionBombError as error:
        raise DataError("image too large", hint=_size_hint(max_pixels)) from error
    except UnidentifiedImageError as error:
        raise DataError("not an image, or unknown format", hint="convert it to JPEG, PNG, WebP, BMP or TIFF") from error
    except DECODE_ERRORS as error:
        raise DataError(f"damaged image ({reason_of(error)})", hint="save or download it again") from error


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Check the size of an image in pixels.

    Raises:
        DataError: it exceeds `max_pixels` or `MAX_SIDE`.
    """
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise DataError(f"image too large: {width} x {height} pixels", hint=_size_hint(max_pixels))


def _size_hint(max_pixels: int) -> str:
    return f"make it smaller: at most {max_pixels:,} pixels in total and {MAX_SIDE:,} per side"


def fit_hw(size_hw: tuple[int, int], longest: int) -> tuple[int, int]:
    """Height and width scaled so that the longer side is `longest`, rounded, at least 1 pixel."""
    scale = longest / max(size_hw)
    height, width = (max(int(side * scale + 0.5), 1) for side in size_hw)
    return height, width


def normalise(pixels: NDArray[np.float32], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Normalise (H, W, 3) pixels per channel, (x - mean) / std, and transpose to (3, H, W)."""
    scaled = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def resize_image(image: RgbImage, size_hw: tuple[int, int]) -> RgbImage:
    """Resize a (H, W, 3) image to `size_hw` (height, width), antialiased bilinear."""
    return np.asarray(Image.fromarray(image).resize(size_hw[::-1], Image.Resampling.BILINEAR), dtype=np.uint8)


def to_rgb(image: Image.Image) -> RgbImage:
    """Convert any PIL image to upright (H, W, 3) uint8 RGB, scaled as in `load_image`.

    Raises:
        DataError: it has values that are not finite.
    """
    image = turn_upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_scale_to_8_bits(np.asarray(image)))
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top in range(0, image.height, _ROWS_AT_ONCE):
        rows = image.crop((0, top, image.width, min(top + _ROWS_AT_ONCE, image.height)))
        if rows.has_transparency_data:
            rows = Image.alpha_composite(Image.new("RGBA", rows.size, "white"), rows.convert("RGBA"))
        pixels[top : top + rows.height] = np.asarray(rows.convert("RGB"))
    return pixels


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of (H, W), (H, W, 3) RGB or (H, W, 4) RGBA pixels."""
    conversions = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    stored = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, conversions[pixels.shape[2]])
    return cv2.imencode(".png", stored, _PNG_OPTIONS)[1].tobytes()


def turn_upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; an image without one is returned as it is."""
    return image if image.getexif().get(ExifTags.Base.Orientation, 1) == 1 else ImageOps.exif_transpose(image)


def _read_unsigned(image: Image.Image) -> Image.Image:
    """Convert an image of unsigned 32-bit values, of which some exceed 31 bits, to floats; return others unchanged."""
    if image.mode != "I" or not any(_raw_mode(tile) in _UNSIGNED for tile in getattr(image, "tile", ())):
        return image
    values = np.asarray(image).view(np.uint32)
    if values.max() < 1 << 31:
        return image
    floats = Image.fromarray(values.astype(np.float32))
    floats.info["exif"] = image.getexif().tobytes()
    return floats


def _raw_mode(tile: Any) -> str:
    """Pillow's name of the values of a tile, which is the first of its arguments or the only one."""
    return str(tile[3][0] if isinstance(tile[3], tuple) and tile[3] else tile[3])


def _read_deep_colours(image: Image.Image, file: Path | io.BytesIO) -> Image.Image:
    """Rescale 16-bit colour images that use at most 14 bits (Pillow keeps the upper 8); return others unchanged."""
    if image.mode.startswith("I") or not any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        return image
    upper = np.asarray(image.convert("RGB"))
    if upper.max() >> (_BIT_DEPTHS[-1] - 8):
        return image
    data = file.getvalue() if isinstance(file, io.BytesIO) else file.read_bytes()
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise DataError("16-bit image that is nearly black", hint="save it with 8 bits")
    scaled = Image.fromarray(_scale_to_8_bits(values[..., 2::-1]))  # OpenCV's order is blue, green, red, alpha
    if values.shape[2] == 4:
        scaled.putalpha(Image.fromarray((values[..., 3] >> 8).astype(np.uint8)))
    scaled.info["exif"] = image.getexif().tobytes()
    return scaled


def _scale_to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise DataError("the image has values that are not finite numbers", hint="replace NaN and infinity")
    bottom, top = _find_range(low, high, is_float=values.dtype.kind == "f")
    scaled = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        scaled[rows] = np.rint((values[rows].astype(np.float64) - bottom) * (255 / (top - bottom)))
    return scaled


def _find_range(low: float, high: float, is_float: bool) -> tuple[float, float]:
    """The values to map to 0 and 255, with a warning if they are inferred from the data."""
    if is_float and low >= 0 and high <= 1:
        return 0.0, 1.0
    if not is_float and low >= 0 and high < 1 << _CERTAIN_BITS:
        bits = next((depth for depth in _BIT_DEPTHS if high < 1 << depth), _CERTAIN_BITS)
        if bits < _CERTAIN_BITS and high:
            _warn(f"the values of a 16- or 32-bit image fit in {bits} bits: it was scaled by that range")
        return 0.0, float((1 << bits) - 1)
    _warn(f"the values of {'a float' if is_float else 'a 32-bit'} image were scaled by their own range")
    bottom = min(low, 0.0)
    return bottom, high if high > bottom else bottom + 1


def _warn(text: str) -> None:
    warnings.warn(text, CoresWarning, stacklevel=2)
