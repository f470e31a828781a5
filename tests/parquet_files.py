"""Small parquet data sets as they are on the hub."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from helpers import noise_image
from PIL import Image

from cores_core.sample import BoolMask

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SIZE_HW = (6, 8)


def encode(pixels: Any, form: str = "PNG") -> bytes:
    """An array as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=form)
    return buffer.getvalue()


def photo(seed: int) -> dict[str, Any]:
    """A value of the hub's Image feature."""
    return {"bytes": encode(noise_image(*SIZE_HW, seed=seed)), "path": f"photo{seed}.png"}


def square(top: int, left: int, side: int = 3) -> BoolMask:
    """A mask of `SIZE_HW`."""
    found = np.zeros(SIZE_HW, dtype=bool)
    found[top : top + side, left : left + side] = True
    return found


def reasonseg_rows(count: int) -> dict[str, Any]:
    """Columns as in Ricky06662/ReasonSeg_val: the type of each, and `count` rows of nested boolean masks."""
    masks = [square(index % 3, index % 5) for index in range(count)]
    return {
        "image": pa.array([photo(index) for index in range(count)], IMAGE),
        "text": [f"Which part is number {index}?" if index % 2 else f"part {index}" for index in range(count)],
        "mask": pa.array([mask.tolist() for mask in masks], pa.list_(pa.list_(pa.bool_()))),
        "image_id": [f"id_{index}" for index in range(count)],
        "ann_id": [f"{index}" for index in range(count)],
        "img_height": [SIZE_HW[0]] * count,
        "img_width": [SIZE_HW[1]] * count,
    }


def write(columns: dict[str, Any], path: Path, group: int = 2) -> Path:
    """A parquet file with `group` rows in a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path
