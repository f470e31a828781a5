"""Masks of a parquet row, in any of these forms, as COCO RLEs, one for each target:

    struct{size, counts}      COCO RLE
    struct{bytes, path}       a mask image, see `mask_images.py`; also bytes alone
    list<list<bool>>          rows of pixels; also of integers or floats, 0 outside, in the size of the image
    list<list<float>>         polygons [x, y, x, y, ...]; also lists of [x, y] points
    string                    one of these in JSON, or the path of a mask image in the data set

A list of them is a list of targets, and a list of lists of RLEs a list of targets with several parts each. Null or an
empty list: no target. A mask without a pixel is kept.
"""

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cores_core.data.parquet.columns import is_binary, is_image, is_rle, is_text, list_depth
from cores_core.errors import DataError
from cores_core.mask_images import MaskImage, load_mask_image
from cores_core.masks import Rle, encode_rle, merge_rles, segmentation_rle
from cores_core.sample import BoolMask

Locate = Callable[[str], bytes]
"""Content of a file of the data set by its path in it; raises DataError."""
_POINT = 2


def read_masks(value: pa.Scalar, size_hw: tuple[int, int], locate: Locate) -> list[Rle]:
    """Read all targets of a row.

    Args:
        size_hw: height and width of the upright image.

    Raises:
        DataError: it is of none of the forms, or cannot be read. Messages have no values, so that they can be counted.
    """
    if not value.is_valid:
        return []
    depth, kind = list_depth(value.type)
    if depth == 0:
        return _read_one(value, size_hw, locate)
    parts = value.values
    if len(parts) == 0:
        return []
    if is_image(kind) or is_rle(kind) or is_binary(kind) or is_text(kind):
        return [_merged(read_masks(part, size_hw, locate), size_hw) for part in parts]
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"its mask is of an unknown type: {value.type}")
    return _read_numbers(parts, depth, size_hw)


def _read_one(value: pa.Scalar, size_hw: tuple[int, int], locate: Locate) -> list[Rle]:
    kind = value.type
    if is_rle(kind):
        return [segmentation_rle(value.as_py(), size_hw)]
    if is_image(kind) or is_binary(kind):
        given = value.as_py()
        data, path = (given["bytes"], given.get("path")) if isinstance(given, dict) else (given, None)
        return [_decode(data if data is not None else locate(path or ""), size_hw)]
    if is_text(kind):
        text = value.as_py().strip()
        return _read_json(text, size_hw) if text.startswith(("{", "[")) else [_decode(locate(text), size_hw)]
    raise DataError(f"its mask is of an unknown type: {kind}")


def _decode(data: bytes, size_hw: tuple[int, int]) -> Rle:
    image: MaskImage = load_mask_image(io.BytesIO(data), size_hw)
    if image.ignore is not None:
        raise DataError("its mask has ignored pixels (255 beside 1): prepare it with a JSONL file")
    return encode_rle(image.target)


def _read_json(text: str, size_hw: tuple[int, int]) -> list[Rle]:
    try:
        given = json.loads(text, parse_int=float) if text.startswith("[") else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError("its mask is a text that is no JSON") from error
    if isinstance(given, dict):
        return [segmentation_rle(given, size_hw)]
    if not given:
        return []
    if all(isinstance(part, dict) for part in given):
        return [segmentation_rle(part, size_hw) for part in json.loads(text)]
    try:
        numbers = pa.array([given])[0]
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError("its mask is a JSON list of different things") from error
    return read_masks(numbers, size_hw, lambda _: b"")


def _read_numbers(parts: pa.Array, depth: int, size_hw: tuple[int, int]) -> list[Rle]:
    """Nested numbers, `parts` being the values of the outermost list."""
    if depth == 1:
        return [segmentation_rle([parts.to_pylist()], size_hw)]
    if depth == 2:
        matrix = _as_matrix(parts, size_hw)
        return [encode_rle(matrix)] if matrix is not None else [segmentation_rle(_polygons(parts), size_hw)]
    if depth == 3 and _are_points(parts):
        return [segmentation_rle([_flat(polygon) for polygon in parts], size_hw)]
    if depth > 4:
        raise DataError(f"its mask is of an unknown type: {depth} lists in each other")
    return [_merged(_read_numbers(part.values, depth - 1, size_hw) if part.is_valid else [], size_hw) for part in parts]


def _merged(rles: Sequence[Rle], size_hw: tuple[int, int]) -> Rle:
    return merge_rles(list(rles)) if rles else encode_rle(np.zeros(size_hw, dtype=bool))


def _as_matrix(rows: pa.Array, size_hw: tuple[int, int]) -> BoolMask | None:
    """(H, W) from a list array of H lists of W; None for lists of other lengths, which may be polygons.

    Raises:
        DataError: booleans of another size, or more than two values.
    """
    lengths, values = np.diff(_offsets(rows)), rows.flatten()
    is_bool = pa.types.is_boolean(values.type)
    if (len(rows), *np.unique(lengths)) != size_hw:
        if is_bool:
            raise DataError("its mask is of another size than its image")
        return None
    if len(values) != size_hw[0] * size_hw[1]:
        raise DataError("its mask has missing rows")
    pixels: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(size_hw)
    shown = np.unique(pixels)
    if (not is_bool and len(shown) > 2) or (len(shown) == 2 and 0 not in shown):
        raise DataError("its mask is ambiguous: it has more than two values")
    return np.asarray(pixels != 0)


def _offsets(rows: pa.Array) -> NDArray[np.int64]:
    if pa.types.is_fixed_size_list(rows.type):
        return np.arange(len(rows) + 1, dtype=np.int64) * np.int64(rows.type.list_size)
    return np.asarray(rows.offsets.to_numpy(), dtype=np.int64)


def _polygons(rows: pa.Array) -> list[list[float]]:
    """Flat polygons; rows of one [x, y] point each are the points of a single polygon."""
    lists: list[list[float]] = rows.to_pylist()
    if any(row is None for row in lists):
        raise DataError("its mask has an empty polygon")
    if len(lists) > _POINT and all(len(row) == _POINT for row in lists):
        return [[number for point in lists for number in point]]
    return lists


def _are_points(polygons: pa.Array) -> bool:
    points = polygons.flatten()
    return len(points) > 0 and bool((np.diff(_offsets(points)) == _POINT).all())


def _flat(polygon: pa.Scalar) -> list[float]:
    return [number for point in polygon.as_py() or [] for number in point]
