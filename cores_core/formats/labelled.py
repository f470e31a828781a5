"""Input type of all writers (images with labelled masks) and output type of all readers (annotations, masks lazy).

Readers report skipped entries to a `Reject` callback: name of the list in the file, index in it, and the reason, which
has no values, so that equal reasons can be counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cores_core.errors import DataError
from cores_core.mask_images import RowMask
from cores_core.masks import bounding_box
from cores_core.sample import BoolMask

Reject = Callable[[str, int, str], None]
SCORE_DIGITS = 4
"""Decimal digits of scores in files."""
_SENTENCE_ENDS = (".", "?", "!")


@dataclass(frozen=True, eq=False)
class LabelledMask:
    """A mask with its label.

    Attributes:
        label: a question or another name; masks of an image with the same label are objects of one answer.
        mask: (H, W) bool, may be empty. score: confidence, 0 to 1.
    """

    label: str
    mask: BoolMask
    score: float = 1.0

    @property
    def name(self) -> str:
        """The label without line breaks and repeated spaces."""
        return " ".join(self.label.split())

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Bounding box x, y, width, height of the mask in pixels; all 0 if it is empty."""
        return bounding_box(self.mask)


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image: its path as written to files, its upright (height, width), and its masks.

    Raises:
        DataError: a mask has another size.
    """

    image: str
    size_hw: tuple[int, int]
    masks: tuple[LabelledMask, ...]

    def __post_init__(self) -> None:
        for labelled in self.masks:
            if labelled.mask.shape != self.size_hw:
                raise DataError(f"a mask of {labelled.mask.shape} for an image of {self.size_hw}: {self.image}")


@dataclass(frozen=True)
class Annotation:
    """A target in an annotation file.

    Attributes:
        source: its position in the file, as text. index: of its first entry in the file's list.
        image: path according to the file. size_hw: height and width according to the file, or None.
        other_names: alternative paths of the image.
        questions, phrases: texts of queries, at least one in total. category: its category, or "".
        read_mask: decodes its mask for an image of the given (height, width); raises DataError.
    """

    source: str
    index: int
    image: str
    size_hw: tuple[int, int] | None
    questions: tuple[str, ...]
    phrases: tuple[str, ...]
    category: str
    read_mask: Callable[[tuple[int, int]], RowMask]
    other_names: tuple[str, ...] = ()


def read_label(label: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Convert a label to (questions, phrases): a question if it ends like a sentence (. ? !), otherwise a phrase."""
    text = check_text(label)
    return ((text,), ()) if text.endswith(_SENTENCE_ENDS) else ((), (text,))


def read_texts(entry: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read `questions` and `phrases` of an entry, each a text or a list of texts; duplicates are removed.

    Raises:
        DataError: there is none, or one is not a text.
    """
    lists = [list_texts(entry, key) for key in ("questions", "phrases")]
    if not any(lists):
        raise DataError("no question and no phrase")
    questions, phrases = (tuple(dict.fromkeys(map(check_text, texts))) for texts in lists)
    return questions, phrases


def list_texts(entry: dict[str, Any], key: str) -> list[Any]:
    """The value of a key, a text or a list of texts, as a list; its items are not checked.

    Raises:
        DataError: it is neither.
    """
    given = entry.get(key) or []
    if not isinstance(given, str | list):
        raise DataError(f"`{key}` must be a text or a list of texts")
    return [given] if isinstance(given, str) else given


def check_text(given: Any) -> str:
    """Validate a text and collapse its whitespace.

    Raises:
        DataError: it is not a text, is empty, or has an unpaired surrogate, which cannot be encoded.
    """
    if not isinstance(given, str) or not given.strip():
        raise DataError("a question or phrase is empty or not a text")
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise DataError("a question or phrase is not Unicode") from error
    return " ".join(given.split())
