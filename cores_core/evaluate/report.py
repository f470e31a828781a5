"""`report.html`: an evaluation as one page that needs nothing else, to be read, sent and kept.

It has no script, no font and no image from elsewhere; a content policy in its head forbids any. Text of people and
models is escaped by `report_markup.tag`.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from cores_core.errors import DataError
from cores_core.evaluate.benchmarks import BENCHMARKS
from cores_core.evaluate.plots import MAX_POINTS, Bar, plot_categories, plot_histogram, plot_sizes
from cores_core.evaluate.report_markup import Markup, join, table, tag
from cores_core.evaluate.report_pictures import Pictures, choose_groups, show_groups
from cores_core.evaluate.report_scores import (
    main_names,
    percent,
    show_chain,
    show_kinds,
    show_parts,
    show_scores,
    show_well_formed,
)
from cores_core.evaluate.results import Evaluation
from cores_core.files import save_text
from cores_core.images import load_image
from cores_core.sample import RgbImage

REPORT_FILE = "report.html"
_ORIGIN = ("origin", "How it came about")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_PROTOCOLS = {
    "generated": "The model wrote its answers itself, and its masks come from the tokens that it wrote. "
    "An answer that is not well-formed has an empty mask.",
    "given": "The answer was put into the model's mouth (teacher-forced): it did not have to write the tokens that ask "
    "for a mask. Not to be compared with scores of the protocol “generated”.",
    "from elsewhere": "The masks come from a file of another system, which was not run here. "
    "How its answers came about is not known.",
}


def save_report(evaluation: Evaluation, folder: Path, data_root: Path) -> Path:
    """Write `report.html` into the folder of an evaluation; images that are gone are noted in it.

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
        pictures: reads the image of an item by `Item.image`; None where it is gone.
        seed: of the items that are shown at random.
    """
    title = f"{_title(evaluation.about)}, {evaluation.about.get('model', 'model unknown')}"
    style = resources.files("cores_core.evaluate").joinpath("report.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    content = _content(evaluation, pictures, seed) if evaluation.items else [_nothing()]
    body = tag("body", tag("main", _header(evaluation.about), *content, _origin(evaluation.about)))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _content(evaluation: Evaluation, pictures: Pictures, seed: int) -> list[Markup]:
    scores, items, about = evaluation.scores, evaluation.items, evaluation.about
    names = main_names(scores, str(about.get("benchmark", "")))
    is_foreign = about.get("protocol") == "from elsewhere"
    chain, groups = show_chain(scores, items), choose_groups(items, seed)
    answers = [part for part in (chain, None if is_foreign else show_well_formed(scores, items)) if part is not None]
    sections = [
        ("scores", "Scores", show_scores(scores, names)),
        ("parts", "By part", show_parts(scores, evaluation.parts, names) if evaluation.parts else None),
        ("kinds", "Short and long questions", show_kinds(scores, items)),
        ("chain", "Both steps of the chain" if chain else "Answers", join(answers) if answers else None),
        ("distribution", "How the IoU spreads", _distribution(evaluation)),
        ("categories", "Categories", _categories(evaluation) if scores.categories else None),
        ("pictures", "Pictures", show_groups(groups, pictures)),
    ]
    shown = [(key, title, content) for key, title, content in sections if content is not None]
    links = [tag("a", title, href=f"#{key}") for key, title in (*(s[:2] for s in shown), _ORIGIN)]
    return [tag("nav", *links, aria_label="On this page"), *(_section(*section) for section in shown)]


def _header(about: Mapping[str, Any]) -> Markup:
    protocol = str(about.get("protocol", "unknown"))
    where = ", ".join(about.get("data", {}))
    facts = [
        join([tag("span", name), " ", tag("b", value)])
        for name, value in (("model", about.get("model")), ("data", where))
        if value
    ]
    warnings = [tag("li", str(warning)) for warning in about.get("warnings", [])]
    box = tag("section", tag("h2", "Mind this first"), tag("ul", *warnings), class_="warnings", id="warnings")
    return join(
        [
            tag(
                "header",
                tag("p", "Evaluation", class_="kicker"),
                tag("h1", _title(about)),
                tag("ul", *(tag("li", fact) for fact in facts), class_="facts"),
                tag("p", tag("b", f"Protocol “{protocol}”. "), _PROTOCOLS.get(protocol, ""), class_="protocol"),
            ),
            box if warnings else "",
        ]
    )


def _title(about: Mapping[str, Any]) -> str:
    name = str(about.get("benchmark") or "Evaluation")
    return str(about.get("title") or (BENCHMARKS[name].title if name in BENCHMARKS else name))


def _section(key: str, title: str, content: Markup) -> Markup:
    return tag("section", tag("h2", title), content, id=key)


def _nothing() -> Markup:
    return _section("scores", "Scores", tag("p", "Nothing was asked, so there is nothing to score."))


def _distribution(evaluation: Evaluation) -> Markup:
    items = evaluation.items
    ious = [item.overlap.iou for item in items]
    coarse = [item.coarse_overlap.iou for item in items if item.coarse_overlap is not None]
    shares = [item.overlap.share for item in items]
    empty = sum(share == 0 for share in shares)
    about_bars = "How many questions have which IoU" + (": bars C2, the line C1." if coarse else ".")
    about_points = "A point for each question; the line is the median."
    if len(items) - empty > MAX_POINTS:
        about_points = f"A point for {MAX_POINTS} of {len(items) - empty} questions; the line is the median of all."
    if empty:
        about_points += f" {empty} without a target are not shown."
    figures = [
        tag("figure", plot, tag("figcaption", text))
        for plot, text in ((plot_histogram(ious, coarse), about_bars), (plot_sizes(shares, ious), about_points))
    ]
    return tag("div", *figures, class_="pair")


def _categories(evaluation: Evaluation) -> Markup:
    found = evaluation.scores.categories
    bars = [Bar(name, entry.giou, entry.count) for name, entry in found.items() if entry.giou is not None]
    rows = [[name, percent(entry.giou), percent(entry.ciou), str(entry.count)] for name, entry in found.items()]
    whole = table(["category", "mean IoU (%)", "cIoU (%)", "questions"], rows, "scores by category")
    count = f"{len(rows)} categories as a table" if len(rows) != 1 else "The category as a table"
    return join([tag("div", plot_categories(bars), class_="pair"), tag("details", tag("summary", count), whole)])


def _origin(about: Mapping[str, Any]) -> Markup:
    """How the evaluation came about: all that is needed to do it again."""
    rows: list[tuple[str, str]] = [
        (name, tag("code", str(about[key])) if key == "command" else str(about[key]))
        for key, name in (
            ("command", "command"),
            ("model", "model"),
            ("protocol", "protocol"),
            ("context", "in-context example"),
            ("dtype", "number format"),
            ("seed", "seed of the data"),
            ("limit", "images of each part"),
        )
        if about.get(key) is not None
    ]
    rows += [
        (f"fingerprint of {part}", tag("code", print_ or "unknown")) for part, print_ in about.get("data", {}).items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    rows += [("versions", versions)] if versions else []
    rows.append(("intervals", "95 %, by the bootstrap over images, which are drawn with all their questions"))
    entries = [join([tag("dt", name), tag("dd", value)]) for name, value in rows]
    return _section(*_ORIGIN, tag("dl", *entries, class_="origin"))
