"""The tables of `cores eval`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cores_cli import console

if TYPE_CHECKING:
    from cores_core.evaluate.compare import Comparison, Difference
    from cores_core.evaluate.results import Evaluation
    from cores_core.evaluate.scores import Scores

ALWAYS = ("ap_50", "ap", "coarse_giou", "coarse_ciou", "well_formed")
"""Shown with every benchmark."""
REJECTION = ("n_acc", "t_acc")
"""Shown where some questions are about something that is not in the image."""


def show_evaluation(evaluation: "Evaluation") -> None:
    """Categories, parts and scores of an evaluation, and its warnings."""
    from cores_core.evaluate.benchmarks import BENCHMARKS

    about, scores = evaluation.about, evaluation.scores
    rejection = REJECTION if about.get("no_target") else ()
    names = list(dict.fromkeys([*BENCHMARKS[about["benchmark"]].scores, *rejection, *ALWAYS]))
    if scores.categories:
        rows = [
            (name, console.percent(entry.giou), console.percent(entry.ciou), str(entry.count))
            for name, entry in scores.categories.items()
        ]
        console.show_table(about["title"], ("category", "gIoU %", "cIoU %", "queries"), rows)
    for part, of_part in evaluation.parts.items():
        _show_scores(f"{about['title']}, {part}: {of_part.count} queries", of_part, names)
    where = ", ".join(about["data"])
    caption = f"{about['title']} ({where}): {scores.count} queries of {scores.images} images"
    _show_scores(f"{caption}, protocol {about['protocol']}, model {about['model']}", scores, names)
    for warning in about["warnings"]:
        console.say(f"warning: {warning}", style="yellow")


def show_comparison(comparison: "Comparison") -> None:
    """Scores side by side, and their differences from the first."""
    from cores_core.evaluate.scores import SCORE_NAMES

    first, *others = comparison.names
    rows = []
    for score, values in comparison.values.items():
        if values[first] is None:
            continue
        cells = [SCORE_NAMES[score], console.percent(values[first])]
        for name in others:
            found = comparison.differences[score][name]
            cells += [console.percent(values[name]), "-" if found is None else _difference_text(found)]
        rows.append(cells)
    heads = ["score %", first, *(head for name in others for head in (name, f"{name} - {first} (95 %)"))]
    console.show_table(f"{comparison.count} queries of {comparison.images} images", heads, rows)
    for warning in comparison.warnings:
        console.say(f"warning: {warning}", style="yellow")


def _difference_text(difference: "Difference") -> str:
    text = f"{100 * difference.value:+.1f}"
    if difference.interval is None:
        return text
    return f"{text} ({100 * difference.interval.low:+.1f} to {100 * difference.interval.high:+.1f})"


def _show_scores(title: str, scores: "Scores", names: Sequence[str]) -> None:
    from cores_core.evaluate.scores import SCORE_NAMES

    rows = []
    for name in names:
        value, interval = scores.values[name], scores.intervals.get(name)
        if value is not None:
            between = "-" if interval is None else f"{100 * interval.low:.1f} - {100 * interval.high:.1f}"
            rows.append((SCORE_NAMES[name], console.percent(value), between))
    console.show_table(title, ("score", "%", "95 % interval"), rows)
