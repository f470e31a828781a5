"""What a benchmark asks: one question about one image, and the mask that answers it."""

from dataclasses import dataclass

from cores_core.masks import Rle


@dataclass(frozen=True)
class Target:
    """One query and its truth.

    Attributes:
        id: store, split, and the numbers of image, region and query there: "reasonseg/val/12.0.0".
        image: its path relative to the data root.
        category: what the target is, if that is known.
        question, is_sentence: what is asked; a sentence (long) or a phrase (short).
        target, ignore: the truth, and pixels that count nowhere (None for none).
    """

    id: str
    image: str
    category: str
    question: str
    is_sentence: bool
    target: Rle
    ignore: Rle | None
