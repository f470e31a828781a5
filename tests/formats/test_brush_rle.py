"""Brush masks in Label Studio's code: the bytes that its converter writes, and all that its editor writes."""

import random
from base64 import b64decode
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from fillers import odd_masks
from helpers import mask

from cores_core.errors import DataError
from cores_core.formats.brush_rle import decode_brush, encode_brush
from cores_core.sample import BoolMask

TAIL = mask("........", "..####..", "..####..", "........")
CONVERTED_TAIL = [0, 0, 0, 128, 57, 27, 254, 39, 0, 191, 255, 124, 2, 255, 254, 39, 0, 0]
"""`mask2rle(TAIL * 255)` of label-studio-sdk 2.1.2; also a byte more than is needed."""
CONVERTED_EMPTY = [
    0,
    4,
    7,
    104,
    57,
    27,
    255,
    255,
    255,
    0,
    255,
    255,
    224,
    31,
    255,
    252,
    3,
    255,
    255,
    128,
    112,
    118,
    112,
    0,
]
"""The same of 322 x 205 pixels without one inside: a run that is too long for one block."""
CONVERTED_DIGEST = "158a004a8d374f0a137afa7c1dba41cc88f9279f06292b0b6e3c5c2d98a77ea9"
"""SHA-256 of the same for `large_mask`."""

STROKE = mask(".....", ".###.", ".###.", ".###.", "...#.", "#....")
PACKED_STROKES = {
    "bytes": "AAAAeDkb/OAB/4iBMlsAG/xEGyP8RB4f8IRCMicAC/xELh/wREMh/whEN/5wAT/ERDI/4RGH/CERLItgA/+Iiz//iIvARgAf+IjP/fAA",
    "bytes, counts of 1, 5, 9 and 12 bits": "AAAAeDgkXTgBH/iIEyVYATf4iDZH+Ig8/5EIhGRTgBF/iIXP+IiGT/kQiG/9OAEn+IiGR"
    "/yIz/kQiJZFWAE/+Iiz//iIvAUYAR/4iM/9eAA=",
    "values of 1 bit": "AAAAeAEb/hdbzredb30eNHvg",
    "values of 16 bits": "AAAAeHkb/OAAEbIyWwAAjyMiP//48jInAAC3//84AAR5GRH//8eRkWwAAjf3+OAgIwAAj//++AAA",
}
"""A red stroke with soft edges, of alpha 0, 100, 127, 128, 200 and 255, as @thi.ng/rle-pack 3.2 packs it; in base64."""


def large_mask() -> BoolMask:
    rows, columns = np.ogrid[:322, :205]
    large = (columns - 100) ** 2 + (rows - 60) ** 2 < 40**2
    large[-3:, -9:] = True
    large[3, 5:80] = True
    return np.asarray(large)


def test_the_bytes_are_those_of_the_converter() -> None:
    assert encode_brush(TAIL) == CONVERTED_TAIL
    assert encode_brush(np.zeros((322, 205), dtype=bool)) == CONVERTED_EMPTY
    assert sha256(bytes(encode_brush(large_mask()))).hexdigest() == CONVERTED_DIGEST


def test_every_mask_comes_back_to_the_pixel() -> None:
    for target in [*odd_masks(), large_mask(), np.ones((300, 300), dtype=bool)]:
        assert np.array_equal(decode_brush(encode_brush(target), target.shape), target)


@pytest.mark.parametrize("form", PACKED_STROKES)
def test_all_that_the_editor_can_pack_is_read(form: str) -> None:
    """Lists of values, not runs alone; counts and values of any length; alpha above half is inside."""
    assert np.array_equal(decode_brush(list(b64decode(PACKED_STROKES[form])), (6, 5)), STROKE)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (None, "not a list of bytes"),
        ("AAAA", "not a list of bytes"),
        ([0, 0, 256], "not a list of bytes"),
        ([0, 0, "0"], "not a list of bytes"),
        ([0.5], "not a list of bytes"),
        ([], "truncated"),
        (CONVERTED_TAIL[:9], "truncated"),
        (CONVERTED_TAIL[:-4], "truncated"),
        (CONVERTED_EMPTY, "264040 values for 4 x 8 pixels"),
        ([*CONVERTED_TAIL[:6], 255, 255, 255, 255], "more values than its image"),
    ],
)
def test_a_damaged_code_is_one_error(code: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decode_brush(code, (4, 8))


def test_noise_never_crashes() -> None:
    rng = random.Random(0)
    for _ in range(500):
        code = [*CONVERTED_TAIL[:4], *(rng.randrange(256) for _ in range(rng.randrange(40)))]
        try:
            assert decode_brush(code, (4, 8)).shape == (4, 8)
        except DataError:
            continue
