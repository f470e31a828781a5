"""Scores of items with confidence intervals, and scores by category."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from cores_core.evaluate.instances import score_instances
from cores_core.evaluate.items import Item
from cores_core.metrics import PRECISION_AT, category_ratio, overlap_ratios
from cores_core.statistics import Interval, Ratio, bootstrap, interval_of, mean_of

SCORE_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "giou": "gIoU",
        "ciou": "cIoU",
        "ciou_small": "cIoU small",
        "ciou_medium": "cIoU medium",
        "ciou_large": "cIoU large",
        "miou": "mIoU",
        **{f"precision_{bound}": f"Pr@{bound}" for bound in PRECISION_AT},
        "ap_50": "AP50",
        "ap": "AP50:95",
        "n_acc": "N-acc",
        "t_acc": "T-acc",
        "giou_short": "gIoU short",
        "ciou_short": "cIoU short",
        "giou_long": "gIoU long",
        "ciou_long": "cIoU long",
        "coarse_giou": "C1 gIoU",
        "coarse_ciou": "C1 cIoU",
        "well_formed": "well-formed answers",
    }
)
"""Display names of all scores."""


@dataclass(frozen=True)
class CategoryScore:
    """gIoU, cIoU and number of items of one category."""

    giou: float | None
    ciou: float | None
    count: int


@dataclass(frozen=True)
class Scores:
    """The scores of a set of items.

    Attributes:
        count: number of items. images: number of distinct images.
        values: scores by name (see `score_ratios` and `score_instances`), 0-1; None if there are no items to score.
        intervals: 95 % interval of each score but AP, from the bootstrap over images; empty if it was not computed.
        categories: scores by category.
    """

    count: int
    images: int
    values: Mapping[str, float | None]
    intervals: Mapping[str, Interval | None]
    categories: Mapping[str, CategoryScore]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def score_items(items: Sequence[Item], draws: int = 2000, seed: int = 0) -> Scores:
    """Compute all scores of items.

    Args:
        draws: number of bootstrap resamples; 0 for no intervals. seed: of the bootstrap.
    """
    ratios, images = score_ratios(items), len({item.image for item in items})
    samples = bootstrap(ratios, [item.image for item in items], draws, seed) if draws else {}
    return Scores(
        count=len(items),
        images=images,
        values={name: ratio.value for name, ratio in ratios.items()} | dict(score_instances(items)),
        intervals={name: interval_of(values, images) for name, values in samples.items()},
        categories=_score_categories(items),
    )


def score_ratios(items: Sequence[Item]) -> Mapping[str, Ratio]:
    """All scores of items as ratios of sums.

    giou, ciou, ciou_small|medium|large, precision_0.5 ... 0.9, n_acc, t_acc, miou over categories; giou and ciou of
    phrases (`_short`) and of sentences (`_long`); coarse_giou and coarse_ciou of C1; and well_formed, the fraction of
    well-formed answers.
    """
    overlaps = [item.overlap for item in items]
    ratios = dict(overlap_ratios(overlaps))
    named = [index for index, item in enumerate(items) if item.category]
    miou = category_ratio([overlaps[i] for i in named], [items[i].category for i in named])
    ratios["miou"] = _spread(miou, named, len(items))
    is_long = np.array([item.is_sentence for item in items], dtype=bool)
    for name, chosen in (("short", ~is_long), ("long", is_long)):
        for score in ("giou", "ciou"):
            ratios[f"{score}_{name}"] = Ratio(ratios[score].over * chosen, ratios[score].under * chosen)
    coarse = [index for index, item in enumerate(items) if item.coarse_overlap is not None]
    of_coarse = overlap_ratios([o for item in items if (o := item.coarse_overlap) is not None])
    for score in ("giou", "ciou"):
        ratios[f"coarse_{score}"] = _spread(of_coarse[score], coarse, len(items))
    ratios["well_formed"] = mean_of([float(item.well_formed) for item in items])
    return ratios


def _spread(ratio: Ratio, columns: list[int], count: int) -> Ratio:
    """Expand a ratio over a subset of items, at index `columns`, to (R, count) columns; other items are excluded."""
    over, under = (np.zeros((len(part), count)) for part in (ratio.over, ratio.under))
    over[:, columns], under[:, columns] = ratio.over, ratio.under
    return Ratio(over, under)


def _score_categories(items: Sequence[Item]) -> Mapping[str, CategoryScore]:
    by_category: dict[str, list[Item]] = {}
    for item in items:
        if item.category:
            by_category.setdefault(item.category, []).append(item)
    found = {}
    for name, members in sorted(by_category.items()):
        ratios = overlap_ratios([item.overlap for item in members])
        found[name] = CategoryScore(ratios["giou"].value, ratios["ciou"].value, len(members))
    return found
