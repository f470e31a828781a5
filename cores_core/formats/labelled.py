"""What every writer takes, images with labelled masks; and what every reader gives, annotations with masks unread.

Readers tell what they leave out to a `Reject`: the list of the file in which an entry stands, its index there, and the
reason in a few words that repeat.
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
"""Decimal digits of a score in a file."""
_SENTENCE_ENDS = (".", "?", "!")


@dataclass(frozen=True, eq=False)
class LabelledMask:
    """A mask with its name.

    Attributes:
        label: a question or another name; masks of one image with the same label are objects of one answer.
        mask: (H, W) bool, may be empty. score: confidence, 0 to 1.
    """

    label: str
    mask: BoolMask
    score: float = 1.0

    @property
    def name(self) -> str:
        """The label on one line."""
        return " ".join(self.label.split())

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Smallest x, y, width, height around the mask, in pixels; all 0 for an empty one."""
        return bounding_box(self.mask)


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image under the path by which a file shall name it, its upright (height, width), and its masks.

    Raises:
        DataError: a mask is of another size.
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
    """A target as a file of annotations describes it.

    Attributes:
        source: where it stands in the file. index: of its first entry in the file's list.
        image: its path as the file has it. size_hw: height and width as the file has them, or None.
        other_names: other paths under which the image may lie.
        questions, phrases: the ways to ask for it, at least one in all. category: what it is, or "".
        read_mask: reads its mask for an image of this height and width; raises DataError.
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
    """The questions and the phrases that a label stands for: a question if it ends as a sentence does (. ? !)."""
    text = check_text(label)
    return ((text,), ()) if text.endswith(_SENTENCE_ENDS) else ((), (text,))


def read_texts(entry: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What stands under `questions` and `phrases` of an entry, each one text or a list of them.

    Raises:
        DataError: there is none, or one is no text.
    """
    lists = []
    for key in ("questions", "phrases"):
        given = entry.get(key) or []
        if not isinstance(given, str | list):
            raise DataError(f"`{key}` must be a text or a list of texts")
        lists.append([given] if isinstance(given, str) else given)
    if not any(lists):
        raise DataError("no question and no phrase")
    questions, phrases = (tuple(dict.fromkeys(map(check_text, texts))) for texts in lists)
    return questions, phrases


def check_text(given: Any) -> str:
    """A text with its blanks in order.

    Raises:
        DataError: it is none, or empty, or holds half a surrogate pair, which no file can.
    """
    if not isinstance(given, str) or not given.strip():
        raise DataError("no question and no phrase, or one that is empty or no text")
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise DataError("a question or phrase is not Unicode") from error
    return " ".join(given.split())
