"""Score masks of any system as a library: no model, and no import of torch.

    from cores_core.evaluate.score import score_file, score_masks

    scores = score_masks(predicted, targets)                                   # lists of (H, W) bool arrays
    scores = score_file("rows.jsonl", "muse", data_root="data", split="val")   # rows as in docs/format.md
    scores.values["giou"], scores.intervals["giou"]

The scores are those of `cores eval score`, by the rules of `metrics.py`: gIoU is the mean IoU, cIoU the total
intersection over the total union, and an empty mask for an empty target has IoU 1. A task of lmms-eval or VLMEvalKit
calls `score_masks` in its aggregation.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cores_core.data.store import Store
from cores_core.errors import DataError
from cores_core.evaluate.benchmarks import BENCHMARKS
from cores_core.evaluate.foreign import ForeignReport, score_predictions
from cores_core.evaluate.items import Item
from cores_core.evaluate.scores import Scores, score_items
from cores_core.evaluate.targets import Target, list_targets
from cores_core.masks import encode_rle
from cores_core.metrics import measure_overlap
from cores_core.sample import BoolMask


def score_masks(
    predicted: Sequence[BoolMask],
    targets: Sequence[BoolMask],
    ignores: Sequence[BoolMask | None] | None = None,
    images: Sequence[str] | None = None,
    draws: int = 2000,
) -> Scores:
    """Score one mask per query.

    Args:
        predicted: (H, W) bool each, of the size of its target; values other than bool are compared with 0.
        targets: (H, W) bool each.
        ignores: pixels that are excluded, None for none.
        images: image of each query, for intervals; by default every query has its own.
        draws: number of bootstrap resamples of images; 0 for no intervals.

    Returns:
        Scores by name: `values`, 0-1, and `intervals`, 95 %.

    Raises:
        DataError: the lists have different lengths, or a mask has another size than its target.
    """
    masks = ignores if ignores is not None else [None] * len(targets)
    names = images if images is not None else [str(number) for number in range(len(targets))]
    counts = [len(part) for part in (predicted, targets, masks, names)]
    if len(set(counts)) > 1:
        raise DataError(f"lists of different lengths: {', '.join(map(str, counts))}", hint="give one entry per query")
    rows = zip(predicted, targets, masks, names, strict=True)
    return score_items([_as_item(number, *row) for number, row in enumerate(rows)], draws)


def score_file(
    predictions: str | Path,
    benchmark: str,
    data_root: str | Path = "data",
    data: str | None = None,
    split: str | None = None,
) -> tuple[Scores, ForeignReport]:
    """Score a file of predictions on a prepared benchmark, as `cores eval score` does.

    Args:
        predictions: JSONL rows of `docs/format.md`, or a COCO JSON.
        benchmark: a name in `BENCHMARKS`.
        data_root: folder of all data sets.
        data: data set; default: the benchmark's first.
        split: default: the data set's first.

    Returns:
        Scores, and a report on missing and skipped rows.

    Raises:
        DataError: no such benchmark, its data are not prepared, or the file has no valid row.
    """
    targets = list_benchmark(benchmark, Path(data_root), data, split)
    items, report = score_predictions(targets, Path(predictions))
    return score_items(items), report


def list_benchmark(benchmark: str, data_root: Path, data: str | None, split: str | None) -> list[Target]:
    """All queries of a benchmark's data set and split, in order.

    Raises:
        DataError: no such benchmark, or its data are not prepared.
    """
    if benchmark not in BENCHMARKS:
        raise DataError(f"no such benchmark: {benchmark}", hint=f"one of {', '.join(BENCHMARKS)}")
    plan = BENCHMARKS[benchmark]
    name = data or next(iter(plan.data), None)
    if name is None:
        raise DataError(f"{benchmark} needs a data set", hint="give `data`, such as custom/<name>")
    store = Store(data_root, name, split or next(iter(plan.data.get(name, ("val",)))))
    return [target for index in range(len(store)) for target in list_targets(store, index, plan)]


def _as_item(number: int, predicted: BoolMask, target: BoolMask, ignore: BoolMask | None, image: str) -> Item:
    found, truth = np.asarray(predicted) != 0, np.asarray(target) != 0
    if found.shape != truth.shape or found.ndim != 2:
        raise DataError(f"mask {number} is of size {found.shape}, its target {truth.shape}")
    blank = encode_rle(np.zeros((0, 0), dtype=bool))
    overlap = measure_overlap(found, truth, None if ignore is None else np.asarray(ignore) != 0)
    return Item(str(number), image, "", "", True, "", True, overlap, None, blank, None, blank, None, 0.0)
