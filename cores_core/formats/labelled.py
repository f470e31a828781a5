"""What every writer takes: an image with its labelled masks; and what every reader gives: targets, masks unread.

Readers give what they leave out to a `Reject`: the list in the file, the index of the entry there, and the reason in a
few words that repeat.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from cores_core.errors import DataError
from cores_core.mask_images import RowMask
from cores_core.masks import bounding_box
from cores_core.sample import BoolMask

Reject = Callable[[str, int, str], None]
_SENTENCE_ENDS = ("?", ".", "!")


@dataclass(frozen=True, eq=False)
class LabelledMask:
    """A mask and its name.

    Attributes:
        label: a question or another name. Masks of one image with the same label are objects of one answer.
        mask: (H, W) bool, may be empty. score: confidence, 0 to 1.
    """

    label: str
    mask: BoolMask
    score: float = 1.0

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Smallest x, y, width, height around the mask, in pixels; all 0 for an empty one."""
        return bounding_box(self.mask)


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image as its file calls it, its height and width when upright, and masks of that size."""

    image: str
    size_hw: tuple[int, int]
    masks: tuple[LabelledMask, ...]

    def __post_init__(self) -> None:
        for labelled in self.masks:
            if labelled.mask.shape != self.size_hw:
                size = "of {} x {}".format(*self.size_hw)
                raise DataError(f"a mask of shape {labelled.mask.shape} for an image {size}: {self.image}")


@dataclass(frozen=True)
class Target:
    """What a file of annotations says of one thing in an image.

    Attributes:
        source: where it stands in the file. index: of its (first) entry in the file's list.
        image: as the file names it. size_hw: height and width as the file tells, None where it does not.
        questions, phrases: the ways to ask for it. category: what it is, "" where that is not known.
        read_mask: reads the mask for an image of this height and width; raises DataError.
    """

    source: str
    index: int
    image: str
    size_hw: tuple[int, int] | None
    questions: tuple[str, ...]
    phrases: tuple[str, ...]
    category: str
    read_mask: Callable[[tuple[int, int]], RowMask]


def collect_labels(images: "Iterable[LabelledImage]") -> list[str]: ...
