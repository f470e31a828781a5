"""The numbers of a report: scores with their intervals, by part, by kind of question, and of both masks of a chain."""

from collections.abc import Mapping, Sequence

from cores_core.evaluate.benchmarks import BENCHMARKS
from cores_core.evaluate.items import Item
from cores_core.evaluate.plots import Whisker, plot_intervals
from cores_core.evaluate.report_markup import Markup, join, table, tag
from cores_core.evaluate.scores import SCORE_NAMES, Scores
from cores_core.metrics import LARGE_ABOVE, SMALL_BELOW

_APART = ("short", "long", "coarse", "formed")
"""Parts of the names of scores that have blocks of their own: of phrases, of sentences, of C1, of answers."""
_TOGETHER = tuple(name for name in SCORE_NAMES if not set(_APART) & set(name.split("_")))
_MEANINGS = {
    "gIoU": "mean over questions of intersection over union (IoU)",
    "cIoU": "summed intersection over summed union: large targets count more",
    "cIoU small": f"of targets below {100 * SMALL_BELOW:.1f} % of their image",
    "cIoU medium": "of targets between these limits",
    "cIoU large": f"of targets above {100 * LARGE_ABOVE:.1f} % of their image",
    "mIoU": "mean over categories of their mean IoU",
    "Pr@X": "share of questions with an IoU above X",
    "N-acc": "of questions without a target, the share with an empty answer",
    "T-acc": "of questions with a target, the share with an answer that is not empty",
}


def percent(value: float | None) -> str:
    """A share as a percentage, or a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def main_names(scores: Scores, benchmark: str) -> list[str]:
    """The scores that a benchmark is known by, as far as there are any; all scores of an unknown benchmark."""
    known = BENCHMARKS[benchmark].scores if benchmark in BENCHMARKS else _TOGETHER
    return [name for name in known if name in _TOGETHER and scores.values[name] is not None]


def show_scores(scores: Scores, names: Sequence[str]) -> Markup:
    """The main scores: the first two large, all in a table beside their plot, the others and all meanings folded."""
    others = [name for name in _TOGETHER if name not in names and scores.values[name] is not None]
    rows = [
        Whisker(SCORE_NAMES[name], value, scores.intervals.get(name))
        for name in names
        if (value := scores.values[name]) is not None
    ]
    more = [tag("details", tag("summary", "Other scores"), _score_table(scores, others))] if others else []
    shown = {"Pr@X" if name.startswith("precision") else SCORE_NAMES[name] for name in [*names, *others]}
    meanings = [join([tag("dt", name), tag("dd", text)]) for name, text in _MEANINGS.items() if name in shown]
    return join(
        [
            _tiles(scores, names[:2]),
            tag("div", _score_table(scores, names), plot_intervals(rows), class_="pair"),
            *more,
            tag("details", tag("summary", "What the scores mean"), tag("dl", *meanings), class_="meanings"),
        ]
    )


def show_parts(scores: Scores, parts: Mapping[str, Scores], names: Sequence[str]) -> Markup:
    """The scores of data sets and splits side by side, and of all together."""
    columns = {**parts, "all": scores}
    rows = [[SCORE_NAMES[name], *(_cell(column, name) for column in columns.values())] for name in names]
    rows.append(["questions", *(str(column.count) for column in columns.values())])
    rows.append(["images", *(str(column.images) for column in columns.values())])
    return table(["score (%)", *columns], rows, "scores by part")


def show_kinds(scores: Scores, items: Sequence[Item]) -> Markup | None:
    """Phrases beside sentences; None if there is only one kind."""
    sentences = sum(item.is_sentence for item in items)
    if sentences in (0, len(items)):
        return None
    columns = (("short", len(items) - sentences), ("long", sentences))
    rows = [
        [SCORE_NAMES[score], *(_cell(scores, f"{score}_{kind}") for kind, _ in columns)] for score in ("giou", "ciou")
    ]
    rows.append(["questions", *(str(count) for _, count in columns)])
    return table(["score (%)", "phrases (short)", "sentences (long)"], rows, "scores by kind of question")


def show_chain(scores: Scores, items: Sequence[Item]) -> Markup | None:
    """C1 beside C2, and how often C2 is the better one; None for masks of no chain."""
    pairs = [(item.coarse_overlap.iou, item.overlap.iou) for item in items if item.coarse_overlap is not None]
    if not pairs:
        return None
    better = sum(refined > coarse for coarse, refined in pairs)
    worse = sum(refined < coarse for coarse, refined in pairs)
    rows = [[SCORE_NAMES[name], _cell(scores, f"coarse_{name}"), _cell(scores, name)] for name in ("giou", "ciou")]
    heads = ["score (%)", "C1, the first step", "C2, the answer"]
    line = f"C2 has a higher IoU than C1 for {better} of {len(pairs)} questions, a lower one for {worse}."
    return join([table(heads, rows, "scores of both masks"), tag("p", line, class_="note")])


def show_well_formed(scores: Scores, items: Sequence[Item]) -> Markup:
    """How many answers hold the tokens of the chain as they should."""
    count, interval = sum(item.well_formed for item in items), scores.intervals.get("well_formed")
    share = tag("b", f"{percent(scores.values['well_formed'])} %")
    between = "" if interval is None or count == len(items) else f", 95 % interval {_between(scores, 'well_formed')}"
    of_all = f" of the answers ({count} of {len(items)}{between}) are well-formed"
    return tag("p", share, of_all, ": they hold each token of the chain once and in order.")


def _tiles(scores: Scores, names: Sequence[str]) -> Markup:
    """The numbers that are looked for first."""
    tiles = [
        (SCORE_NAMES[name], f"{percent(scores.values[name])} %", f"95 %: {_between(scores, name)}") for name in names
    ]
    tiles.append(("questions", str(scores.count), f"on {scores.images} image{'s' * (scores.images != 1)}"))
    return tag(
        "div",
        *(
            tag("div", tag("span", name), tag("strong", value), tag("small", below), class_="tile")
            for name, value, below in tiles
        ),
        class_="tiles",
    )


def _score_table(scores: Scores, names: Sequence[str]) -> Markup:
    rows = [[SCORE_NAMES[name], percent(scores.values[name]), _between(scores, name)] for name in names]
    return table(["score", "%", "95 % interval"], rows, "scores")


def _cell(scores: Scores, name: str) -> Markup:
    """A score with its interval below."""
    if scores.values[name] is None:
        return Markup("–")
    return join([percent(scores.values[name]), tag("small", _between(scores, name))])


def _between(scores: Scores, name: str) -> str:
    interval = scores.intervals.get(name)
    return "–" if interval is None else f"{percent(interval.low)} to {percent(interval.high)}"
