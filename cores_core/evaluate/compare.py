"""Compare evaluations of the same data: score differences with confidence intervals, and a sheet of example images.

Errors of two systems are correlated, so the interval of a difference comes from a paired bootstrap and is narrower than
two separate intervals suggest. The sheet has the layout of Fig. S1 and S2 of CoReS (arXiv:2404.05673).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw

from cores_core.errors import DataError
from cores_core.evaluate.items import Item
from cores_core.evaluate.results import Evaluation
from cores_core.evaluate.scores import score_ratios
from cores_core.masks import decode_rle
from cores_core.overlay import (
    ABSENT_COLOUR,
    ANSWER_COLOUR,
    BAND_COLOUR,
    QUESTION_COLOUR,
    load_font,
    make_printable,
    paint_mask,
    wrap_text,
)
from cores_core.sample import BoolMask, RgbImage
from cores_core.statistics import Floats, Interval, bootstrap, interval_of

CELL, GAP = 320, 14
"""In pixels: width and maximum height of a cell's image, and the gap between cells."""
_HEAD_SIZE, _QUESTION_SIZE, _NOTE_SIZE = 18, 19, 15
_SUPERSAMPLING = 2


@dataclass(frozen=True)
class Difference:
    """Difference of a score from that of the first evaluation.

    Attributes:
        value: the score minus that of the first.
        interval: its 95 % confidence interval, from the paired bootstrap over images; None without resamples.
        better: fraction of resamples in which the score is above that of the first; None without resamples.
    """

    value: float
    interval: Interval | None
    better: float | None


@dataclass(frozen=True)
class Comparison:
    """Comparison of evaluations over their common items.

    Attributes:
        names: of the evaluations; differences are relative to the first.
        count: number of common items. images: number of their distinct images.
        left_out: by evaluation, the number of its items that are not common.
        values: by score and evaluation, 0-1; None if there are no items to score.
        differences: by score and evaluation, without the first; None if either score is None.
        warnings: sentences about limitations of the comparison.
    """

    names: tuple[str, ...]
    count: int
    images: int
    left_out: Mapping[str, int]
    values: Mapping[str, Mapping[str, float | None]]
    differences: Mapping[str, Mapping[str, Difference | None]]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Choice:
    """An item to show: the reason for its selection, and the result of each evaluation."""

    why: Literal["largest gain", "largest loss", "random"]
    items: tuple[Item, ...]


def compare(evaluations: Mapping[str, Evaluation], draws: int = 2000, seed: int = 0) -> Comparison:
    """Compare evaluations, given by name, with the first of them, over their common items.

    Args:
        draws: number of bootstrap resamples of images; 0 for no intervals. seed: of the bootstrap.

    Raises:
        DataError: there are fewer than two evaluations, no common items, or different targets for the same id.
    """
    rows = _match(evaluations)
    images = [row[0].image for row in rows]
    count = len(set(images))
    ratios = {name: score_ratios(items) for name, items in zip(evaluations, zip(*rows, strict=True), strict=True)}
    samples = {name: bootstrap(of_one, images, draws, seed) for name, of_one in ratios.items()}
    names, (first, *others) = tuple(evaluations), tuple(evaluations)
    scores = list(ratios[first])
    values = {score: {name: ratios[name][score].value for name in names} for score in scores}
    differences = {
        score: {
            name: _difference(
                values[score][name], values[score][first], samples[name][score] - samples[first][score], count
            )
            for name in others
        }
        for score in scores
    }
    left_out = {name: len(evaluation.items) - len(rows) for name, evaluation in evaluations.items()}
    warnings = (*_warn_of_items(left_out, rows), *_warn_of_settings(evaluations))
    return Comparison(names, len(rows), count, left_out, values, differences, warnings)


def choose_items(evaluations: Mapping[str, Evaluation], count: int, seed: int = 0) -> list[Choice]:
    """Choose common items: those with the largest gains and losses of IoU over the first evaluation, and random ones.

    About a third each; items without a difference are chosen only at random.

    Args:
        count: number of items. seed: of the random choice. The order of items does not matter.

    Raises:
        DataError: as for `compare`.
    """
    rows = _match(evaluations)
    gains = np.array([[item.overlap.iou - row[0].overlap.iou for item in row[1:]] for row in rows])
    highest, lowest = gains.max(axis=1), gains.min(axis=1)
    gaining = [int(i) for i in np.argsort(-highest, kind="stable") if highest[i] > 0][: (count + 1) // 3]
    losing = [int(i) for i in np.argsort(lowest, kind="stable") if lowest[i] < 0 and i not in gaining][
        : (count + 1) // 3
    ]
    rest = [i for i in map(int, np.random.default_rng(seed).permutation(len(rows))) if i not in {*gaining, *losing}]
    at_random = rest[: count - len(gaining) - len(losing)]
    return [
        *(Choice("largest gain", rows[index]) for index in gaining),
        *(Choice("largest loss", rows[index]) for index in losing),
        *(Choice("random", rows[index]) for index in at_random),
    ]


def render_sheet(
    evaluations: Mapping[str, Evaluation], pictures: Callable[[str], RgbImage | None], count: int, seed: int = 0
) -> RgbImage:
    """Render a row per chosen item: its question, and below it the image, the ground truth and each predicted mask.

    Args:
        pictures: loads an image, (H, W, 3), by `Item.image`; returns None if it is missing, then its cells are grey.
        count, seed: as for `choose_items`.

    Raises:
        DataError: as for `compare`.
    """
    names, chosen = list(evaluations), choose_items(evaluations, count, seed)
    heads = _side_by_side([_draw_text(name, CELL, _HEAD_SIZE, is_bright=True) for name in ("image", "truth", *names)])
    rows = [_draw_row(names, choice, pictures(choice.items[0].image)) for choice in chosen]
    return np.vstack([_room(GAP, heads.shape[1]), heads, *rows])


def _match(evaluations: Mapping[str, Evaluation]) -> list[tuple[Item, ...]]:
    """The common items sorted by id, each as a tuple over the evaluations."""
    if len(evaluations) < 2:
        raise DataError("a comparison needs two evaluations", hint="give the folders of two evaluations or more")
    by_id = [{item.id: item for item in evaluation.items} for evaluation in evaluations.values()]
    common = sorted(set.intersection(*(set(items) for items in by_id)))
    names = ", ".join(evaluations)
    if not common:
        raise DataError(f"no common items in: {names}", hint="compare evaluations of the same benchmark and split")
    rows = [tuple(items[key] for items in by_id) for key in common]
    for row in rows:
        if any((item.target, item.ignore) != (row[0].target, row[0].ignore) for item in row):
            hint = "evaluate all of them with the same data root"
            raise DataError(f"not the same data: {row[0].id} has different targets in {names}", hint=hint)
    return rows


def _difference(value: float | None, first: float | None, samples: Floats, images: int) -> Difference | None:
    if value is None or first is None:
        return None
    known = samples[~np.isnan(samples)]
    better = float((known > 0).mean()) if len(known) else None
    return Difference(value - first, interval_of(known, images), better)


def _warn_of_items(left_out: Mapping[str, int], rows: Sequence[tuple[Item, ...]]) -> list[str]:
    found = [f"{number} items of {name} are not in all others: skipped." for name, number in left_out.items() if number]
    asked = sum(len({item.question for item in row}) > 1 for row in rows)
    return [*found, f"{asked} items were asked with different texts."] if asked else found


def _warn_of_settings(evaluations: Mapping[str, Evaluation]) -> list[str]:
    settings: dict[str, dict[str, str]] = {}
    for name, evaluation in evaluations.items():
        for key in ("protocol", "context"):
            if key in evaluation.about:
                settings.setdefault(f"{key.capitalize()}s", {})[name] = str(evaluation.about[key])
        for part, fingerprint in evaluation.about.get("data", {}).items():
            settings.setdefault(f"The data of {part}", {})[name] = f"fingerprint {str(fingerprint)[:12] or 'unknown'}"
    return [
        f"{what} differ: {', '.join(f'{name}: {value}' for name, value in of_each.items())}."
        for what, of_each in settings.items()
        if len(set(of_each.values())) > 1
    ]


def _draw_row(names: Sequence[str], choice: Choice, image: RgbImage | None) -> RgbImage:
    """The caption of an item, its cells, and a note below each cell."""
    first, note = choice.items[0], ""
    truth = decode_rle(first.target)
    if image is None or image.shape[:2] != truth.shape:
        note = "the image is missing" if image is None else "the image has another size than the ground truth"
        image = np.full((*truth.shape, 3), ABSENT_COLOUR, dtype=np.uint8)
    masks = (truth & False, truth, *(decode_rle(item.mask) for item in choice.items))
    notes = [(note, False), ("" if truth.any() else "no target", False), *_name_ious(names, choice.items)]
    cells = _side_by_side([_draw_cell(image, mask) for mask in masks])
    below = _side_by_side([_draw_text(text, CELL, _NOTE_SIZE, is_bright) for text, is_bright in notes])
    what = ", ".join(part for part in (first.category, first.id, choice.why) if part)
    width = cells.shape[1] - 2 * GAP
    question = _draw_text(first.question, width, _QUESTION_SIZE, is_bright=True)
    caption = [_side_by_side([part]) for part in (question, _draw_text(what, width, _NOTE_SIZE))]
    return np.vstack([_room(2 * GAP, cells.shape[1]), *caption, cells, below])


def _name_ious(names: Sequence[str], items: Sequence[Item]) -> list[tuple[str, bool]]:
    """The note of each evaluation (IoU and name), and whether to highlight it as the best."""
    ious = [item.overlap.iou for item in items]
    return [
        (
            f"IoU {100 * item.overlap.iou:.1f} %, {'' if item.overlap.predicted else 'no mask, '}{name}",
            item.overlap.iou == max(ious) > min(ious),
        )
        for name, item in zip(names, items, strict=True)
    ]


def _draw_cell(image: RgbImage, mask: BoolMask) -> RgbImage:
    """The overlay of a mask on an image, `CELL` pixels wide and at most as high."""
    painted = paint_mask(image, mask, CELL)
    height, width = painted.shape[:2]
    cell, left = _room(height, CELL), (CELL - width) // 2
    cell[:, left : left + width] = painted
    return cell


def _draw_text(text: str, width: int, size: int, is_bright: bool = False) -> RgbImage:
    """At most two lines of text, truncated with an ellipsis."""
    font, line_height = load_font(_SUPERSAMPLING * size), round(1.35 * size)
    lines = wrap_text(make_printable(text), font, _SUPERSAMPLING * width, most=2)
    band = Image.new("RGB", (_SUPERSAMPLING * width, _SUPERSAMPLING * line_height * max(1, len(lines))), BAND_COLOUR)
    draw, colour = ImageDraw.Draw(band), QUESTION_COLOUR if is_bright else ANSWER_COLOUR
    for number, line in enumerate(lines):
        top = number * _SUPERSAMPLING * line_height
        draw.text((0, top), line, colour, font, stroke_width=int(is_bright), stroke_fill=colour)
    return np.asarray(band.reduce(_SUPERSAMPLING), dtype=np.uint8)


def _side_by_side(parts: Sequence[RgbImage]) -> RgbImage:
    """Pictures in a row, aligned at the top, with gaps."""
    height = max(part.shape[0] for part in parts)
    row = [_room(height, GAP)]
    for part in parts:
        row += [np.vstack([part, _room(height - part.shape[0], part.shape[1])]), _room(height, GAP)]
    return np.vstack([np.hstack(row), _room(GAP // 2, sum(part.shape[1] for part in row))])


def _room(height: int, width: int) -> RgbImage:
    return np.full((height, width, 3), BAND_COLOUR, dtype=np.uint8)
