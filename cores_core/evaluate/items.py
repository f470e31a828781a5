"""Result of one query, and the file of all results: a row per query, from which all scores can be recomputed.

Rows contain pixel counts (`intersection`, `predicted`, `target`), so parts of an evaluation are merged by concatenating
rows, without averaging averages.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cores_core.errors import DataError
from cores_core.files import save_text
from cores_core.masks import Rle
from cores_core.metrics import Overlap

ITEMS_FILE = "items.jsonl"


@dataclass(frozen=True)
class ScoredMask:
    """A predicted object with its confidence, 0 to 1."""

    mask: Rle
    score: float


@dataclass(frozen=True)
class Item:
    """Result of one query. All masks are COCO RLEs of the size of the image.

    Attributes:
        id: store, split, and indices of image, region and query: "reasonseg/val/12.0.0".
        image: its path relative to the data root.
        category: category of the target, or "".
        question, is_sentence: the query's text; a sentence (long) or a phrase (short).
        answer: answer text. well_formed: whether it contains each chain token once and in order.
        overlap, coarse_overlap: pixel counts of C2 (the final mask) and C1 against the target.
        mask, coarse_mask: C2 and C1. target, ignore: ground truth and ignored pixels.
        confidence: confidences of the mask by name, 0-1 (see `calibration.py`).
        seconds: time for the image divided by its number of questions.
        instances: the predicted objects; None if the system gives none.
        target_instances: the objects of the target, if the data set has them apart; else empty.
        For predictions of other systems, coarse_overlap and coarse_mask are None.
    """

    id: str
    image: str
    category: str
    question: str
    is_sentence: bool
    answer: str
    well_formed: bool
    overlap: Overlap
    coarse_overlap: Overlap | None
    mask: Rle
    coarse_mask: Rle | None
    target: Rle
    ignore: Rle | None
    seconds: float
    confidence: Mapping[str, float] = field(default_factory=dict)
    instances: tuple[ScoredMask, ...] | None = None
    target_instances: tuple[Rle, ...] = ()

    @property
    def part(self) -> str:
        """Store and split, e.g. "reasonseg/val"."""
        return self.id.rpartition("/")[0]


def item_row(item: Item) -> dict[str, Any]:
    """The row of an item as JSON values, with both IoUs added for readers of the file."""
    coarse = item.coarse_overlap
    return asdict(item) | {"iou": item.overlap.iou, "coarse_iou": None if coarse is None else coarse.iou}


def parse_item(row: dict[str, Any]) -> Item:
    """Parse a row written by `item_row`.

    Raises:
        DataError: it is malformed.
    """
    try:
        values = {name: value for name, value in row.items() if name not in ("iou", "coarse_iou")}
        values["overlap"] = Overlap(**values["overlap"])
        coarse = values["coarse_overlap"]
        values["coarse_overlap"] = None if coarse is None else Overlap(**coarse)
        if values.get("instances") is not None:
            values["instances"] = tuple(ScoredMask(**instance) for instance in values["instances"])
        values["target_instances"] = tuple(values.get("target_instances", ()))
        return Item(**values)
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"not a row of an evaluation ({type(error).__name__}: {error})") from error


def save_items(items: Iterable[Item], folder: Path) -> None:
    """Write `items.jsonl`, atomically."""
    rows = (json.dumps(item_row(item), ensure_ascii=False) for item in items)
    save_text("".join(f"{row}\n" for row in rows), folder / ITEMS_FILE)


def load_items(folder: Path) -> list[Item]:
    """Read `items.jsonl` of an evaluation.

    Raises:
        DataError: it is missing or damaged.
    """
    path = folder / ITEMS_FILE
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # questions may contain other line separators
    except OSError as error:
        hint = "give the --output folder of `cores eval`"
        raise DataError(f"no evaluation in: {folder} ({error.strerror or error})", hint=hint) from error
    try:
        return [parse_item(json.loads(line)) for line in lines if line]
    except (DataError, ValueError) as error:
        raise DataError(f"damaged: {path} ({error})", hint="run the evaluation again") from error
