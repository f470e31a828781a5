"""Small plots as inline SVG: pure functions from numbers to strings. Values are shares, 0-1, and shown as percent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cores_core.evaluate.plot_parts import (
    ANSWER,
    COARSE,
    LINE,
    MUTED,
    Frame,
    grid_x,
    grid_y,
    label,
    row_label,
    svg,
    title_x,
    title_y,
)
from cores_core.evaluate.report_markup import Markup, join, tag
from cores_core.metrics import BANDS, LARGE_ABOVE, SMALL_BELOW
from cores_core.statistics import Interval

BINS = 20
MAX_POINTS = 3000
"""Of a scatter plot, to bound the page; medians are of all."""
MAX_CATEGORIES, ONE_COLUMN = 60, 15
"""How many categories have a bar at most, and how many of them stand in one column; more stand in two."""
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
    """A score and where it lies with 95 % confidence, if that is known."""

    label: str
    value: float
    interval: Interval | None


_FRAME = Frame(left=46, right=428, top=26, bottom=214)
_HEIGHT = 256


def plot_histogram(ious: Sequence[float], coarse_ious: Sequence[float] = ()) -> Markup:
    """How many questions have which IoU, in 20 bins: C2 as bars, C1 as a line of steps if there is one."""
    counts, coarse_counts = (np.histogram(values, BINS, (0, 1))[0].tolist() for values in (ious, coarse_ious))
    ticks = _count_ticks(max(*counts, *coarse_counts, 1))
    parts = [
        *(grid_y(_FRAME, tick / ticks[-1], str(tick)) for tick in ticks),
        *(label(_FRAME.x(i / 5), _FRAME.bottom + 16, f"{20 * i}") for i in range(6)),
        *(_histogram_bar(number, count, ticks[-1]) for number, count in enumerate(counts)),
        *([_steps(coarse_counts, ticks[-1])] if len(coarse_ious) else []),
        *([_mean_line(float(np.mean(ious)))] if len(ious) else []),
        title_x(_FRAME, "IoU (%)"),
        title_y("questions"),
    ]
    return svg(f"Histogram of IoU of {len(ious)} questions", _HEIGHT, parts)


def plot_sizes(shares: Sequence[float], ious: Sequence[float]) -> Markup:
    """IoU against the target's share of the image on a logarithmic axis, with medians; empty targets have no place.

    Args:
        shares, ious: of N questions.
    """
    rows = sorted((share, iou) for share, iou in zip(shares, ious, strict=True) if share > 0)
    least = min(-2, math.floor(math.log10(max(LEAST_SHARE, rows[0][0] if rows else 1))))
    known = np.array(rows, dtype=np.float64).reshape(-1, 2)
    known[:, 0] = np.maximum(0, 1 - np.log10(known[:, 0]) / least)  # its place on the axis
    limits = [1 - math.log10(limit) / least for limit in (SMALL_BELOW, LARGE_ABOVE)]
    chosen = np.linspace(0, len(known) - 1, min(len(known), MAX_POINTS)).round().astype(int)
    points = [tag("circle", cx=_FRAME.x(x), cy=_FRAME.y(iou), r=2.6) for x, iou in known[chosen].tolist()]
    powers = range(least, 1)
    parts = [
        *(grid_y(_FRAME, tick, f"{100 * tick:.0f}") for tick in (0, 0.25, 0.5, 0.75, 1)),
        *(label(_FRAME.x(1 - power / least), _FRAME.bottom + 16, f"{100 * 10.0**power:g}") for power in powers),
        *_bands(limits),
        tag("g", *points, fill=ANSWER, fill_opacity=0.32),
        *_median_line(known),
        title_x(_FRAME, "target's share of the image (%)"),
        title_y("IoU (%)"),
    ]
    return svg(f"IoU against the size of the target, {len(known)} questions", _HEIGHT, parts)


def plot_categories(bars: Sequence[Bar]) -> Markup:
    """A bar for each category, the highest first, in one or two plots; of more than 60 those with most questions."""
    most = sorted(bars, key=lambda bar: (-bar.count, bar.label))
    chosen = sorted(most[:MAX_CATEGORIES], key=lambda bar: (-bar.value, bar.label))
    size = len(chosen) if len(chosen) <= ONE_COLUMN else -(-len(chosen) // 2)
    plots = [_plot_bars(chosen[start : start + size]) for start in range(0, len(chosen), max(size, 1))]
    if len(most) == len(chosen):
        return join(plots)
    rest = [bar.value for bar in most[MAX_CATEGORIES:]]
    line = (
        f"Shown are the {MAX_CATEGORIES} categories with the most questions. The other {len(rest)} lie between "
        f"{100 * min(rest):.1f} and {100 * max(rest):.1f} %, {100 * sum(rest) / len(rest):.1f} % on average."
    )
    return join([*plots, tag("p", line, class_="note")])


def plot_intervals(rows: Sequence[Whisker]) -> Markup:
    """Scores as dots, and their intervals as whiskers, on one axis from 0 to 100 %."""
    step, frame = 26, Frame(left=112, right=388, top=8, bottom=8 + 26 * max(len(rows), 1))
    parts = [grid_x(frame, tick, f"{100 * tick:.0f}") for tick in (0, 0.25, 0.5, 0.75, 1)]
    for number, row in enumerate(rows):
        y, text = frame.top + step * (number + 0.5), f"{row.label}: {100 * row.value:.1f} %"
        marks = [tag("circle", cx=frame.x(row.value), cy=y, r=4.5, fill=ANSWER)]
        if row.interval is not None:
            low, high = frame.x(row.interval.low), frame.x(row.interval.high)
            line = f"M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 5}v10M{high:.1f} {y - 5}v10"
            marks.insert(0, tag("path", d=line, fill="none", stroke=ANSWER, stroke_width=1.75))
            text += f", 95 % interval {100 * row.interval.low:.1f} to {100 * row.interval.high:.1f} %"
        parts.append(tag("g", tag("title", text), *marks))
        parts.append(row_label(frame.left - 10, y + 4, row.label))
        parts.append(label(432, y + 4, f"{100 * row.value:.1f}", anchor="end", fill="currentColor"))
    return svg(f"{len(rows)} scores in percent with their 95 % intervals", frame.bottom + 24, parts)


def _histogram_bar(number: int, count: int, most: int) -> Markup:
    low, high = _FRAME.x(number / BINS), _FRAME.x((number + 1) / BINS)
    top = _FRAME.y(count / most)
    title = tag("title", f"IoU {100 * number // BINS} to {100 * (number + 1) // BINS} %: {count} questions")
    where = {"x": low + 0.75, "y": top, "width": high - low - 1.5, "height": _FRAME.bottom - top}
    return tag("rect", title, fill=ANSWER, **where)


def _steps(counts: Sequence[int], most: int) -> Markup:
    """The outline of a histogram."""
    steps = (f"V{_FRAME.y(count / most):.1f}H{_FRAME.x((i + 1) / BINS):.1f}" for i, count in enumerate(counts))
    line = f"M{_FRAME.left} {_FRAME.bottom}{''.join(steps)}V{_FRAME.bottom}"
    return tag("path", tag("title", "C1"), d=line, fill="none", stroke=COARSE, stroke_width=1.75)


def _mean_line(mean: float) -> Markup:
    x, anchor, room = (_FRAME.x(mean), "end", -6) if mean > 0.5 else (_FRAME.x(mean), "start", 6)
    line = f"M{x:.1f} {_FRAME.top - 12}V{_FRAME.bottom}"
    text = label(x + room, _FRAME.top - 8, f"mean {100 * mean:.1f}", anchor=anchor, fill="currentColor")
    return join([tag("path", d=line, stroke="currentColor", stroke_dasharray="4 3"), text])


def _plot_bars(bars: Sequence[Bar]) -> Markup:
    step, frame = 20, Frame(left=150, right=318, top=22, bottom=22 + 20 * len(bars))
    parts = [label(x, 13, name, anchor="end") for x, name in ((364, "IoU %"), (436, "questions"))]
    for number, bar in enumerate(bars):
        y = frame.top + step * number
        where = {"x": frame.left, "y": y + 4, "height": step - 8}
        text = f"{bar.label}: {100 * bar.value:.1f} % mean IoU of {bar.count} questions"
        parts += [
            tag("rect", width=frame.right - frame.left, fill=LINE, fill_opacity=0.6, **where),
            tag("rect", tag("title", text), width=frame.x(bar.value) - frame.left, fill=ANSWER, **where),
            row_label(frame.left - 8, y + 14, bar.label),
            label(364, y + 14, f"{100 * bar.value:.1f}", anchor="end", fill="currentColor"),
            label(436, y + 14, str(bar.count), anchor="end"),
        ]
    return svg(f"Mean IoU of {len(bars)} categories", frame.bottom + 4, parts)


def _median_line(known: NDArray[np.float64]) -> list[Markup]:
    """Through the median place and IoU of equally many questions each; `known`: (N, 2), in the order of places."""
    count = min(_MEDIANS, len(known) // _POINTS_IN_MEDIAN)
    if count < 2:
        return []
    medians = [np.median(group, axis=0).tolist() for group in np.array_split(known, count)]
    line = "M" + "L".join(f"{_FRAME.x(x):.1f} {_FRAME.y(iou):.1f}" for x, iou in medians)
    title = tag("title", "median IoU")
    look = {"fill": "none", "stroke": "currentColor", "stroke_linejoin": "round"}
    return [tag("path", title, d=line, stroke_width=2.25, **look)]


def _bands(limits: Sequence[float]) -> list[Markup]:
    """A line at each limit between size bands, and above their names."""
    lines = (f"M{_FRAME.x(place):.1f} {_FRAME.top}V{_FRAME.bottom}" for place in limits)
    edges = [0, *limits, 1]
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return [
        *(tag("path", d=line, stroke=MUTED, stroke_dasharray="3 3") for line in lines),
        *(label(_FRAME.x(middle), _FRAME.top - 8, band) for middle, band in zip(middles, BANDS, strict=True)),
    ]


def _count_ticks(most: int) -> list[int]:
    """Round numbers from 0 to at least `most`, at most six of them."""
    power = 10 ** max(0, math.floor(math.log10(most)) - 1)
    step = next(size * power for size in (1, 2, 5, 10, 20) if size * power * 5 >= most)
    return list(range(0, step * math.ceil(most / step) + 1, step))
