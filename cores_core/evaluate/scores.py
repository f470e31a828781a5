"""From items to scores, each with its interval: all of them, by part of the benchmark, and by category."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

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
"""All scores by the names that people know."""


@dataclass(frozen=True)
class CategoryScore:
    """gIoU and cIoU of one category, and how many items it has."""

    giou: float | None
    ciou: float | None
    count: int


@dataclass(frozen=True)
class Scores:
    """The scores of a set of items.

    Attributes:
        count: items. images: different images.
        values: score by name (see `score_ratios`), 0-1; None where there is nothing to score.
        intervals: the 95 % interval of each, by the bootstrap over images; empty if it was not asked for.
        categories: by name.
    """

    count: int
    images: int
    values: Mapping[str, float | None]
    intervals: Mapping[str, Interval | None]
    categories: Mapping[str, CategoryScore]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def score_items(items: Sequence[Item], draws: int = 2000, seed: int = 0) -> Scores:
    """Score items.

    Args:
        draws: samples of the bootstrap; 0 for no intervals. seed: of these samples.
    """
    ratios, images = score_ratios(items), len({item.image for item in items})
    samples = bootstrap(ratios, [item.image for item in items], draws, seed) if draws else {}
    return Scores(
        count=len(items),
        images=images,
        values={name: ratio.value for name, ratio in ratios.items()},
        intervals={name: interval_of(values, images) for name, values in samples.items()},
        categories=_score_categories(items),
    )


def score_ratios(items: Sequence[Item]) -> Mapping[str, Ratio]:
    """Every score of items as a quotient of sums.

    giou, ciou, ciou_small|medium|large, precision_0.5 ... 0.9, n_acc, t_acc, miou over categories; giou and ciou of
    phrases (`_short`) and of sentences (`_long`); coarse_giou and coarse_ciou of C1; and well_formed, the share of
    answers whose text chain is whole.
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
    """The same ratio with a column for every item; those that it does not speak of count nothing."""
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
