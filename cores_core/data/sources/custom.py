"""Your own data: one JSONL file for each split under `custom/<name>/`, one line for each image and target.

    {"image": "images/fish.jpg", "questions": ["Which part steers the fish?"], "mask": "masks/fish.png"}
    {"image": "images/fish.jpg", "phrases": ["head of the fish"], "mask": [[10, 10, 60, 10, 60, 40]]}
    {"image": "images/boat.jpg", "questions": ["What catches the wind?"], "mask": {"size": [480, 640], "counts": "..."}}

Paths are relative to the JSONL file. A mask is an image (see `mask_images.py` for its values), a list of polygons, or a
COCO RLE. `questions` and `phrases` hold one text or a list. Lines about the same image become one record. `category`
is optional.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cores_core.data.sources.reading import WHOLE, Rejections, Share, read_size
from cores_core.data.store import Record, Region
from cores_core.errors import DataError
from cores_core.mask_images import load_mask_image
from cores_core.masks import Rle, encode_rle, segmentation_rle
from cores_core.sample import Query

_Row = tuple[str, dict[str, Any]]
"""The name of the file with the number of a line, and what stands there."""
_MISFORMED = (KeyError, TypeError, ValueError, RecursionError)
"""What a line of another form raises."""


def read_custom(
    folder: Path, data_root: Path, split: str, rejected: Rejections, share: Share = WHOLE
) -> Iterator[Record]:
    """Read one split of somebody's own data set, images in the order of their first line.

    Args:
        folder: where `<split>.jsonl` lies. data_root: image paths are stored relative to it.
        rejected: takes lines that make no sense, by their number. share: which images to read.

    Raises:
        DataError: there is no such file.
    """
    path = folder / f"{split}.jsonl"
    by_image: dict[str, list[_Row]] = {}
    for number, line in _lines(path):
        source = f"{path.name}:{number}"
        try:
            row = json.loads(line)
            name = (folder / row["image"]).relative_to(data_root).as_posix()
        except _MISFORMED as error:
            share.once(rejected).add(source, _tell(error))
            continue
        by_image.setdefault(name, []).append((source, row))
    for name, rows in share.of(list(by_image.items())):
        try:
            size_hw = read_size(data_root / name)
        except DataError as error:
            rejected.items += [(source, error.message) for source, _ in rows]
            continue
        regions = tuple(_regions(rows, folder, size_hw, rejected))
        if regions:
            yield Record(image=name, size_hw=size_hw, regions=regions)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read: {path} ({error})", hint="see `cores prepare-data --list`") from error


def _tell(error: Exception) -> str:
    return f"not a line of this form ({type(error).__name__}: {error})"


def _regions(rows: list[_Row], folder: Path, size_hw: tuple[int, int], rejected: Rejections) -> Iterator[Region]:
    for source, row in rows:
        try:
            yield _region(row, folder, size_hw, source)
        except DataError as error:
            rejected.add(source, error.message)
        except _MISFORMED as error:
            rejected.add(source, _tell(error))


def _region(row: dict[str, Any], folder: Path, size_hw: tuple[int, int], source: str) -> Region:
    questions, phrases = _texts(row, "questions", "question"), _texts(row, "phrases", "phrase")
    texts = [*((text, True) for text in questions), *((text, False) for text in phrases)]
    if not texts or not all(isinstance(text, str) and text.strip() for text, _ in texts):
        raise DataError("no question and no phrase, or an empty one")
    queries = tuple(dict.fromkeys(Query(" ".join(text.split()), is_sentence) for text, is_sentence in texts))
    mask, ignore = _mask(row["mask"], folder, size_hw)
    return Region(str(row.get("category", "")), "object", mask, ignore, queries, source)


def _texts(row: dict[str, Any], key: str, other: str) -> list[Any]:
    """The texts under a key, which may hold one text or a list of them."""
    if other in row:
        raise DataError(f"unknown key `{other}`, did you mean `{key}`?")
    given = row.get(key, [])
    return [given] if isinstance(given, str) else list(given)


def _mask(given: Any, folder: Path, size_hw: tuple[int, int]) -> tuple[Rle, Rle | None]:
    if not isinstance(given, str):
        return segmentation_rle(given, size_hw), None
    mask = load_mask_image(folder / given, size_hw)
    return encode_rle(mask.target), None if mask.ignore is None else encode_rle(mask.ignore)
