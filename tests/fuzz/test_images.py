"""Damaged image files of every common format: an image, or one error."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fuzz.limits import survives
from fuzz.mutations import Edit, edit_bytes, edits
from helpers import noise_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cores_core.data.sources.reading import read_size
from cores_core.images import decode_image, load_image
from cores_core.mask_images import load_mask_image

SIZE_HW = (20, 30)


def encode(kind: str, mode: str = "RGB", **options: object) -> bytes:
    """A small image; `deep` 16-bit and float values have the range of their type."""
    file = io.BytesIO()
    if mode == "I;16":
        image = Image.fromarray(noise_image(*SIZE_HW)[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(noise_image(*SIZE_HW)).convert(mode)
    image.save(file, format=kind, **options)
    return file.getvalue()


def frames(kind: str) -> bytes:
    file = io.BytesIO()
    first, *others = (Image.fromarray(noise_image(*SIZE_HW, seed=seed)) for seed in range(3))
    first.save(file, format=kind, save_all=True, append_images=others)
    return file.getvalue()


def exif() -> Image.Exif:
    """An orientation, a GPS folder and a text."""
    found = Image.Exif()
    found[274], found[270] = 6, "a fish"
    found.get_ifd(34853)[1] = "N"
    return found


SAMPLES = {
    "png": encode("PNG"),
    "png-palette": encode("PNG", "P", transparency=3),
    "png-grey-alpha": encode("PNG", "LA", exif=exif()),
    "png-16": encode("PNG", "I;16"),
    "apng": frames("PNG"),
    "jpeg": encode("JPEG", exif=exif()),
    "jpeg-progressive": encode("JPEG", "L", progressive=True),
    "jpeg-cmyk": encode("JPEG", "CMYK"),
    "mpo": frames("MPO"),
    "tiff": encode("TIFF", exif=exif()),
    "tiff-lzw": encode("TIFF", "RGBA", compression="tiff_lzw"),
    "tiff-jpeg": encode("TIFF", compression="jpeg"),
    "tiff-float": encode("TIFF", "F"),
    "gif": frames("GIF"),
    "webp": encode("WEBP", exif=exif()),
    "webp-lossless": encode("WEBP", "RGBA", lossless=True),
    "bmp": encode("BMP"),
    "avif": encode("AVIF"),
    "jpeg2000": encode("JPEG2000"),
    "ico": encode("ICO"),
    "tga": encode("TGA"),
    "ppm": encode("PPM"),
}
READERS: dict[str, Callable[[Path], object]] = {
    "image": load_image,
    "bytes": lambda path: decode_image(path.read_bytes()),
    "mask": lambda path: load_mask_image(path, SIZE_HW),
    "size": read_size,
}


@pytest.mark.parametrize("kind", SAMPLES)
@given(found=edits, reader=st.sampled_from(list(READERS)))
def test_a_damaged_image_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, found: list[Edit], reader: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz-{kind}"
    path.write_bytes(edit_bytes(SAMPLES[kind], found))
    survives(lambda: READERS[reader](path))
