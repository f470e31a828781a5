"""All forms of masks in parquet, each compared with the array that it was made from."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from parquet_files import IMAGE, SIZE_HW, encode, square
from pycocotools import mask as coco

from cores_core.data.parquet.masks import read_masks
from cores_core.errors import DataError
from cores_core.masks import decode_rle, encode_rle
from cores_core.sample import BoolMask

ONE, TWO = square(1, 1), square(2, 4)
CORNERS = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0]
POINTS = [[1, 1], [5, 1], [5, 4], [1, 4]]
STRUCT = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())])
BYTES = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.binary())])
RUNS = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.list_(pa.int64()))])
BOOLS = pa.list_(pa.list_(pa.bool_()))
POLYGON: BoolMask = coco.decode(coco.merge(coco.frPyObjects([CORNERS], *SIZE_HW))).astype(bool)


def png(mask: BoolMask) -> bytes:
    return encode((mask * 255).astype(np.uint8))


def runs_of(mask: BoolMask) -> dict[str, Any]:
    flat = np.concatenate([[False], mask.T.ravel(), [not mask[-1, -1]]])
    changes = np.flatnonzero(np.diff(flat))
    return {"size": list(mask.shape), "counts": np.diff([0, *changes]).tolist()}


def read(value: Any, kind: pa.DataType) -> list[BoolMask]:
    return [
        decode_rle(rle) for rle in read_masks(pa.array([value], kind)[0], SIZE_HW, {"m/a.png": png(ONE)}.__getitem__)
    ]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (encode_rle(ONE), STRUCT, [ONE]),
        (coco.encode(np.asfortranarray(ONE, dtype=np.uint8)), BYTES, [ONE]),
        ([encode_rle(ONE), encode_rle(TWO)], pa.list_(BYTES), [ONE, TWO]),
        (runs_of(ONE), RUNS, [ONE]),
        ([encode_rle(ONE), encode_rle(TWO)], pa.list_(STRUCT), [ONE, TWO]),
        ([[encode_rle(ONE), encode_rle(TWO)], []], pa.list_(pa.list_(STRUCT)), [ONE | TWO, ONE & TWO & False]),
        ({"bytes": png(ONE), "path": None}, IMAGE, [ONE]),
        ({"bytes": None, "path": "m/a.png"}, IMAGE, [ONE]),
        (png(ONE), pa.binary(), [ONE]),
        ([png(ONE), png(TWO)], pa.list_(pa.large_binary()), [ONE, TWO]),
        ("m/a.png", pa.string(), [ONE]),
        (ONE.tolist(), BOOLS, [ONE]),
        (ONE.astype(int).tolist(), pa.list_(pa.list_(pa.uint8())), [ONE]),
        ((ONE * 255.0).tolist(), pa.list_(pa.list_(pa.float32())), [ONE]),
        (ONE.tolist(), pa.list_(pa.list_(pa.bool_(), SIZE_HW[1]), SIZE_HW[0]), [ONE]),
        ([ONE.tolist(), TWO.tolist()], pa.list_(BOOLS), [ONE, TWO]),
        ([CORNERS], pa.list_(pa.list_(pa.float64())), [POLYGON]),
        (CORNERS, pa.list_(pa.float64()), [POLYGON]),
        ([list(map(int, CORNERS))], pa.list_(pa.list_(pa.int64())), [POLYGON]),
        (POINTS, pa.list_(pa.list_(pa.int64())), [POLYGON]),
        ([POINTS], pa.list_(pa.list_(pa.list_(pa.float64()))), [POLYGON]),
        ([[CORNERS], [CORNERS]], pa.list_(pa.list_(pa.list_(pa.float64()))), [POLYGON, POLYGON]),
        ([[POINTS], [POINTS]], pa.list_(pa.list_(pa.list_(pa.list_(pa.float64())))), [POLYGON, POLYGON]),
        (json.dumps(encode_rle(ONE)), pa.string(), [ONE]),
        (json.dumps([runs_of(ONE), runs_of(TWO)]), pa.string(), [ONE, TWO]),
        (json.dumps([CORNERS]), pa.string(), [POLYGON]),
        (json.dumps(ONE.astype(int).tolist()), pa.large_string(), [ONE]),
        ("[]", pa.string(), []),
        (None, BOOLS, []),
        ([], BOOLS, []),
        (None, STRUCT, []),
        ((ONE & False).tolist(), BOOLS, [ONE & False]),
    ],
)
def test_every_form_is_read(value: Any, kind: pa.DataType, expected: list[BoolMask]) -> None:
    found = read(value, kind)
    assert len(found) == len(expected)
    assert all(np.array_equal(mask, truth) for mask, truth in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (square(0, 0)[:, :4].tolist(), BOOLS, "another size"),
        ([[0, 1, 2, 3, 4, 5, 6, 7]] * 6, pa.list_(pa.list_(pa.int64())), "more than two values"),
        (encode_rle(ONE.T), STRUCT, "size"),
        (encode_rle(ONE.T), BYTES, "size"),
        (b"no image", pa.binary(), "cannot be read"),
        ("[1, {}]", pa.string(), "different things"),
        ("{", pa.string(), "no JSON"),
        (3, pa.int64(), "unknown type"),
        ([[[["a"]]]], pa.list_(pa.list_(pa.list_(pa.list_(pa.date32())))), "unknown type"),
    ],
)
def test_what_cannot_be_read_is_one_error(value: Any, kind: pa.DataType, message: str) -> None:
    value = [[[[None]]]] if kind == pa.list_(pa.list_(pa.list_(pa.list_(pa.date32())))) else value
    with pytest.raises(DataError, match=message):
        read(value, kind)


def test_a_slice_of_a_column_is_read_at_its_place() -> None:
    column = pa.array([ONE.tolist(), TWO.tolist()], BOOLS).slice(1)
    assert np.array_equal(decode_rle(read_masks(column[0], SIZE_HW, lambda _: b"")[0]), TWO)
