"""What all readers share: files that may be damaged, sizes of images, what was left out and why, and who reads what."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

from PIL import ExifTags, Image

from cores_core.errors import DataError
from cores_core.images import DECODE_ERRORS, check_size

_SIDEWAYS = (5, 6, 7, 8)
"""Values of the EXIF orientation that swap height and width."""
_Entry = TypeVar("_Entry")


@dataclass
class Rejections:
    """What was left out, item by item, each with its reason; and what was read by an assumption.

    Attributes:
        items: name and reason of what was left out. notes: name and assumption of what was read.
    """

    items: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def add(self, item: str, reason: str) -> None:
        """Leave out one item: a file or an id, and in a few words that repeat, why."""
        self.items.append((item, reason))

    def note(self, item: str, assumption: str) -> None:
        """Say how an item that is kept was read, in a few words that repeat."""
        self.notes.append((item, assumption))

    @property
    def counts(self) -> Mapping[str, int]:
        """How many were left out for each reason."""
        return {reason: len(items) for reason, items in group_items(self.items).items()}


def group_items(pairs: Iterable[tuple[str, str]]) -> Mapping[str, list[str]]:
    """The items of (item, text) pairs by their text."""
    groups: dict[str, list[str]] = {}
    for item, text in pairs:
        groups.setdefault(text, []).append(item)
    return groups


@dataclass(frozen=True)
class Share:
    """Which piece of a split to read: the one with this index, of so many. Pieces in order are the whole."""

    index: int = 0
    count: int = 1

    def of(self, entries: Sequence[_Entry]) -> Sequence[_Entry]:
        """Those entries that are in this piece; the sizes of pieces differ by one at most."""
        start, end = (len(entries) * number // self.count for number in (self.index, self.index + 1))
        return entries[start:end]

    def once(self, rejected: Rejections) -> Rejections:
        """Takes what is left out while the annotations are read as a whole, which only the first piece tells."""
        return rejected if self.index == 0 else Rejections()


WHOLE = Share()
"""All of a split."""


def load_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, with or without a mark, or in Windows' cp1252, as some of the real files are.

    Raises:
        DataError: it is missing, unreadable or no JSON.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read: {path} ({error.strerror or error})") from error
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return json.loads(data.decode(encoding))
        except UnicodeDecodeError:
            continue
        except (ValueError, RecursionError) as error:  # numbers of 5,000 digits are no JSONDecodeError
            raise DataError(f"not valid JSON: {path} ({error})") from error
    raise DataError(f"neither UTF-8 nor cp1252: {path}")


def find_inside(given: str, folder: Path, data_root: Path) -> Path:
    """The path that a line of a data set names, relative to the data root.

    Args:
        given: an absolute path, or one relative to `folder`, which lies in the data root. Links are not followed.

    Raises:
        DataError: it is a URL or a Windows path, or leaves the data root; the message is a reason that repeats.
    """
    if "://" in given:
        raise DataError("a URL stands in place of a path: download it and name the file")
    if os.sep == "/" and ("\\" in given or PureWindowsPath(given).drive) and not (folder / given).exists():
        raise DataError("a Windows path: write it with / and relative to the JSONL file")
    root, path = (Path(os.path.normpath(place.absolute())) for place in (data_root, folder / given))
    if not path.is_relative_to(root):
        raise DataError("a path leaves the data root: move the file below it")
    return path.relative_to(root)


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of an image when it is upright, from its header alone.

    Raises:
        DataError: it is missing or no image; the message is a reason that repeats, without the path.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
    except FileNotFoundError as error:
        raise DataError("image is missing") from error
    except DECODE_ERRORS as error:
        raise DataError("image cannot be read") from error
    try:
        check_size(width, height)
    except DataError as error:
        raise DataError("image is too large") from error
    return (width, height) if sideways else (height, width)
