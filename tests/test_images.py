"""Any still image becomes upright 8-bit RGB, and any other file a sentence."""

import io
import resource
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers import noise_image
from numpy.typing import NDArray
from PIL import Image, ImageOps, features

from cores_core import images
from cores_core.errors import CoresWarning, DataError
from cores_core.images import decode_image, encode_png, load_image
from cores_core.sample import RgbImage

ODDITIES = "samples/jpeg_oddities"
KINDS = ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else [])]
UPRIGHT = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
"""Six pixels, two rows of three, all different."""


def test_grey_is_the_same_in_three_channels(tmp_path: Path) -> None:
    loaded = _save_and_load(Image.fromarray(np.array([[0, 7], [200, 255]], dtype=np.uint8)), tmp_path)
    assert loaded.tolist() == [[[0] * 3, [7] * 3], [[200] * 3, [255] * 3]]


def test_rgb_is_untouched(tmp_path: Path) -> None:
    image = noise_image(5, 7)
    assert np.array_equal(_save_and_load(Image.fromarray(image), tmp_path), image)


def test_transparent_pixels_are_white_and_half_transparent_ones_between(tmp_path: Path) -> None:
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [255, 0, 0, 128]]], dtype=np.uint8)
    loaded = _save_and_load(Image.fromarray(rgba), tmp_path)
    assert loaded[0, 0].tolist() == [255, 0, 0]
    assert loaded[0, 1].tolist() == [255, 255, 255]
    assert np.abs(loaded[0, 2].astype(int) - [255, 127, 127]).max() <= 1


def test_grey_with_alpha_is_on_white_too(tmp_path: Path) -> None:
    grey = Image.merge("LA", (Image.new("L", (2, 1), 0), Image.fromarray(np.array([[255, 0]], dtype=np.uint8))))
    assert _save_and_load(grey, tmp_path)[0, :, 0].tolist() == [0, 255]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(path)
    assert load_image(path)[0, 0].tolist() == [255, 0, 0]


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    assert _save_and_load(Image.fromarray(values), tmp_path)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_palette_gives_colours_not_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode=None).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert _save_and_load(image, tmp_path)[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_a_transparent_palette_entry_is_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    path = tmp_path / "image.png"
    image.save(path, transparency=1)
    assert load_image(path)[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_black_and_white_of_one_bit(tmp_path: Path) -> None:
    loaded = _save_and_load(Image.fromarray(np.array([[True, False]])), tmp_path)
    assert loaded[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    stored = {  # what a camera held in such a way stores, so that turning it back gives UPRIGHT
        1: UPRIGHT,
        2: UPRIGHT[:, ::-1],
        3: UPRIGHT[::-1, ::-1],
        4: UPRIGHT[::-1],
        5: UPRIGHT.transpose(1, 0, 2),
        6: np.rot90(UPRIGHT, 1),
        7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(UPRIGHT, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.array_equal(load_image(path), UPRIGHT)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_real_photographs_are_turned_upright(shared: Path, orientation: int) -> None:
    folder = shared / ODDITIES / "pillow"
    upright = load_image(folder / "hopper_orientation_2.jpg")
    turned = load_image(folder / f"hopper_orientation_{orientation}.jpg")
    assert turned.shape == upright.shape
    assert np.abs(turned.astype(int) - upright).mean() < 8  # each file is compressed anew


@pytest.mark.parametrize(("name", "is_wide"), [("Landscape_1", True), ("Landscape_6", True), ("Portrait_6", False)])
def test_a_landscape_is_wide_and_a_portrait_tall(shared: Path, name: str, is_wide: bool) -> None:
    height, width = load_image(shared / ODDITIES / "exif-orientation-examples" / f"{name}.jpg").shape[:2]
    assert (width > height) == is_wide


def test_the_same_landscape_comes_out_of_two_orientations(shared: Path) -> None:
    folder = shared / ODDITIES / "exif-orientation-examples"
    first, sixth = (load_image(folder / f"Landscape_{n}.jpg") for n in (1, 6))
    assert first.shape == sixth.shape
    small = [np.asarray(Image.fromarray(image).resize((30, 20)), dtype=int) for image in (first, sixth)]
    assert np.abs(small[0] - small[1]).mean() < 40  # each has its own number painted on it


@pytest.mark.filterwarnings("ignore")
def test_every_odd_photograph_is_read_as_pillow_reads_it(shared: Path) -> None:
    paths = sorted((shared / ODDITIES).rglob("*.jpg"))
    assert paths
    for path in paths:
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        assert np.array_equal(load_image(path), expected), path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_off_anywhere_is_refused_with_its_name(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise_image(24, 24)).save(buffer, format=kind)
    whole, path = buffer.getvalue(), tmp_path / "image"
    for length in np.linspace(0, len(whole) * 0.9, 40, dtype=int):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=str(path)):
            load_image(path)


@pytest.mark.filterwarnings("ignore")
def test_an_image_with_broken_bytes_is_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000)  # a broken header may promise gigabytes
    path, rng = tmp_path / "image", np.random.default_rng(0)
    for kind in KINDS:
        buffer = io.BytesIO()
        Image.fromarray(noise_image(8, 8)).save(buffer, format=kind)
        for _ in range(60):
            broken = bytearray(buffer.getvalue())
            for place in rng.integers(0, min(len(broken), 200), size=3):
                broken[place] = int(rng.integers(256))
            path.write_bytes(broken)
            try:
                image = load_image(path)
            except DataError:
                continue
            assert image.dtype == np.uint8
            assert image.ndim == 3


def test_a_text_file_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("this is not an image")
    with pytest.raises(DataError, match="not an image") as caught:
        load_image(path)
    assert caught.value.hint


def test_a_folder_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder"):
        load_image(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such image: .*fish\.png"):
        load_image(tmp_path / "fish.png")


@pytest.mark.parametrize("side", [14_000, 40_000])
def test_a_huge_image_is_refused_before_it_is_unpacked(tmp_path: Path, side: int) -> None:
    path = tmp_path / "image.bmp"
    header = bytearray(_encode_bmp())
    header[18:26] = side.to_bytes(4, "little") * 2
    path.write_bytes(header)
    with pytest.raises(DataError, match="too large"):
        load_image(path)


def _encode_bmp() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, format="BMP")
    return buffer.getvalue()


def _colours() -> RgbImage:
    """Bars of orange, green, blue and grey, 16 pixels wide and 64 high."""
    bars = np.array([[230, 120, 20], [30, 160, 60], [40, 60, 200], [128, 128, 128]], dtype=np.uint8)
    return np.tile(np.repeat(bars, 16, axis=0), (64, 1, 1))


def _save_and_load(image: Image.Image, folder: Path) -> RgbImage:
    path = folder / "image.png"
    image.save(path)
    loaded = load_image(path)
    assert loaded.dtype == np.uint8
    assert loaded.shape == (image.height, image.width, 3)
    return loaded


def test_floats_in_0_to_1_are_scaled_by_their_type(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    levels = np.array([[0, 1, 100, 255]], dtype=np.uint8)
    Image.fromarray(levels.astype(np.float32) / 255).save(tmp_path / "image.tif")
    assert load_image(tmp_path / "image.tif")[0, :, 0].tolist() == [0, 1, 100, 255]
    assert not recwarn


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 2048, 4095]], dtype=np.uint16), [0, 128, 255]),
        (np.array([[0, 128, 255]], dtype=np.uint16), [0, 128, 255]),
        (np.array([[0, 2048, 4095]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 100_000, 200_000]], dtype=np.int32), [0, 128, 255]),
        (np.array([[-100, 0, 155]], dtype=np.int32), [0, 100, 255]),
        (np.array([[0, 500, 1000]], dtype=np.float32), [0, 128, 255]),
        (np.array([[-1, 0, 1]], dtype=np.float32), [0, 128, 255]),
    ],
    ids=["12 of 16 bits", "8 of 16 bits", "12 of 32 bits", "32 bits", "negative", "floats to 1000", "floats from -1"],
)
def test_other_values_are_scaled_by_their_own_range_and_a_warning_says_so(
    tmp_path: Path, values: NDArray[Any], expected: list[int]
) -> None:
    Image.fromarray(values).save(tmp_path / "image.tif")
    with pytest.warns(CoresWarning, match="range"):
        assert load_image(tmp_path / "image.tif")[0, :, 0].tolist() == expected


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_12_bits_of_a_16_bit_colour_image_are_scaled_too(tmp_path: Path, suffix: str) -> None:
    colours = np.array([[[0, 2048, 4095], [4095, 0, 16]]], dtype=np.uint16)
    cv2.imwrite(str(tmp_path / f"image.{suffix}"), colours[..., ::-1])
    with pytest.warns(CoresWarning, match="12 bits"):
        assert load_image(tmp_path / f"image.{suffix}").tolist() == [[[0, 128, 255], [255, 0, 1]]]


def test_a_16_bit_colour_image_that_uses_its_range_is_not_scaled_by_its_own(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), np.array([[[0, 257, 65535], [32896, 0, 0]]], dtype=np.uint16)[..., ::-1])
    assert load_image(tmp_path / "image.png").tolist() == [[[0, 1, 255], [128, 0, 0]]]
    assert not recwarn


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    path = tmp_path / "image.tif"
    Image.fromarray(np.array([[0, 0.5, value]], dtype=np.float32)).save(path)
    with pytest.raises(DataError, match=rf"not finite numbers: {path}") as caught:
        load_image(path)
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_bytes_and_a_file_are_the_same_image(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    Image.fromarray(noise_image(5, 7)).save(path, format=kind)
    assert np.array_equal(decode_image(path.read_bytes()), load_image(path))


def test_bytes_of_deep_colours_are_scaled_as_a_file_is(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.arange(12, dtype=np.uint16).reshape(2, 2, 3) * 80)
    with pytest.warns(CoresWarning, match="10 bits"):
        loaded = load_image(path)
    with pytest.warns(CoresWarning, match="10 bits"):
        assert np.array_equal(decode_image(path.read_bytes()), loaded)


def test_bytes_of_other_formats_and_larger_images_are_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(noise_image(5, 7)).save(file, format="EPS")  # Pillow would start Ghostscript
    with pytest.raises(DataError, match="not an image"):
        decode_image(file.getvalue())
    file = io.BytesIO()
    Image.fromarray(noise_image(5, 7)).save(file, format="PNG")
    with pytest.raises(DataError, match="7 x 5 pixels") as caught:
        decode_image(file.getvalue(), max_pixels=34)
    assert "at most 34 pixels" in str(caught.value.hint)
    with pytest.raises(DataError, match="empty"):
        decode_image(b"")


def _save_unsigned_tiff(values: NDArray[np.uint32], path: Path) -> None:
    """Pillow and OpenCV cannot write unsigned 32-bit values."""
    height, width = values.shape
    tags = {256: width, 257: height, 258: 32, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: values.nbytes, 339: 1}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + values.nbytes)
    path.write_bytes(head + values.tobytes() + struct.pack("<H", len(tags)) + fields + bytes(4))


@pytest.mark.parametrize("top", [1 << 20, (1 << 32) - 1])
def test_unsigned_32_bits_are_not_read_as_signed(tmp_path: Path, top: int) -> None:
    values = np.array([[0, top // 2, top]], dtype=np.uint32)
    _save_unsigned_tiff(values, tmp_path / "image.tif")
    with pytest.warns(CoresWarning, match="own range"):
        assert load_image(tmp_path / "image.tif")[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_image_is_read_with_a_warning(tmp_path: Path, kind: str) -> None:
    first, second = (Image.new("RGB", (6, 4), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "image", format=kind, save_all=True, append_images=[second], lossless=True)
    with pytest.warns(CoresWarning, match="several images"):
        loaded = load_image(tmp_path / "image")
    assert loaded.shape == (4, 6, 3)
    assert (loaded == (255, 0, 0)).all()


def test_the_preview_in_a_photograph_is_no_second_image(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    first, second = (Image.fromarray(noise_image(8, 8, seed=seed)) for seed in (0, 1))
    first.save(tmp_path / "image", format="MPO", save_all=True, append_images=[second])
    assert load_image(tmp_path / "image").shape == (8, 8, 3)
    assert not recwarn


@pytest.mark.skipif("AVIF" not in KINDS, reason="this Pillow has no AVIF")
def test_avif_is_read(tmp_path: Path) -> None:
    colours = _colours()
    Image.fromarray(colours).save(tmp_path / "image.avif", quality=95, subsampling="4:4:4")
    loaded = load_image(tmp_path / "image.avif")
    assert loaded.shape == colours.shape
    assert np.abs(loaded.astype(int) - colours).mean() < 2


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
def test_a_jpeg_of_four_channels_keeps_its_colours(tmp_path: Path, transform: int) -> None:
    """Pillow writes CMYK. In a YCCK file, the first three channels are those of YCbCr, of inks in place of colours."""
    colours = _colours()
    black = Image.fromarray(np.repeat(np.arange(64, dtype=np.uint8)[:, None], 64, axis=1))
    inks = Image.merge("CMYK", (*Image.fromarray(255 - colours).split(), black))
    stored = inks
    if transform == 2:
        luma, *chroma = Image.merge("RGB", inks.split()[:3]).convert("YCbCr").split()
        stored = Image.merge("CMYK", (*map(ImageOps.invert, (luma, *chroma)), black))
    buffer = io.BytesIO()
    stored.save(buffer, format="JPEG", quality=95)
    data = bytearray(buffer.getvalue())
    data[data.index(b"Adobe") + 11] = transform
    (tmp_path / "image.jpg").write_bytes(data)
    loaded = load_image(tmp_path / "image.jpg").astype(int)
    assert np.abs(loaded - np.asarray(inks.convert("RGB"))).mean() < 3
    assert np.abs(loaded[0] - colours[0]).max() < 20


@pytest.mark.parametrize("name", ["photo.heic", "photo.HEIF"])
def test_heic_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(4) + b"ftypheic" + bytes(100))
    with pytest.raises(DataError, match="unknown format") as caught:
        load_image(tmp_path / name)
    assert "convert it to JPEG" in str(caught.value.hint)


@pytest.mark.parametrize("chunk", [b"zTXt", b"iCCP"])
def test_a_small_file_with_gigabytes_of_text_is_read_without_them_or_refused(tmp_path: Path, chunk: bytes) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise_image(4, 4)).save(buffer, format="PNG")
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    body = chunk + b"name\0\0" + packed
    whole = buffer.getvalue()
    bomb = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "image.png").write_bytes(whole[:33] + bomb + whole[33:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(DataError):
        assert load_image(tmp_path / "image.png").shape == (4, 4, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_transparent_rows_of_a_tall_image_are_white_in_every_block(tmp_path: Path) -> None:
    rgba = np.zeros((600, 2, 4), dtype=np.uint8)
    rgba[::2, :, 3] = 255
    assert load_image(_save(Image.fromarray(rgba), tmp_path))[:, 0, 0].tolist() == [0, 255] * 300


def _save(image: Image.Image, folder: Path) -> Path:
    path = folder / "image.png"
    image.save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "shape"),
    [("L", (7, 9)), ("RGB", (7, 9, 3)), ("RGBA", (7, 9, 4)), ("L", (1, 1)), ("RGB", (1, 300, 3))],
)
def test_a_png_has_the_pixels_it_was_made_of(mode: str, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert (image.format, image.mode) == ("PNG", mode)
        assert np.array_equal(np.asarray(image), pixels)
