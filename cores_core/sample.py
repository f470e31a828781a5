"""What a data set gives and what a processor takes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]
"""(H, W), True inside."""
RgbImage = NDArray[np.uint8]
"""(H, W, 3), 0-255, upright."""


@dataclass(frozen=True)
class Query:
    """What is asked of an image: a full sentence, or a bare phrase (`is_sentence=False`), worded differently.

    `answer` is what one can say to it in words, for training; None where nothing is known.
    """

    text: str
    is_sentence: bool = True
    answer: str | None = None


@dataclass(frozen=True)
class Turn:
    """One question and its answer as the MLLM reads them, without the conversation around them.

    Attributes:
        segments: whether the answer holds the tokens of the chain; if not, it is words alone and has no mask.
        history: what was said before, oldest first; nobody learns to say that.
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
    """Height and width of an image, before and after it was resized for SAM (before padding)."""

    original_hw: tuple[int, int]
    resized_hw: tuple[int, int]


@dataclass(frozen=True)
class Sample:
    """One image with its turns, N of which segment.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        turns: questions with their answers.
        masks: N target masks, each (H, W) bool; empty where there is no target (prediction).
        ignores: N masks of pixels that count nowhere, or None for none.
        categories: what each of the N masks shows.
        annotations: all annotated regions of the image, asked about or not; only if `SampleOptions` asks for them.
        example: the in-context example that is read before, None for that of the prompt format, "" for none.
        key: which pixels these are, the same for the same pixels only; "" where nobody asks.
    """

    image: RgbImage
    turns: tuple[Turn, ...]
    masks: tuple[BoolMask, ...] = ()
    ignores: tuple[BoolMask | None, ...] = ()
    categories: tuple[str, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    example: str | None = None
    key: str = ""
