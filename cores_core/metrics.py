"""gIoU, cIoU, cIoU by target size, and mIoU by category. The only home of these rules.

gIoU is the mean of per-item IoU; cIoU is summed intersection over summed union. Ignored pixels count nowhere; empty on
empty is IoU 1. Size bands are by target area over image area, as in the CoReS release: small below 0.028, large above
0.115, the edges medium, an empty target small.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from cores_core.sample import BoolMask

SMALL_BELOW, LARGE_ABOVE = 0.028, 0.115
BANDS = ("small", "medium", "large")


@dataclass(frozen=True)
class Overlap:
    """How one predicted mask meets its target, in pixels; `share` is target area over image area."""

    intersection: int
    union: int
    share: float

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
    return Overlap(int((predicted & target).sum()), int((predicted | target).sum()), share)


@dataclass
class MaskIoU:
    """Collects overlaps and sums them up; integer sums, so nothing is rounded."""

    ious: list[float] = field(default_factory=list)
    intersections: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BANDS, 0))
    unions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BANDS, 0))
    by_category: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def update(self, overlap: Overlap, category: str | None = None) -> None:
        """Add one query."""
        self.ious.append(overlap.iou)
        self.intersections[overlap.band] += overlap.intersection
        self.unions[overlap.band] += overlap.union
        if category is not None:
            self.by_category[category].append(overlap.iou)

    @property
    def count(self) -> int:
        """Queries so far."""
        return len(self.ious)

    @property
    def giou(self) -> float | None:
        """Mean IoU over queries; None where there are none."""
        return _mean(self.ious)

    @property
    def ciou(self) -> float | None:
        """Summed intersection over summed union; None where the union is empty."""
        return _ratio(sum(self.intersections.values()), sum(self.unions.values()))

    @property
    def ciou_by_band(self) -> Mapping[str, float | None]:
        """cIoU of small, medium and large targets."""
        return {band: _ratio(self.intersections[band], self.unions[band]) for band in BANDS}

    @property
    def iou_by_category(self) -> Mapping[str, float]:
        """Mean IoU of each category, by name."""
        return {name: sum(ious) / len(ious) for name, ious in sorted(self.by_category.items())}

    @property
    def miou(self) -> float | None:
        """Mean over categories of their mean IoU."""
        return _mean(list(self.iou_by_category.values()))


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _ratio(intersection: int, union: int) -> float | None:
    return intersection / union if union else None
