"""JSONL format of users' own data, with a row per image and target.

    {"image": "images/fish.jpg", "questions": ["Which part steers the fish?"], "mask": "masks/fish.png"}
    {"image": "images/fish.jpg", "phrases": ["head of the fish"], "mask": [[10, 10, 60, 10, 60, 40]]}
    {"image": "images/boat.jpg", "questions": ["What catches the wind?"], "mask": {"size": [480, 640], "counts": "..."}}

Paths are absolute or relative to the JSONL file, below the data root. A mask is an image (see `mask_images.py` for its
values), a list of polygons, or a COCO RLE; `null` or `[]` means that the image has no target, other masks must not be
empty. `questions` and `phrases` are a text or a list of texts. `category` is optional. Other keys are ignored.
"""

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from cores_core.data.sources.reading import Rejections, find_inside
from cores_core.errors import DataError, reason_of
from cores_core.files import parse_json
from cores_core.formats.labelled import Annotation, read_texts
from cores_core.mask_images import RowMask, read_row_mask
from cores_core.masks import rle_area

_KEYS = ("image", "questions", "phrases", "mask", "category")
_OTHER_NAMES = {
    "image": ("img", "image_path", "file_name", "path"),
    "questions": ("query", "queries", "prompt", "text", "sentence"),
    "mask": ("segmentation", "rle", "polygon", "polygons", "mask_path"),
}
"""Keys of other formats, for hints in errors."""
_LONGEST_KEY = 40
_MISFORMED = (KeyError, TypeError, ValueError, RecursionError)
"""Exceptions raised by malformed lines."""


def read_jsonl(path: Path, data_root: Path, rejected: Rejections) -> Iterator[Annotation]:
    """Read the targets of a file in order.

    Args:
        data_root: mask images must be below it. rejected: collects invalid lines by line number.

    Raises:
        DataError: the file is missing or not UTF-8.
    """
    unread: dict[str, str] = {}
    for number, line in _lines(path):
        source = f"{path.name}:{number}"
        try:
            row = parse_json(line, unique=True)
            _check_keys(row)
            annotation = _read_row(row, source, number, partial(_read_mask, row["mask"], path.parent, data_root))
        except DataError as error:
            rejected.add(source, error.message)
            continue
        except _MISFORMED as error:
            rejected.add(source, _tell(error))
            continue
        for key in row.keys() - set(_KEYS):
            unread.setdefault(key[:_LONGEST_KEY], source)
        yield annotation
    for key, source in sorted(unread.items()):
        rejected.note(source, f"the key `{key}` is not read")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read: {path} ({reason_of(error)})", hint="see `cores prepare-data --list`") from error


def _tell(error: Exception) -> str:
    return f"malformed line ({type(error).__name__}: {error})"


def _check_keys(row: Any) -> None:
    """Check the keys of a row.

    Raises:
        DataError: a key is missing, or an unknown key looks like a misspelled one.
    """
    if not isinstance(row, dict):
        raise DataError("malformed line: expected a JSON object with `image`, `questions` or `phrases`, and `mask`")
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


def _read_row(
    row: dict[str, Any], source: str, number: int, read_mask: Callable[[tuple[int, int]], RowMask]
) -> Annotation:
    questions, phrases = read_texts(row)
    category = row.get("category") or ""
    if not isinstance(category, str):
        raise DataError("`category` must be a text")
    category.encode()  # unpaired surrogates could not be stored
    return Annotation(
        source=source,
        index=number,
        image=row["image"],
        size_hw=None,
        questions=questions,
        phrases=phrases,
        category=category,
        read_mask=read_mask,
    )


def _read_mask(given: Any, folder: Path, data_root: Path, size_hw: tuple[int, int]) -> RowMask:
    if given is None or given == []:
        return read_row_mask([], Path, size_hw)
    try:
        found = read_row_mask(given, lambda path: data_root / find_inside(path, folder, data_root), size_hw)
    except _MISFORMED as error:
        raise DataError(_tell(error)) from error
    if not rle_area(found.mask):
        raise DataError("empty mask: write null if the image has no target")
    return found
