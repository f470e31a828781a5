"""`report.html`: an evaluation as one self-contained page.

The page has no script and loads no font and no image; a content security policy in its head forbids any. Its markup is
`templates/report.html`, in which Jinja2 escapes all text of people and models.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cores_core.errors import DataError
from cores_core.evaluate.benchmarks import BENCHMARKS
from cores_core.evaluate.calibration import CONFIDENCE_NAMES
from cores_core.evaluate.plots import (
    MAX_POINTS,
    Bar,
    Whisker,
    plot_categories,
    plot_histogram,
    plot_intervals,
    plot_sizes,
)
from cores_core.evaluate.published import find_published
from cores_core.evaluate.report_pictures import TRUTH_COLOUR, Pictures, choose_groups, embed_picture
from cores_core.evaluate.report_templates import ENVIRONMENT
from cores_core.evaluate.results import Evaluation
from cores_core.evaluate.scores import SCORE_NAMES, Scores
from cores_core.files import save_text
from cores_core.images import load_image
from cores_core.metrics import LARGE_ABOVE, SMALL_BELOW
from cores_core.overlay import COARSE_COLOUR, REFINED_COLOUR
from cores_core.sample import RgbImage

REPORT_FILE = "report.html"
_OWN_SECTION = {"short", "long", "coarse", "formed"}
"""Words in the names of scores that have sections of their own: of phrases, of sentences, of C1, of answers."""
_GENERAL = tuple(name for name in SCORE_NAMES if not _OWN_SECTION & set(name.split("_")))
_CONSTANTS = {
    "MAX_POINTS": MAX_POINTS,
    "SCORE_NAMES": SCORE_NAMES,
    "CONFIDENCE_NAMES": CONFIDENCE_NAMES,
    "SMALL_BELOW": SMALL_BELOW,
    "LARGE_ABOVE": LARGE_ABOVE,
    "REFINED_COLOUR": REFINED_COLOUR,
    "COARSE_COLOUR": COARSE_COLOUR,
    "TRUTH_COLOUR": TRUTH_COLOUR,
}


def save_report(evaluation: Evaluation, folder: Path, data_root: Path) -> Path:
    """Write `report.html` into the folder of an evaluation; images that cannot be read are noted in it.

    Returns:
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_text(render_report(evaluation, find_pictures(data_root)), folder / REPORT_FILE)
    return folder / REPORT_FILE


def find_pictures(data_root: Path) -> Pictures:
    """A reader of images by their path in the data root, which gives None for one that cannot be read."""

    def read(image: str) -> RgbImage | None:
        try:
            return load_image(data_root / image)
        except DataError:
            return None

    return read


def render_report(evaluation: Evaluation, pictures: Pictures, seed: int = 0) -> str:
    """The page.

    Args:
        pictures: reads the image of an item by `Item.image`; None where it cannot be read.
        seed: of the items that are shown at random.
    """
    items, scores, about = evaluation.items, evaluation.scores, evaluation.about
    names = _main_names(scores, str(about.get("benchmark", "")))
    others = [name for name in _GENERAL if name not in names and scores.values[name] is not None]
    pairs = [(item.coarse_overlap.iou, item.overlap.iou) for item in items if item.coarse_overlap is not None]
    values = {
        "about": about,
        "title": _title(about),
        "items": items,
        "scores": scores,
        "parts": evaluation.parts,
        "names": names,
        "others": others,
        "shown_names": {"Pr@X" if name.startswith("precision") else SCORE_NAMES[name] for name in [*names, *others]},
        "calibration": evaluation.calibration,
        "pairs": len(pairs),
        "better": sum(refined > coarse for coarse, refined in pairs),
        "worse": sum(refined < coarse for coarse, refined in pairs),
        "well_formed": sum(item.well_formed for item in items),
        "sentences": sum(item.is_sentence for item in items),
        "empty": sum(item.overlap.share == 0 for item in items),
        "published": find_published(str(about.get("benchmark", "")), list(about.get("data", {}))),
        "groups": choose_groups(items, seed),
        "embed": partial(embed_picture, pictures),
    }
    template = ENVIRONMENT.get_template("report.html")
    return template.render(_CONSTANTS, plot=_draw_plots(evaluation, names), **values).strip() + "\n"


def _draw_plots(evaluation: Evaluation, names: list[str]) -> dict[str, Markup]:
    items, scores = evaluation.items, evaluation.scores
    ious = [item.overlap.iou for item in items]
    coarse_ious = [item.coarse_overlap.iou for item in items if item.coarse_overlap is not None]
    rows = [(SCORE_NAMES[name], scores.values[name], scores.intervals.get(name)) for name in names]
    bars = [(name, entry.giou, entry.count) for name, entry in scores.categories.items()]
    return {
        "intervals": plot_intervals([Whisker(name, value, of) for name, value, of in rows if value is not None]),
        "histogram": plot_histogram(ious, coarse_ious),
        "sizes": plot_sizes([item.overlap.share for item in items], ious),
        "categories": plot_categories([Bar(name, giou, count) for name, giou, count in bars if giou is not None]),
    }


def _main_names(scores: Scores, benchmark: str) -> list[str]:
    """The scores that a benchmark reports, as far as there are any; all scores of an unknown benchmark."""
    known = BENCHMARKS[benchmark].scores if benchmark in BENCHMARKS else _GENERAL
    return [name for name in known if name in _GENERAL and scores.values[name] is not None]


def _title(about: Mapping[str, Any]) -> str:
    name = str(about.get("benchmark") or "Evaluation")
    return str(about.get("title") or (BENCHMARKS[name].title if name in BENCHMARKS else name))
