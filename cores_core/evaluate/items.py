"""Result of one query, and the file of all results: a row per query, from which all scores can be recomputed.

Rows contain pixel counts (`intersection`, `predicted`, `target`), so parts of an evaluation are merged by concatenating
rows, without averaging averages.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cores_core.errors import DataError, reason_of
from cores_core.files import parse_json, save_text
from cores_core.masks import Rle, segmentation_rle
from cores_core.metrics import Overlap

ITEMS_FILE = "items.jsonl"
_TYPES = {
    "id": str,
    "image": str,
    "category": str,
    "question": str,
    "is_sentence": bool,
    "answer": str,
    "well_formed": bool,
    "seconds": float,
}
"""Types of a row's simple values."""


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
    instances: tuple[ScoredMask, ...] | None = None
    target_instances: tuple[Rle, ...] = ()
    confidence: Mapping[str, float] = field(default_factory=dict)

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
        for name, wanted in _TYPES.items():
            if type(values[name]) is not wanted:
                raise TypeError(f"`{name}` is a {type(values[name]).__name__}")
        values["overlap"], coarse = _parse_overlap(values["overlap"]), values["coarse_overlap"]
        values["coarse_overlap"] = None if coarse is None else _parse_overlap(coarse)
        height, width = values["mask"]["size"]
        for name in ("mask", "coarse_mask", "target", "ignore"):
            if values[name] is not None or name in ("mask", "target"):
                values[name] = segmentation_rle(values[name], (height, width))
        if values.get("instances") is not None:
            values["instances"] = tuple(
                ScoredMask(segmentation_rle(instance["mask"], (height, width)), float(instance["score"]))
                for instance in values["instances"]
            )
        objects = values.get("target_instances", ())
        values["target_instances"] = tuple(segmentation_rle(mask, (height, width)) for mask in objects)
        return Item(**values)
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise DataError(f"not a row of an evaluation ({type(error).__name__}: {error})") from error


def _parse_overlap(given: Any) -> Overlap:
    overlap = Overlap(**given)
    counts = (overlap.intersection, overlap.predicted, overlap.target)
    if any(type(count) is not int or not 0 <= count < 2**63 for count in counts) or not 0 <= overlap.share <= 1:
        raise ValueError("pixel counts that are not counts")
    if overlap.intersection > min(overlap.predicted, overlap.target):
        raise ValueError("an intersection that is larger than a mask")
    return overlap


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
        data = path.read_bytes()
    except OSError as error:
        hint = "give the --output folder of `cores eval`"
        raise DataError(f"no evaluation in: {folder} ({error.strerror or error})", hint=hint) from error
    try:
        lines = data.decode("utf-8").split("\n")  # questions may contain other line separators
        return [parse_item(parse_json(line)) for line in lines if line]
    except (DataError, ValueError) as error:
        raise DataError(f"damaged: {path} ({reason_of(error)})", hint="run the evaluation again") from error
