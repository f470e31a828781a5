"""Plots show their numbers as marks, tooltips and accessible names."""

import re
from xml.etree import ElementTree

import pytest

from cores_core.evaluate.plots import (
    BINS,
    MAX_CATEGORIES,
    MAX_POINTS,
    ONE_COLUMN,
    Bar,
    Whisker,
    plot_categories,
    plot_histogram,
    plot_intervals,
    plot_sizes,
)
from cores_core.metrics import LARGE_ABOVE, SMALL_BELOW
from cores_core.statistics import Interval

PLOTS = {
    "histogram": plot_histogram([0.1, 0.5, 1.0], [0.0, 0.2, 0.3]),
    "histogram of nothing": plot_histogram([]),
    "sizes": plot_sizes([0.001, 0.05, 0.9], [0.2, 0.4, 0.6]),
    "sizes of nothing": plot_sizes([0.0], [1.0]),
    "bars": plot_categories([Bar("Fish Tail", 0.5, 3)]),
    "intervals": plot_intervals([Whisker("gIoU", 0.5, Interval(0.4, 0.6)), Whisker("cIoU", 0.5, None)]),
}


def titles(plot: str) -> list[str]:
    return [title.text or "" for title in ElementTree.fromstring(plot).iter("title")]


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_well_formed_and_an_image_with_a_name(name: str) -> None:
    root = ElementTree.fromstring(PLOTS[name])
    assert (root.tag, root.get("role")) == ("svg", "img")
    assert root.get("aria-label")
    assert "nan" not in PLOTS[name]


@pytest.mark.parametrize("name", PLOTS)
def test_every_mark_lies_within_its_plot(name: str) -> None:
    root = ElementTree.fromstring(PLOTS[name])
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    for text in root.iter("text"):
        assert 0 <= float(text.get("x") or -1) <= width
        assert 0 <= float(text.get("y") or -1) <= height
    for rect in root.iter("rect"):
        assert float(rect.get("x") or -1) + float(rect.get("width") or -1) <= width
        assert float(rect.get("height") or -1) >= 0


def test_a_histogram_counts_the_edges_of_its_bins() -> None:
    found = titles(plot_histogram([0.0, 0.04, 0.05, 0.5, 1.0]))
    assert len(found) == BINS
    assert found[0] == "IoU 0 to 5 %: 2 questions"
    assert found[1] == "IoU 5 to 10 %: 1 questions"
    assert found[10] == "IoU 50 to 55 %: 1 questions"
    assert found[19] == "IoU 95 to 100 %: 1 questions"


def test_the_highest_bar_reaches_no_higher_than_the_last_tick() -> None:
    for count in (1, 4, 5, 7, 99, 100, 101, 12345):
        root = ElementTree.fromstring(plot_histogram([0.5] * count))
        tallest = min(root.iter("rect"), key=lambda rect: float(rect.get("y") or 0))
        ticks = [
            int(text.text or "")
            for text in root.iter("text")
            if text.get("text-anchor") == "end" and text.text and text.text.isdigit()
        ]
        lines = sorted(float(m) for m in re.findall(r"M46 ([\d.]+)H", ElementTree.tostring(root, "unicode")))
        assert 2 <= len(ticks) <= 6 and ticks[-1] >= count
        assert float(tallest.get("y") or 0) >= lines[0]


def test_the_first_step_is_a_line_only_where_there_is_one() -> None:
    assert "C1" in titles(plot_histogram([0.5], [0.2]))
    assert "C1" not in titles(plot_histogram([0.5]))


def test_sizes_mark_the_limits_of_the_bands_between_their_names() -> None:
    root = ElementTree.fromstring(plot_sizes([0.001, SMALL_BELOW, LARGE_ABOVE, 1.0], [0.1, 0.2, 0.3, 0.4]))
    points = [float(circle.get("cx") or 0) for circle in root.iter("circle")]
    limits = [
        float((path.get("d") or "")[1:].split(" ")[0]) for path in root.iter("path") if path.get("stroke-dasharray")
    ]
    assert limits == pytest.approx(points[1:3], abs=0.06)
    names = {text.text: float(text.get("x") or 0) for text in root.iter("text")}
    assert names["small"] < limits[0] < names["medium"] < limits[1] < names["large"]


def test_sizes_of_empty_targets_have_no_point() -> None:
    assert plot_sizes([0.0, 0.1, 0.0], [1.0, 0.5, 0.0]).count("<circle") == 1


def test_a_median_needs_enough_questions() -> None:
    few, enough = [0.01 * n for n in range(1, 10)], [0.01 * n for n in range(1, 41)]
    assert "median IoU" not in titles(plot_sizes(few, few))
    assert "median IoU" in titles(plot_sizes(enough, enough))


def test_points_are_bounded() -> None:
    count = 2 * MAX_POINTS
    assert plot_sizes([0.1] * count, [0.5] * count).count("<circle") == MAX_POINTS


def test_bars_are_sorted_and_say_value_and_count() -> None:
    found = titles(plot_categories([Bar("Fish Fin", 0.25, 4), Bar("Fish Tail", 0.755, 3)]))
    assert found == ["Fish Tail: 75.5 % mean IoU of 3 questions", "Fish Fin: 25.0 % mean IoU of 4 questions"]


def test_many_categories_stand_in_two_columns_and_the_rest_in_a_line() -> None:
    assert plot_categories([Bar(f"{n}", 0.5, 1) for n in range(ONE_COLUMN)]).count("<svg") == 1
    bars = [Bar(f"common {n}", n / 100, 9) for n in range(MAX_CATEGORIES)] + [Bar("rare", 0.2, 1), Bar("rarer", 0.4, 1)]
    plot = plot_categories(bars)
    assert plot.count("<svg") == 2
    assert plot.count("% mean IoU of") == MAX_CATEGORIES
    assert "The other 2 lie between 20.0 and 40.0 %, 30.0 % on average." in plot
    assert "rare" not in plot


def test_no_category_is_no_plot() -> None:
    assert plot_categories([]) == ""


def test_a_long_name_is_cut_but_its_tooltip_is_whole() -> None:
    name = "the left rear wheel of the vehicle"
    plot = plot_categories([Bar(name, 0.5, 1)])
    shown = [text.text for text in ElementTree.fromstring(plot).iter("text")]
    assert name not in shown and "the left rear wheel…"[:10] in "".join(map(str, shown))
    assert titles(plot)[0].startswith(name)


def test_names_are_escaped() -> None:
    plot = plot_categories([Bar("<b>&\"'", 0.5, 1)])
    assert "<b>" not in plot
    assert titles(plot)[0].startswith("<b>&\"'")


def test_whiskers_say_their_interval_and_are_left_out_without_one() -> None:
    found = titles(PLOTS["intervals"])
    assert found == ["gIoU: 50.0 %, 95 % interval 40.0 to 60.0 %", "cIoU: 50.0 %"]
    assert plot_intervals([Whisker("cIoU", 0.5, None)]).count("<circle") == 1
