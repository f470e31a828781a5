"""gIoU, cIoU, cIoU by target size, mIoU by category, precision, N-acc and T-acc. The only home of these rules.

gIoU is the mean of per-item IoU; cIoU is summed intersection over summed union. Ignored pixels count nowhere; empty on
empty is IoU 1. Size bands are by target area over image area, as in the CoReS release: small below 0.028, large above
0.115, the edges medium, an empty target small. Pr@X is the share of items with an IoU above X; N-acc the share of items
without a target whose prediction is empty, T-acc of those with one whose prediction is not (GRES, arXiv:2306.00968).
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
    """How one predicted mask meets its target, in pixels that count; `share` is target area over image area."""

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
        """Intersection over union; 1 where both are empty."""
        return self.intersection / self.union if self.union else 1.0

    @property
    def band(self) -> str:
        """The size band of the target."""
        if self.share < SMALL_BELOW:
            return "small"
        return "large" if self.share > LARGE_ABOVE else "medium"


def measure_overlap(predicted: BoolMask, target: BoolMask, ignore: BoolMask | None = None) -> Overlap:
    """Compare two masks. All (H, W); `ignore` marks pixels that count nowhere."""
    share = float(target.mean()) if target.size else 0.0
    if ignore is not None:
        predicted, target = predicted & ~ignore, target & ~ignore
    return Overlap(int((predicted & target).sum()), int(predicted.sum()), int(target.sum()), share)


def overlap_ratios(overlaps: Sequence[Overlap]) -> Mapping[str, Ratio]:
    """All scores of N items that need nothing but their overlaps, by name; integer sums are exact up to 2**53."""
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
    """mIoU: the mean over categories of the mean IoU of their items."""
    names = sorted(set(categories))
    belongs = (np.asarray(names, dtype=str)[:, None] == np.asarray(categories, dtype=str)[None]).astype(np.float64)
    ious = np.array([overlap.iou for overlap in overlaps], dtype=np.float64)
    return Ratio(belongs * ious, belongs)


@dataclass
class MaskIoU:
    """Collects overlaps and sums them up."""

    overlaps: list[Overlap] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)

    def update(self, predicted: BoolMask, target: BoolMask, ignore: BoolMask | None = None) -> None:
        """Add one query. All (H, W); `ignore` marks pixels that count nowhere."""
        self.add(measure_overlap(predicted, target, ignore))

    def add(self, overlap: Overlap, category: str = "") -> None:
        """Add one query that is measured already."""
        self.overlaps.append(overlap)
        self.categories.append(category)

    @property
    def count(self) -> int:
        """Queries so far."""
        return len(self.overlaps)

    @property
    def giou(self) -> float | None:
        """Mean IoU over queries; None where there are none."""
        return overlap_ratios(self.overlaps)["giou"].value

    @property
    def ciou(self) -> float | None:
        """Summed intersection over summed union; None where the union is empty."""
        return overlap_ratios(self.overlaps)["ciou"].value

    @property
    def ciou_by_band(self) -> Mapping[str, float | None]:
        """cIoU of small, medium and large targets."""
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
        """Mean over categories of their mean IoU; None where there are none."""
        return category_ratio(self.overlaps, self.categories).value
