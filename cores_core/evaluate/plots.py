"""Data of the report's plots; `templates/plots.html` draws them as inline SVG. Values are shares, 0-1.

Measured against matplotlib's SVG backend, which can look the same: its colours, ids and tooltips must be rewritten
afterwards, in all as many lines, for 75 MB of packages, a second more per report and three times the bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from cores_core.evaluate.report_templates import ENVIRONMENT
from cores_core.metrics import BANDS, LARGE_ABOVE, SMALL_BELOW
from cores_core.statistics import Interval

BINS = 20
MAX_POINTS = 3000
"""Largest number of points in a scatter plot, to bound the page; medians are computed from all questions."""
MAX_CATEGORIES, ONE_COLUMN = 60, 15
"""Largest number of categories with a bar, and of those in one column; more stand in two columns."""
LEAST_SHARE = 1e-5
_POINTS_IN_MEDIAN, _MEDIANS = 8, 12


@dataclass(frozen=True)
class Bar:
    """A category: its name, mean IoU and number of questions."""

    label: str
    value: float
    count: int


@dataclass(frozen=True)
class Whisker:
    """A score and its 95 % interval, None where there is none."""

    label: str
    value: float
    interval: Interval | None


@dataclass(frozen=True)
class _Frame:
    """Position of the axes, in units from the top left corner; places on them are 0-1, rightwards and upwards."""

    left: float
    right: float
    top: float
    bottom: float

    def x(self, place: float) -> float:
        return self.left + place * (self.right - self.left)

    def y(self, place: float) -> float:
        return self.bottom - place * (self.bottom - self.top)


_FRAME = _Frame(left=46, right=428, top=26, bottom=214)


def plot_histogram(ious: Sequence[float], coarse_ious: Sequence[float] = ()) -> Markup:
    """Number of questions by IoU, in 20 bins: C2 as bars, C1 as a stepped line if there is one."""
    counts, coarse_counts = (np.histogram(values, BINS, (0, 1))[0].tolist() for values in (ious, coarse_ious))
    return _draw(
        "histogram",
        frame=_FRAME,
        counts=counts,
        coarse_counts=coarse_counts if len(coarse_ious) else [],
        ticks=_count_ticks(max(*counts, *coarse_counts, 1)),
        mean=float(np.mean(ious)) if len(ious) else None,
    )


def plot_sizes(shares: Sequence[float], ious: Sequence[float]) -> Markup:
    """IoU against the target's share of the image on a logarithmic axis, with medians, without empty targets.

    Args:
        shares, ious: of N questions.
    """
    rows = sorted((share, iou) for share, iou in zip(shares, ious, strict=True) if share > 0)
    least = min(-2, math.floor(math.log10(max(LEAST_SHARE, rows[0][0] if rows else 1))))
    known = np.array(rows, dtype=np.float64).reshape(-1, 2)
    known[:, 0] = np.maximum(0, 1 - np.log10(known[:, 0]) / least)  # its place on the axis
    chosen = np.linspace(0, len(known) - 1, min(len(known), MAX_POINTS)).round().astype(int)
    return _draw(
        "sizes",
        frame=_FRAME,
        points=known[chosen].tolist(),
        medians=_medians(known),
        ticks=[(1 - power / least, f"{100 * 10.0**power:g}") for power in range(least, 1)],
        limits=[1 - math.log10(limit) / least for limit in (SMALL_BELOW, LARGE_ABOVE)],
        bands=BANDS,
        count=len(known),
    )


def plot_categories(bars: Sequence[Bar]) -> Markup:
    """A bar for each category, the highest first, in one or two plots; of more than 60 those with most questions."""
    most = sorted(bars, key=lambda bar: (-bar.count, bar.label))
    chosen = sorted(most[:MAX_CATEGORIES], key=lambda bar: (-bar.value, bar.label))
    size = max(len(chosen) if len(chosen) <= ONE_COLUMN else -(-len(chosen) // 2), 1)
    columns = [chosen[start : start + size] for start in range(0, len(chosen), size)]
    return _draw("categories", columns=columns, rest=[bar.value for bar in most[MAX_CATEGORIES:]])


def plot_intervals(rows: Sequence[Whisker]) -> Markup:
    """Scores as dots with their intervals as whiskers, on one axis from 0 to 100 %."""
    return _draw("intervals", rows=rows)


def _draw(macro: str, **values: Any) -> Markup:
    module = ENVIRONMENT.get_template("plots.html").module
    return Markup(getattr(module, macro)(**values))


def _medians(known: NDArray[np.float64]) -> list[list[float]]:
    """Median place and IoU of equally large groups of neighbours; `known`: (N, 2), sorted by place."""
    count = min(_MEDIANS, len(known) // _POINTS_IN_MEDIAN)
    return [np.median(group, axis=0).tolist() for group in np.array_split(known, count)] if count > 1 else []


def _count_ticks(most: int) -> list[int]:
    """Round numbers from 0 to at least `most`, at most six of them."""
    power = 10 ** max(0, math.floor(math.log10(most)) - 1)
    step = next(size * power for size in (1, 2, 5, 10, 20) if size * power * 5 >= most)
    return list(range(0, step * math.ceil(most / step) + 1, step))
