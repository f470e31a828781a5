"""Your own data: one JSONL file for each split under `custom/<name>/`, one line for each image and target.

    {"image": "images/fish.jpg", "questions": ["Which part steers the fish?"], "mask": "masks/fish.png"}
    {"image": "images/fish.jpg", "phrases": ["head of the fish"], "mask": [[10, 10, 60, 10, 60, 40]]}
    {"image": "images/boat.jpg", "questions": ["What catches the wind?"], "mask": {"size": [480, 640], "counts": "..."}}

Paths are relative to the JSONL file, or absolute, and lie below the data root. A mask is an image (see `mask_images.py`
for its values), a list of polygons, or a COCO RLE; `null` or `[]` says that the image does not show what is asked for,
and any other mask must have a pixel inside. `questions` and `phrases` hold one text or a list. Lines about the same
image become one record. `category` is optional. Other keys are not read.
"""

import json
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cores_core.data.sources.reading import WHOLE, Rejections, Share, find_inside, read_size
from cores_core.data.store import Record, Region
from cores_core.errors import DataError
from cores_core.mask_images import RowMask, read_row_mask
from cores_core.masks import rle_area
from cores_core.sample import Query

_Row = tuple[str, dict[str, Any]]
"""The name of the file with the number of a line, and what stands there."""
_KEYS = ("image", "questions", "phrases", "mask", "category")
_OTHER_NAMES = {
    "image": ("img", "image_path", "file_name", "path"),
    "questions": ("query", "queries", "prompt", "text", "sentence"),
    "mask": ("segmentation", "rle", "polygon", "polygons", "mask_path"),
}
"""Keys of other formats that stand in place of ours."""
_LONGEST_KEY = 40
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
    unread: dict[str, str] = {}
    for number, line in _lines(path):
        source = f"{path.name}:{number}"
        try:
            row = json.loads(line)
            _check_keys(row)
            name = find_inside(row["image"], folder, data_root).as_posix()
        except DataError as error:
            share.once(rejected).add(source, error.message)
            continue
        except _MISFORMED as error:
            share.once(rejected).add(source, _tell(error))
            continue
        by_image.setdefault(name, []).append((source, row))
        for key in row.keys() - set(_KEYS):
            unread.setdefault(key[:_LONGEST_KEY], source)
    for key, source in sorted(unread.items()):
        share.once(rejected).note(source, f"the key `{key}` is not read")
    for name, rows in share.of(list(by_image.items())):
        try:
            size_hw = read_size(data_root / name)
        except DataError as error:
            rejected.items += [(source, error.message) for source, _ in rows]
            continue
        regions = tuple(_regions(rows, folder, data_root, size_hw, rejected))
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


def _check_keys(row: Any) -> None:
    """Raises DataError if a key is missing, or an unknown one stands in place of a known one."""
    if not isinstance(row, dict):
        raise DataError("not a line of this form: a JSON object with `image`, `questions` or `phrases`, and `mask`")
    for key in sorted(row.keys() - set(_KEYS)):
        for meant in get_close_matches(key[:_LONGEST_KEY].lower(), _KEYS, n=1, cutoff=0.8):
            raise DataError(f"unknown key `{key[:_LONGEST_KEY]}`, did you mean `{meant}`?")
    for key in ("image", "questions", "mask"):
        if key in row or (key == "questions" and "phrases" in row):
            continue
        for other in _OTHER_NAMES[key]:
            if other in row:
                raise DataError(f"unknown key `{other}`, did you mean `{key}`?")
        raise DataError("no question and no phrase" if key == "questions" else f"it has no `{key}`")
    if not isinstance(row["image"], str):
        raise DataError("`image` must be a path")


def _regions(
    rows: list[_Row], folder: Path, data_root: Path, size_hw: tuple[int, int], rejected: Rejections
) -> Iterator[Region]:
    for source, row in rows:
        try:
            found = _mask(row["mask"], folder, data_root, size_hw)
            category = row.get("category") or ""
            if not isinstance(category, str):
                raise DataError("`category` must be a text")
            region = Region(category, "object", found.mask, found.ignore, _queries(row), source)
        except DataError as error:
            rejected.add(source, error.message)
        except _MISFORMED as error:
            rejected.add(source, _tell(error))
        else:
            if found.note is not None:
                rejected.note(source, found.note)
            yield region


def _queries(row: dict[str, Any]) -> tuple[Query, ...]:
    texts = [*((text, True) for text in _texts(row, "questions")), *((text, False) for text in _texts(row, "phrases"))]
    if not texts or not all(isinstance(text, str) and text.strip() for text, _ in texts):
        raise DataError("no question and no phrase, or one that is empty or no text")
    return tuple(dict.fromkeys(Query(" ".join(text.split()), is_sentence) for text, is_sentence in texts))


def _texts(row: dict[str, Any], key: str) -> list[Any]:
    """The texts under a key, which may hold one text or a list of them."""
    given = row.get(key) or []
    if not isinstance(given, str | list):
        raise DataError(f"`{key}` must be a text or a list of texts")
    return [given] if isinstance(given, str) else given


def _mask(given: Any, folder: Path, data_root: Path, size_hw: tuple[int, int]) -> RowMask:
    if given is None or given == []:
        return read_row_mask([], Path, size_hw)
    found = read_row_mask(given, lambda path: data_root / find_inside(path, folder, data_root), size_hw)
    if not rle_area(found.mask):
        raise DataError("empty mask: write null if the image does not show what is asked for")
    return found
