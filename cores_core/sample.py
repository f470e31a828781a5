"""Types passed from data sets to processors: queries, turns and samples."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]
"""(H, W), True inside."""
RgbImage = NDArray[np.uint8]
"""(H, W, 3), 0-255, upright."""


@dataclass(frozen=True)
class Query:
    """A question about an image: a full sentence, or a noun phrase (`is_sentence=False`) with other question templates.

    `answer` is a text answer for training; None if there is none.
    """

    text: str
    is_sentence: bool = True
    answer: str | None = None


@dataclass(frozen=True)
class Turn:
    """One question and its answer as rendered for the MLLM, without the conversation format.

    Attributes:
        segments: whether the answer contains the chain tokens and has a mask; False for text answers.
        history: earlier turns, oldest first; their answers are not part of the text loss.
    """

    question: str
    answer: str
    segments: bool = True
    history: tuple["Turn", ...] = ()


@dataclass(frozen=True)
class Annotation:
    """An annotated region of an image: its category, its kind ("part" or "object") and its (H, W) bool mask."""

    category: str
    kind: str
    mask: BoolMask


@dataclass(frozen=True)
class ImageSize:
    """Height and width of an image before and after resizing for SAM, without padding."""

    original_hw: tuple[int, int]
    resized_hw: tuple[int, int]


@dataclass(frozen=True)
class Sample:
    """One image with its turns, N of which have a mask.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        turns: questions with their answers.
        masks: N target masks, each (H, W) bool; an empty tuple in prediction.
        ignores: N masks of pixels excluded from losses and scores, each (H, W) bool or None.
        categories: category of each of the N masks.
        annotations: all annotated regions of the image, including those without a question; see `SampleOptions`.
        example: in-context example; None for that of the prompt format, "" for none.
        key: identifies the pixels, for the feature cache; "" if unused.
    """

    image: RgbImage
    turns: tuple[Turn, ...]
    masks: tuple[BoolMask, ...] = ()
    ignores: tuple[BoolMask | None, ...] = ()
    categories: tuple[str, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    example: str | None = None
    key: str = ""
