"""How well a confidence predicts the IoU of an answer's mask: bins, and the expected calibration error.

Source of the error: Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599), with IoU in place of
accuracy, as for SAM's predicted IoU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from cores_core.evaluate.items import Item

Floats = NDArray[np.float64]
BINS = 10
CONFIDENCE_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "score": "mean probability of the mask",
        "answer_probability": "probability of the answer",
        "predicted_iou": "IoU predicted by SAM",
    }
)
"""Display names of the confidences in `Item.confidence`."""


@dataclass(frozen=True)
class CalibrationBin:
    """Items whose confidence is in [low, high), the last bin with its upper bound: means of confidence and IoU."""

    low: float
    high: float
    count: int
    confidence: float
    iou: float


@dataclass(frozen=True)
class Calibration:
    """One confidence against IoU.

    Attributes:
        name: key in `Item.confidence`.
        bins: those that have items, from low to high.
        error: expected calibration error, 0-1: mean over items of |mean confidence - mean IoU| of their bin.
        correlation: Spearman's rank correlation with IoU, -1 to 1; None if one of them is constant.
    """

    name: str
    bins: tuple[CalibrationBin, ...]
    error: float
    correlation: float | None


def calibrate(items: Sequence[Item]) -> tuple[Calibration, ...]:
    """Calibration of each confidence that items have; items without it are left out."""
    names = dict.fromkeys(name for item in items for name in item.confidence)
    return tuple(_calibrate(name, [item for item in items if name in item.confidence]) for name in names)


def _calibrate(name: str, items: Sequence[Item]) -> Calibration:
    confidences = np.array([item.confidence[name] for item in items])
    ious = np.array([item.overlap.iou for item in items])
    chosen = np.minimum((confidences * BINS).astype(int), BINS - 1)
    bins = tuple(
        CalibrationBin(
            low=number / BINS,
            high=(number + 1) / BINS,
            count=int((chosen == number).sum()),
            confidence=float(confidences[chosen == number].mean()),
            iou=float(ious[chosen == number].mean()),
        )
        for number in np.unique(chosen).tolist()
    )
    error = sum(one.count * abs(one.confidence - one.iou) for one in bins) / len(items)
    return Calibration(name, bins, error, _rank_correlation(confidences, ious))


def _rank_correlation(first: Floats, second: Floats) -> float | None:
    if any(len(np.unique(values)) < 2 for values in (first, second)):
        return None
    return float(np.corrcoef(_rank(first), _rank(second))[0, 1])


def _rank(values: Floats) -> Floats:
    """Ranks of values; equal values have their mean rank."""
    ordered = np.sort(values)
    below, upto = np.searchsorted(ordered, values), np.searchsorted(ordered, values, side="right")
    return (below + upto - 1) / 2
