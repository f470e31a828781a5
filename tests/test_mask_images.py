"""Mask images: which pixels are inside, outside, ignored, and what is refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw, ImageFilter, ImageOps

from cores_core.errors import DataError
from cores_core.mask_images import load_mask_image

SIZE_HW = (120, 160)
BOX = (10, 10, 149, 109)
"""140 x 100 pixels: 14,000."""


def box(mode: str, outside: object, inside: object) -> Image.Image:
    image = Image.new(mode, SIZE_HW[::-1], outside)  # type: ignore[arg-type]
    ImageDraw.Draw(image).rectangle(BOX, fill=inside)  # type: ignore[arg-type]
    return image


def inverted_palette() -> Image.Image:
    image = box("P", 1, 0)
    image.putpalette([255, 255, 255, 0, 0, 0])
    return image


def high_palette_index() -> Image.Image:
    image = box("P", 0, 15)
    image.putpalette([0, 0, 0] + [200, 30, 30] * 255)
    return image


def class_numbers(*numbers: int) -> Image.Image:
    return Image.fromarray(np.resize(np.array(numbers, dtype=np.uint8), SIZE_HW))


def alpha_ramp() -> Image.Image:
    return Image.merge("LA", (Image.new("L", SIZE_HW[::-1], 255), Image.linear_gradient("L").resize(SIZE_HW[::-1])))


EXACT = {
    "0 and 255": lambda: box("L", 0, 255),
    "0 and 1": lambda: box("L", 0, 1),
    "0 and 2": lambda: box("L", 0, 2),
    "0 and 100": lambda: box("L", 0, 100),
    "16 bits": lambda: box("I;16", 0, 65535),
    "one bit": lambda: box("1", 0, 1),
    "pure red": lambda: box("RGB", (0, 0, 0), (255, 0, 0)),
    "pure blue": lambda: box("RGB", (0, 0, 0), (0, 0, 255)),
    "white RGBA": lambda: box("RGBA", (255, 255, 255, 0), (255, 255, 255, 255)),
    "black RGBA": lambda: box("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)),
    "white LA": lambda: box("LA", (255, 0), (255, 255)),
    "faint RGBA": lambda: box("RGBA", (0, 0, 0, 0), (255, 0, 0, 60)),
    "RGBA of one alpha": lambda: box("RGBA", (0, 0, 0, 90), (255, 255, 255, 90)),
    "opaque RGBA": lambda: box("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)),
    "inverted palette": inverted_palette,
    "palette index 15": high_palette_index,
}


@pytest.mark.parametrize("kind", EXACT)
def test_masks_of_two_values_are_read_to_the_pixel(tmp_path: Path, kind: str) -> None:
    EXACT[kind]().save(tmp_path / "mask.png")
    mask = load_mask_image(tmp_path / "mask.png", SIZE_HW)
    assert (mask.ignore, mask.note) == (None, None)
    assert mask.target.sum() == 14_000
    assert mask.target[10:110, 10:150].all()


def test_whole_numbers_in_a_float_tiff_are_read_to_the_pixel(tmp_path: Path) -> None:
    box("F", 0, 1).save(tmp_path / "mask.tif")
    assert load_mask_image(tmp_path / "mask.tif", SIZE_HW).target.sum() == 14_000


@pytest.mark.parametrize("name", ["soft.png", "deep.png", "grey.jpg", "colour.jpg", "alpha.png"])
def test_blended_edges_and_jpeg_noise_are_cut_at_half_with_a_note_and_nothing_is_ignored(
    tmp_path: Path, name: str
) -> None:
    soft = box("L", 0, 255).filter(ImageFilter.GaussianBlur(1))
    images = {
        "soft.png": soft,
        "deep.png": Image.fromarray(np.asarray(soft).astype(np.uint16) * 257),
        "grey.jpg": box("L", 0, 255),
        "colour.jpg": box("RGB", (0, 0, 0), (255, 255, 255)),
        "alpha.png": Image.merge("LA", (Image.new("L", soft.size, 255), soft)),
    }
    images[name].save(tmp_path / name)
    mask = load_mask_image(tmp_path / name, SIZE_HW)
    assert mask.ignore is None
    assert mask.note is not None
    assert "half" in mask.note
    assert abs(int(mask.target.sum()) - 14_000) < 300


def test_255_is_ignored_only_beside_1(tmp_path: Path) -> None:
    image = box("L", 0, 1)
    image.paste(255, (0, 0, 160, 5))
    image.save(tmp_path / "mask.png")
    mask = load_mask_image(tmp_path / "mask.png", SIZE_HW)
    assert mask.target.sum() == 14_000
    assert mask.ignore is not None
    assert mask.ignore.sum() == 800


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.fromarray(np.arange(120 * 160, dtype=np.uint8).reshape(SIZE_HW)), "ambiguous: its values"),
        (Image.fromarray(np.arange(120 * 160, dtype=np.uint16).reshape(SIZE_HW)), "ambiguous: its values"),
        (Image.fromarray(np.random.default_rng(0).random(SIZE_HW, dtype=np.float32)), "not integers"),
        (
            Image.merge("LA", (Image.new("L", (160, 120), 255), Image.linear_gradient("L").resize((160, 120)))),
            "ambiguous: its values",
        ),
        (class_numbers(0, 1, 2), "ambiguous: its values"),
        (class_numbers(0, 1, 2, 255), "ambiguous: its values"),
        (Image.new("L", (4, 3)), "another size"),
        (Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 4), dtype=np.uint8)), "ambiguous"),
    ],
    ids=["ramp", "deep ramp", "fractions", "alpha ramp", "classes", "classes with 255", "size", "photo with alpha"],
)
def test_ambiguous_masks_are_refused_with_a_reason(tmp_path: Path, image: Image.Image, reason: str) -> None:
    image.save(tmp_path / "mask", format="TIFF")
    with pytest.raises(DataError, match=reason):
        load_mask_image(tmp_path / "mask", SIZE_HW)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_mask_is_turned_by_its_exif_as_its_image_is(tmp_path: Path, orientation: int) -> None:
    stored, exif = Image.open(_save(box("L", 0, 255), tmp_path)), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "turned.png"))) > 0
    assert np.array_equal(load_mask_image(tmp_path / "turned.png", expected.shape).target, expected)


def test_a_mask_drawn_on_the_stored_pixels_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="before its EXIF rotation"):
        load_mask_image(_save(box("L", 0, 255), tmp_path), SIZE_HW[::-1])


@pytest.mark.parametrize("numbers", [(0, 1, 2, 255), (0, 3, 240), (0, 250, 255)])
def test_class_numbers_near_black_and_white_are_not_taken_for_noise(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="ambiguous: its values"):
        load_mask_image(_save(class_numbers(*numbers), tmp_path), SIZE_HW)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_large_mask_takes_little_memory(tmp_path: Path, mode: str) -> None:
    size = (4000, 4000)
    Image.new(mode, size, "white").save(tmp_path / "mask.png", compress_level=1)
    script = (
        "import resource, sys; from pathlib import Path; from cores_core.mask_images import load_mask_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"assert load_mask_image(Path(sys.argv[1]), {size}).target.all()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "mask.png")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * 1024 < 25 * size[0] * size[1]  # bytes


def _save(image: Image.Image, folder: Path) -> Path:
    path = folder / "mask.png"
    image.save(path)
    return path
