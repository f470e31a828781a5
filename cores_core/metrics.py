"""Definitions of all scores: gIoU, cIoU, cIoU by target size, mIoU by category, precision, N-acc and T-acc.

gIoU is the mean IoU of items; cIoU is total intersection over total union. Ignored pixels are excluded. If prediction
and target are both empty, IoU is 1. Size bands are fractions of the image area, as in the CoReS release: small < 0.028,
large > 0.115, otherwise medium; an empty target is small. Pr@X is the fraction of items with IoU > X; N-acc that of
items without a target whose prediction is empty, T-acc that of items with a target whose prediction is not empty (GRES,
arXiv:2306.00968).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cores_core.sample import BoolMask
from cores_core.statistics import Ratio, mean_of

SMALL_BELOW, LARGE_ABOVE = 0.028, 0.115
BANDS = ("small", "medium", "large")
PRECISION_AT = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Overlap:
    """Pixel counts of a predicted mask and its target without ignored pixels; `share` is target area / image area."""

    intersection: int
    predicted: int
    target: int
    share: float

    @property
    def union(self) -> int:
        """Pixels in either mask."""
        return self.predicted + self.target - self.intersection

    @property
    def iou(self) -> float:
        """Intersection over union; 1 if both are empty."""
        return self.intersection / self.union if self.union else 1.0

    @property
    def band(self) -> str:
        """Size band of the target, one of `BANDS`."""
        if self.share < SMALL_BELOW:
            return "small"
        return "large" if self.share > LARGE_ABOVE else "medium"


def measure_overlap(predicted: BoolMask, target: BoolMask, ignore: BoolMask | None = None) -> Overlap:
    """Compare two masks, all (H, W) bool; pixels in `ignore` are excluded."""
    share = float(target.mean()) if target.size else 0.0
    if ignore is not None:
        predicted, target = predicted & ~ignore, target & ~ignore
    return Overlap(int((predicted & target).sum()), int(predicted.sum()), int(target.sum()), share)


def overlap_ratios(overlaps: Sequence[Overlap]) -> Mapping[str, Ratio]:
    """All scores of N items that depend on their overlaps only, by name. Integer sums are exact up to 2**53."""
    ious = np.array([overlap.iou for overlap in overlaps], dtype=np.float64)
    sums = np.array([(o.intersection, o.union) for o in overlaps], dtype=np.float64).reshape(-1, 2).T
    bands = np.array([overlap.band for overlap in overlaps], dtype=str)
    targeted = np.array([overlap.target > 0 for overlap in overlaps], dtype=bool)
    predicted = np.array([overlap.predicted > 0 for overlap in overlaps], dtype=bool)
    ratios = {"giou": mean_of(ious), "ciou": Ratio(sums[:1], sums[1:])}
    for band in BANDS:
        ratios[f"ciou_{band}"] = Ratio(sums[:1] * (bands == band), sums[1:] * (bands == band))
    for bound in PRECISION_AT:
        ratios[f"precision_{bound}"] = mean_of((ious > bound).astype(np.float64))
    ratios["n_acc"] = mean_of((~predicted).astype(np.float64), counted=~targeted)
    ratios["t_acc"] = mean_of(predicted.astype(np.float64), counted=targeted)
    return ratios


def category_ratio(overlaps: Sequence[Overlap], categories: Sequence[str]) -> Ratio:
    """mIoU: mean over categories of the mean IoU of their items."""
    names = sorted(set(categories))
    belongs = (np.asarray(names, dtype=str)[:, None] == np.asarray(categories, dtype=str)[None]).astype(np.float64)
    ious = np.array([overlap.iou for overlap in overlaps], dtype=np.float64)
    return Ratio(belongs * ious, belongs)


@dataclass
class MaskIoU:
    """Accumulates the overlaps of items and computes their scores."""

    overlaps: list[Overlap] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)

    def update(self, predicted: BoolMask, target: BoolMask, ignore: BoolMask | None = None) -> None:
        """Add one item, all masks (H, W) bool; pixels in `ignore` are excluded."""
        self.add(measure_overlap(predicted, target, ignore))

    def add(self, overlap: Overlap, category: str = "") -> None:
        """Add one item by its measured overlap."""
        self.overlaps.append(overlap)
        self.categories.append(category)

    @property
    def count(self) -> int:
        """Number of items."""
        return len(self.overlaps)

    @property
    def giou(self) -> float | None:
        """Mean IoU over items; None if there are none."""
        return overlap_ratios(self.overlaps)["giou"].value

    @property
    def ciou(self) -> float | None:
        """Total intersection over total union; None if the union is empty."""
        return overlap_ratios(self.overlaps)["ciou"].value

    @property
    def ciou_by_band(self) -> Mapping[str, float | None]:
        """cIoU of small, medium and large targets; None for bands without items."""
        ratios = overlap_ratios(self.overlaps)
        return {band: ratios[f"ciou_{band}"].value for band in BANDS}

    @property
    def iou_by_category(self) -> Mapping[str, float]:
        """Mean IoU of each category, by name."""
        found: dict[str, list[float]] = {}
        for overlap, category in zip(self.overlaps, self.categories, strict=True):
            found.setdefault(category, []).append(overlap.iou)
        return {name: sum(ious) / len(ious) for name, ious in sorted(found.items())}

    @property
    def miou(self) -> float | None:
        """Mean over categories of their mean IoU; None if there are no items."""
        return category_ratio(self.overlaps, self.categories).value
