"""One query's result, and the file that holds them: a row a query, from which every score can be made again.

A row says how many pixels met (`intersection`, `predicted`, `target`), so parts of an evaluation are joined by their
rows: sums, never averages of averages.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cores_core.errors import DataError
from cores_core.files import save_text
from cores_core.masks import Rle
from cores_core.metrics import Overlap

ITEMS_FILE = "items.jsonl"


@dataclass(frozen=True)
class Item:
    """One query's result. All masks are COCO RLEs of the image's own size.

    Attributes:
        id: store, split, and the numbers of image, region and query there: "reasonseg/val/12.0.0".
        image: its path relative to the data root.
        category: what the target is, if that is known.
        question, is_sentence: what was asked; a sentence (long) or a phrase (short).
        answer: the text chain. well_formed: whether it holds the chain's tokens once and in order.
        overlap, coarse_overlap: how C2, the answer, and C1 meet the target.
        mask, coarse_mask: C2 and C1. target, ignore: the truth, and pixels that count nowhere.
        seconds: how long the image took, divided by its questions.
        Of masks from elsewhere, coarse_overlap and coarse_mask are None.
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

    @property
    def part(self) -> str:
        """Store and split that it is from."""
        return self.id.rpartition("/")[0]


def item_row(item: Item) -> dict[str, Any]:
    """The row of an item, ready for JSON, with both IoUs for those who read the file."""
    coarse = item.coarse_overlap
    return asdict(item) | {"iou": item.overlap.iou, "coarse_iou": None if coarse is None else coarse.iou}


def parse_item(row: dict[str, Any]) -> Item:
    """Read a row.

    Raises:
        DataError: it has not this form.
    """
    try:
        values = {name: value for name, value in row.items() if name not in ("iou", "coarse_iou")}
        values["overlap"] = Overlap(**values["overlap"])
        coarse = values["coarse_overlap"]
        values["coarse_overlap"] = None if coarse is None else Overlap(**coarse)
        return Item(**values)
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"not a row of an evaluation ({type(error).__name__}: {error})") from error


def save_items(items: Iterable[Item], folder: Path) -> None:
    """Write `items.jsonl`, whole or not at all."""
    rows = (json.dumps(item_row(item), ensure_ascii=False) for item in items)
    save_text("".join(f"{row}\n" for row in rows), folder / ITEMS_FILE)


def load_items(folder: Path) -> list[Item]:
    """Read `items.jsonl` of an evaluation.

    Raises:
        DataError: it is not there, or damaged.
    """
    path = folder / ITEMS_FILE
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # other breaks of lines may stand in a question
    except OSError as error:
        hint = "name the --output folder of `cores eval`"
        raise DataError(f"no evaluation in: {folder} ({error.strerror or error})", hint=hint) from error
    try:
        return [parse_item(json.loads(line)) for line in lines if line]
    except (DataError, ValueError) as error:
        raise DataError(f"damaged: {path} ({error})", hint="run the evaluation again") from error
