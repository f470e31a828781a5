"""Helpers of all readers: robust JSON and path handling, image sizes, rejected items with reasons, shards."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

from PIL import ExifTags, Image

from cores_core.errors import DataError, reason_of
from cores_core.files import RepeatedKeyError, parse_json
from cores_core.images import DECODE_ERRORS, check_size, has_url_form

_SAME_SIZE, _SIDEWAYS = (2, 3, 4), (5, 6, 7, 8)
"""Values of the EXIF orientation that mirror or turn an image within its size, and those that swap height and width."""
_Entry = TypeVar("_Entry")


@dataclass
class Rejections:
    """Rejected items with reasons, and notes on items that were read with an assumption.

    Attributes:
        items: pairs of rejected item and reason. notes: pairs of item and assumption.
    """

    items: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def add(self, item: str, reason: str) -> None:
        """Record a rejected item (a file or id) with a reason without values, so that equal reasons can be counted."""
        self.items.append((item, reason))

    def note(self, item: str, assumption: str) -> None:
        """Record the assumption with which an item was read, without values, so that equal ones can be counted."""
        self.notes.append((item, assumption))

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of rejected items by reason."""
        return {reason: len(items) for reason, items in group_items(self.items).items()}


def group_items(pairs: Iterable[tuple[str, str]]) -> Mapping[str, list[str]]:
    """Group (item, text) pairs by text."""
    groups: dict[str, list[str]] = {}
    for item, text in pairs:
        groups.setdefault(text, []).append(item)
    return groups


@dataclass(frozen=True)
class Share:
    """A shard of a split: number `index` of `count` contiguous shards."""

    index: int = 0
    count: int = 1

    def of(self, entries: Sequence[_Entry]) -> Sequence[_Entry]:
        """The entries in this shard; sizes of shards differ by at most one."""
        start, end = (len(entries) * number // self.count for number in (self.index, self.index + 1))
        return entries[start:end]

    def once(self, rejected: Rejections) -> Rejections:
        """Collector for rejections in parts that every shard reads; only the first shard reports them."""
        return rejected if self.index == 0 else Rejections()


WHOLE = Share()
"""The whole split as one shard."""


def load_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, with or without a byte order mark, or in cp1252, which some data sets use.

    Raises:
        DataError: the file is missing, unreadable or not JSON, or a key occurs twice in an object.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read: {path} ({error.strerror or error})") from error
    for encoding in ("utf-8-sig", "cp1252"):
        with suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            break
    else:
        raise DataError(f"neither UTF-8 nor cp1252: {path}")
    del data  # may be a gigabyte
    try:
        return parse_json(text, unique=True)
    except RepeatedKeyError as error:
        raise DataError(f"{error} in an object of: {path}", hint="keep one of the two") from error
    except ValueError as error:
        raise DataError(f"not valid JSON: {path} ({reason_of(error)})") from error


def load_annotation(path: Path) -> Any:
    """As `load_json`, for a file per image: messages do not contain the path, so that equal reasons can be counted."""
    try:
        return load_json(path)
    except DataError as error:
        is_repeated = isinstance(error.__cause__, RepeatedKeyError)
        raise DataError(str(error.__cause__) if is_repeated else "annotation cannot be read") from error


def find_inside(given: str, folder: Path, data_root: Path) -> Path:
    """Resolve a path given in a data set to one relative to the data root.

    Args:
        given: an absolute path, or one relative to `folder`, which is below the data root. Links are not followed.

    Raises:
        DataError: it is a URL, a Windows path, or outside the data root. The message does not contain the path, so that
            equal reasons can be counted.
    """
    if has_url_form(given):
        raise DataError("a URL instead of a path: download it and give the path of the file")
    if os.sep == "/" and ("\\" in given or PureWindowsPath(given).drive) and not (folder / given).exists():
        raise DataError("a Windows path: write it with / and relative to the JSONL file")
    root, path = (Path(os.path.normpath(place.absolute())) for place in (data_root, folder / given))
    if not path.is_relative_to(root):
        raise DataError("a path outside the data root: move the file below it")
    return path.relative_to(root)


def read_size(path: Path) -> tuple[int, int]:
    """Upright (height, width) of an image, from its header.

    Raises:
        DataError: it is missing, not an image, or too large. The message does not contain the path.
    """
    return read_turn(path)[0]


def read_turn(path: Path) -> tuple[tuple[int, int], bool]:
    """As `read_size`, and whether the EXIF orientation keeps the size, so that masks of the stored pixels would fit."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            orientation = image.getexif().get(ExifTags.Base.Orientation)
    except FileNotFoundError as error:
        raise DataError("image is missing") from error
    except DECODE_ERRORS as error:
        raise DataError("image cannot be read") from error
    try:
        check_size(width, height)
    except DataError as error:
        raise DataError("image is too large") from error
    is_sideways = orientation in _SIDEWAYS
    keeps_size = orientation in _SAME_SIZE or (is_sideways and width == height)
    return (width, height) if is_sideways else (height, width), keeps_size
