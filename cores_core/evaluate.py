"""Score a model on a prepared store: one row for each query, and the sums over them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cores_core.data.store import Record, Region, Store
from cores_core.files import save_text
from cores_core.images import load_image
from cores_core.masks import Rle, binarize, decode_rle, encode_rle
from cores_core.metrics import BANDS, MaskIoU, measure_overlap
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.inference import Protocol, Segmentation, segment_image


@dataclass(frozen=True)
class ItemScore:
    """One query's result: what was asked, what came out, how well it fits. `coarse_iou` is C1's."""

    image: str
    category: str
    question: str
    answer: str
    well_formed: bool
    iou: float
    coarse_iou: float
    mask: Rle
    coarse_mask: Rle


@dataclass(frozen=True)
class EvalResult:
    """Items in the order of the store, and their sums; `coarse` sums the masks of C1."""

    items: tuple[ItemScore, ...]
    refined: MaskIoU
    coarse: MaskIoU

    @property
    def well_formed(self) -> float:
        """Share of answers that hold the chain's tokens once and in order."""
        return sum(item.well_formed for item in self.items) / max(len(self.items), 1)

    def summary(self) -> dict[str, Any]:
        """The scores by name, ready for JSON; null where there is nothing to score."""
        return {
            "giou": self.refined.giou,
            "ciou": self.refined.ciou,
            **{f"ciou_{band}": self.refined.ciou_by_band[band] for band in BANDS},
            "miou": self.refined.miou,
            "coarse_giou": self.coarse.giou,
            "coarse_ciou": self.coarse.ciou,
            "well_formed": self.well_formed,
            "count": self.refined.count,
            "categories": dict(self.refined.iou_by_category),
        }


def evaluate_store(
    checkpoint: Checkpoint,
    store: Store,
    protocol: Protocol,
    *,
    kinds: tuple[str, ...] = ("part",),
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> EvalResult:
    """Ask each region's first query and compare the mask.

    Args:
        kinds: which kinds of regions are asked about.
        limit: only the first so many images.
        progress: called with 1 after each image.
    """
    model = checkpoint.model
    was_training = model.training
    model.eval()
    result = EvalResult((), MaskIoU(), MaskIoU())
    items: list[ItemScore] = []
    for index in range(min(len(store), limit if limit is not None else len(store))):
        record = store[index]
        regions = [region for region in record.regions if region.kind in kinds]
        image = load_image(store.image_path(record))
        answers = segment_image(model, checkpoint.processor, image, [region.queries[0] for region in regions], protocol)
        for region, answer in zip(regions, answers, strict=True):
            items.append(_score(record, region, answer, result))
        if progress is not None:
            progress(1)
    model.train(was_training)
    return EvalResult(tuple(items), result.refined, result.coarse)


def save_evaluation(result: EvalResult, folder: Path, about: Mapping[str, Any]) -> None:
    """Write `results.json` (the sums, with `about`: protocol, model, seed ...) and `items.jsonl` (a row a query)."""
    folder.mkdir(parents=True, exist_ok=True)
    save_text("".join(f"{json.dumps(row)}\n" for row in map(asdict, result.items)), folder / "items.jsonl")
    save_text(json.dumps({**result.summary(), **about}, indent=2) + "\n", folder / "results.json")


def _score(record: Record, region: Region, answer: Segmentation, totals: EvalResult) -> ItemScore:
    target = decode_rle(region.mask)
    ignore = None if region.ignore is None else decode_rle(region.ignore)
    refined, coarse = binarize(answer.refined), binarize(answer.coarse)
    overlap, coarse_overlap = measure_overlap(refined, target, ignore), measure_overlap(coarse, target, ignore)
    totals.refined.update(overlap, region.category)
    totals.coarse.update(coarse_overlap, region.category)
    return ItemScore(
        image=record.image,
        category=region.category,
        question=region.queries[0].text,
        answer=answer.answer,
        well_formed=answer.well_formed,
        iou=overlap.iou,
        coarse_iou=coarse_overlap.iou,
        mask=encode_rle(refined),
        coarse_mask=encode_rle(coarse),
    )
