"""A row of a parquet data set as rows of a JSONL file of own data, its image written to the data set's folder.

Several texts and as many targets are pairs. Otherwise all texts ask for all targets together, whose union is the mask;
several texts with another number of several targets are rejected.
"""

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from PIL import ExifTags, Image

from cores_core.data.parquet.columns import NONE, ColumnMap
from cores_core.data.parquet.masks import Locate, read_masks
from cores_core.errors import DataError
from cores_core.formats.labelled import check_text, read_label
from cores_core.images import DECODE_ERRORS, check_size
from cores_core.masks import Rle, merge_rles, rle_area

WriteImage = Callable[[str, bytes], str]
"""Writes an image under a name that contains a digest of its bytes; returns the name."""
_SIDEWAYS = (5, 6, 7, 8)
"""Values of the EXIF orientation that swap height and width."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME, _DIGEST = 60, 12
_Texts = tuple[tuple[str, ...], tuple[str, ...]]
"""Questions and phrases."""


class RowReader:
    """Reads rows by a column map."""

    def __init__(self, columns: ColumnMap, locate: Locate, write: WriteImage) -> None:
        self._columns, self._locate, self._write = columns, locate, write

    @property
    def needed(self) -> list[str]:
        """The columns that are read."""
        return [name for role, name in self._columns.used.items() if not (role == "mask" and name == NONE)]

    def read(self, batch: pa.RecordBatch, index: int) -> list[dict[str, Any]]:
        """Read row `index` of a batch; the image of the JSONL rows is the name that it was written under.

        Raises:
            DataError: its image, texts or mask cannot be used.
        """
        values = {role: _value(batch, name, index) for role, name in self._columns.used.items() if name in self.needed}
        data, path = self._read_image(values["image"])
        size_hw, suffix = _probe(data)
        texts = _read_texts(values)
        targets = read_masks(values["mask"], size_hw, self._locate) if "mask" in values else []
        category = str(values["category"].as_py() or "") if "category" in values else ""
        pairs = _pair(texts, targets)
        given = str(values["id"].as_py() or "") if "id" in values else ""
        name = self._write(_image_name(given or PurePosixPath(path).stem, data, suffix), data)
        return [_row(name, part, mask, category) for part, mask in pairs]

    def _read_image(self, value: pa.Scalar) -> tuple[bytes, str]:
        """Encoded image and its path, or ""."""
        given = value.as_py()
        data, path = (given.get("bytes"), given.get("path")) if isinstance(given, dict) else (given, "")
        if isinstance(data, str):
            data, path = None, data
        if data is None:
            if not path:
                raise DataError("image is missing")
            data = self._locate(path)
        return data, path or ""


def _value(batch: pa.RecordBatch, name: str, index: int) -> pa.Scalar:
    first, *inner = name.split(".")
    value = batch.column(first)[index]
    for part in inner:
        value = value[part]
    return value


def _probe(data: bytes) -> tuple[tuple[int, int], str]:
    """Upright (height, width) of an encoded image, and the suffix of its format."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            sideways = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
            suffix = {"JPEG": ".jpg", "TIFF": ".tif"}.get(image.format or "", f".{(image.format or 'img').lower()}")
    except DECODE_ERRORS as error:
        raise DataError("image cannot be read") from error
    try:
        check_size(width, height)
    except DataError as error:
        raise DataError("image is too large") from error
    return ((width, height) if sideways else (height, width)), suffix


def _read_texts(values: dict[str, pa.Scalar]) -> _Texts:
    """Questions and phrases of a row, duplicates included, since they may be paired with targets."""
    questions: list[str] = []
    phrases: list[str] = []
    for role in ("question", "phrase", "text"):
        given = values[role].as_py() if role in values else None
        for text in [given] if isinstance(given, str) else given or []:
            as_question, as_phrase = read_label(text)
            questions += as_question if role == "text" else [check_text(text)] * (role == "question")
            phrases += as_phrase if role == "text" else [check_text(text)] * (role == "phrase")
    if not questions and not phrases:
        raise DataError("no question and no phrase")
    return tuple(questions), tuple(phrases)


def _pair(texts: _Texts, targets: list[Rle]) -> list[tuple[_Texts, Rle | None]]:
    """Texts with the mask that each group of them asks for."""
    questions, phrases = texts
    count = len(targets)
    if count < 2:
        return [(texts, _some_mask(targets))]
    if {len(questions), len(phrases)} <= {0, count}:
        each = zip(questions or [None] * count, phrases or [None] * count, targets, strict=True)
        return [((_some(question), _some(phrase)), _some_mask([mask])) for question, phrase, mask in each]
    if len(questions) > 1 or len(phrases) > 1:
        raise DataError("several texts and another number of targets")
    return [(texts, _some_mask([merge_rles(targets)]))]


def _some_mask(masks: list[Rle]) -> Rle | None:
    """The mask, None if it has no pixel: no target."""
    return masks[0] if masks and rle_area(masks[0]) else None


def _some(text: str | None) -> tuple[str, ...]:
    return () if text is None else (text,)


def _image_name(stem: str, data: bytes, suffix: str) -> str:
    digest = hashlib.sha256(data).hexdigest()[:_DIGEST]
    name = _UNSAFE.sub("_", PurePosixPath(stem).name)[:_LONGEST_NAME].lstrip(".")
    return f"{name}-{digest}{suffix}" if name else f"{digest}{suffix}"


def _row(image: str, texts: _Texts, mask: Rle | None, category: str) -> dict[str, Any]:
    questions, phrases = texts
    row: dict[str, Any] = {"image": image, "mask": mask}
    row |= {key: list(found) for key, found in (("questions", questions), ("phrases", phrases)) if found}
    return row | ({"category": category} if category else {})
