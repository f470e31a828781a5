"""Validate the entries of a COCO-style file and group them by image and category; masks are not decoded.

Source: the format of COCO (arXiv:1405.0312, https://cocodataset.org/#format-data).
"""

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from cores_core.errors import DataError
from cores_core.formats.labelled import Reject

LISTS = ("categories", "images", "annotations")
Annotations = list[tuple[int, Any]]
"""Pairs of id and raw `segmentation`, not validated."""
Labels = dict[str, Annotations]
"""Annotations by category name, in the order of the file."""


@dataclass(frozen=True)
class AnnotatedImage:
    """One image of a COCO-style file.

    Attributes:
        number: its id. file_name, told_hw: its path, and its (height, width), according to the file.
        labels: its annotations by category.
    """

    number: int
    file_name: str
    told_hw: tuple[int, int]
    labels: Labels = field(default_factory=dict)


def is_coco(tree: Any) -> bool:
    """Whether a parsed JSON file has the top-level lists of a COCO file (at least two of three)."""
    return isinstance(tree, dict) and sum(isinstance(tree.get(key), list) for key in LISTS) > 1


def sort_entries(tree: Any, name: str, reject: Reject, anywhere: bool = False) -> list[AnnotatedImage]:
    """The images of a COCO-style file in order, each with its annotations by category.

    Args:
        tree: the parsed file. name: of the file, for the error.
        reject: called for entries that cannot be used.
        anywhere: allow absolute file names and `..`; the caller must check them.

    Raises:
        DataError: the file as a whole is not COCO-style.
    """
    for key in LISTS:
        if not isinstance(tree, dict) or not isinstance(tree.get(key), list):
            raise DataError(f"not a COCO-style annotation file: {name} (no list of {key})")
    if not tree["categories"]:
        raise DataError(f"not a COCO-style annotation file: {name} (it has no category)")
    sorter = _Sorter(anywhere)
    for key, add in zip(LISTS, (sorter.add_category, sorter.add_image, sorter.add_annotation), strict=True):
        for index, entry in enumerate(tree[key]):
            try:
                add(entry)
            except DataError as error:
                reject(key, index, error.message)
    return list(sorter.images.values())


class _Sorter:
    """Collects the entries of a COCO-style file; each method raises DataError for an entry that cannot be used."""

    def __init__(self, anywhere: bool) -> None:
        self._anywhere = anywhere
        self.images: dict[int, AnnotatedImage] = {}
        self._names: dict[int, str] = {}
        self._file_names: set[str] = set()
        self._seen: set[int] = set()

    def add_category(self, entry: Any) -> None:
        number, name = _take(entry, id=int, name=str)
        if number in self._names:
            raise DataError("duplicate id")
        if not name.strip() or not name.isprintable():
            raise DataError("category without a name")
        self._names[number] = name.strip()

    def add_image(self, entry: Any) -> None:
        number, file_name, height, width = _take(entry, id=int, file_name=str, height=int, width=int)
        if number in self.images or file_name in self._file_names:
            raise DataError("duplicate id" if number in self.images else "duplicate file name")
        path = PurePosixPath(file_name)
        if not self._anywhere and (path.is_absolute() or ".." in path.parts):
            raise DataError("image outside of its folder")
        self.images[number] = AnnotatedImage(number, file_name, (height, width))
        self._file_names.add(file_name)

    def add_annotation(self, entry: Any) -> None:
        number, image_id, category_id = _take(entry, id=int, image_id=int, category_id=int)
        if number in self._seen:
            raise DataError("duplicate id")
        if image_id not in self.images:
            raise DataError("unknown image id")
        if category_id not in self._names:
            raise DataError("unknown category id")
        self._seen.add(number)
        labels = self.images[image_id].labels
        labels.setdefault(self._names[category_id], []).append((number, entry.get("segmentation")))


def _take(entry: Any, **kinds: type) -> list[Any]:
    """The values of the given keys. Raises DataError for missing keys, other types and negative numbers."""
    values = [entry.get(key) for key in kinds] if isinstance(entry, dict) else []
    if [type(value) for value in values] != list(kinds.values()):
        raise DataError("a value is missing or of another type")
    if any(type(value) is int and value < 0 for value in values):
        raise DataError("a number is negative")
    return values
