"""Queries of benchmarks with their ground truth."""

from dataclasses import dataclass

from cores_core.masks import Rle


@dataclass(frozen=True)
class Target:
    """One query with its ground truth.

    Attributes:
        id: store, split, and indices of image, region and query: "reasonseg/val/12.0.0".
        image: its path relative to the data root.
        category: category of the target, or "".
        question, is_sentence: the query's text; a sentence (long) or a phrase (short).
        target, ignore: ground truth mask, and ignored pixels (None for none).
    """

    id: str
    image: str
    category: str
    question: str
    is_sentence: bool
    target: Rle
    ignore: Rle | None
