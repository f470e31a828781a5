"""Score predictions of other systems: a JSONL file with a row per query, in any order, or a COCO JSON.

    {"id": "reasonseg/val/12.0.0", "mask": {"size": [480, 640], "counts": "..."}, "answer": "the tail", "seconds": 0.4}
    {"image": "reason_seg/ReasonSeg/val/a.jpg", "question": "what steers the fish?", "mask": [[10, 10, 60, 10, 60, 40]]}
    {"image": "a.jpg", "question": "what steers the fish?", "mask": "masks/a.png"}

A row identifies its query by id, or by image and question; an image by its path in the data root, or by its file name
if that is unique. A mask is a COCO RLE, a list of polygons (`[]` for an empty mask), or the path of a mask image (see
`mask_images.py` for its values). `answer`, `seconds` and `instances` are optional; the latter is a list of objects with
`mask` and `score`, for AP, and its union is the mask of a row without one.

In a COCO JSON, category names are the questions. All annotations of a category in an image form one mask, whatever
their scores, and one row, with the number of its first annotation.

A query without a prediction is scored as an empty mask and listed in the report.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from cores_core.errors import DataError
from cores_core.evaluate.items import Item, ScoredMask
from cores_core.evaluate.targets import Target
from cores_core.files import RepeatedKeyError, parse_json, read_json
from cores_core.formats.coco import read_coco
from cores_core.formats.coco_entries import is_coco
from cores_core.formats.labelled import Annotation
from cores_core.mask_images import RowMask, read_row_mask
from cores_core.masks import Rle, decode_rle, encode_rle, merge_rles
from cores_core.metrics import measure_overlap

_Parse = Callable[[], "Prediction"]
Progress = Callable[[int], None]
"""Called with the number of newly scored queries."""
_MOST_CHARACTERS = 200  # maximum length of a reason, which may quote a row


@dataclass(frozen=True)
class Problem:
    """An error in a row, or an assumption made in reading it; `line` is its line or entry number from 1."""

    line: int
    reason: str


@dataclass(frozen=True)
class ForeignReport:
    """Report on a file of predictions.

    Attributes:
        count: number of queries. missing: ids of queries without a valid mask, which are scored as empty masks.
        problems: skipped rows. notes: rows that were read with an assumption.
    """

    count: int
    missing: tuple[str, ...]
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """Warnings for readers of the scores, one sentence each."""
        found = []
        if self.missing:
            found.append(
                f"{len(self.missing)} of {self.count} queries have no mask and were scored as empty ones: "
                f"the first is {self.missing[0]}."
            )
        if self.problems:
            first = self.problems[0]
            found.append(f"{len(self.problems)} rows were skipped, line {first.line} first: {first.reason}.")
        if self.notes:
            first = self.notes[0]
            found.append(f"{len(self.notes)} masks rest on an assumption, line {first.line} first: {first.reason}.")
        return found

    @property
    def is_mostly_left_out(self) -> bool:
        """Whether more rows were skipped than scored, and some queries have no mask."""
        return bool(self.missing) and len(self.problems) > self.count - len(self.missing)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Prediction:
    """One parsed row; its mask is not decoded yet.

    Attributes:
        id: of its query; None if it is identified by image and question.
        mask: an argument for `read_row_mask`, or a function that decodes it for an image of (height, width).
        answer: answer text of the system, or "". seconds: its time, 0 if unknown.
        instances: (mask, score) of each object; None if the row has none.
    """

    id: str | None
    image: str
    question: str
    mask: Any
    answer: str
    seconds: float
    instances: tuple[tuple[Any, float], ...] | None = None


def score_predictions(
    targets: Iterable[Target], path: Path, progress: Progress | None = None, strict: bool = False
) -> tuple[list[Item], ForeignReport]:
    """Score a file of predictions.

    Args:
        targets: all queries of the benchmark. path: the file; mask paths in it are relative to its folder.
        progress: called with the number of newly scored queries.
        strict: raise an error for the first invalid row, and for queries without a mask.

    Returns:
        An item per target, in the same order; and a report on missing and skipped rows.

    Raises:
        DataError: the file cannot be read, has no valid row, or violates `strict`.
    """
    queries = _Queries(list(targets))
    items: dict[str, Item] = {}
    lines: dict[str, int] = {}
    problems: list[Problem] = []
    notes: list[Problem] = []
    for number, parse in _read_rows(path):
        try:
            prediction = parse()
            target = queries.find(prediction)
            if target.id in lines:
                raise DataError(f"a second row for {target.id}, after line {lines[target.id]}")
            lines[target.id] = number
            items[target.id], note = _read_item(target, prediction, path.parent)
            if note is not None:
                notes.append(Problem(number, note))
        except DataError as error:
            reason = shorten(error.message, _MOST_CHARACTERS, placeholder=" ...")
            if strict:
                raise DataError(f"{path}, line {number}: {reason}", hint="leave out --strict to skip it") from error
            problems.append(Problem(number, reason))
        else:
            if progress is not None:
                progress(1)
    missing = tuple(target.id for target in queries.targets if target.id not in items)
    report = ForeignReport(len(queries.targets), missing, tuple(problems), tuple(notes))
    _check_use(report, path, strict)
    if progress is not None:
        progress(len(report.missing))
    return [items.get(target.id) or _score_nothing(target) for target in queries.targets], report


def parse_prediction(line: bytes) -> Prediction:
    """Parse a JSONL row.

    Raises:
        DataError: it is malformed.
    """
    try:
        row = parse_json(line.decode("utf-8"), unique=True)
        if not isinstance(row, dict):
            raise DataError("malformed row: not a JSON object")
        if "id" not in row and not {"image", "question"} <= row.keys():
            raise DataError("it has neither `id` nor `image` and `question`")
        instances = _parse_instances(row["instances"]) if row.get("instances") is not None else None
        if "mask" not in row and instances is None:
            raise DataError("it has no `mask` and no `instances`")
        texts = {name: row[name] for name in ("id", "image", "question", "answer") if name in row}
        if not all(isinstance(text, str) for text in texts.values()):
            raise DataError("`id`, `image`, `question` and `answer` must be texts")
        for text in (*texts.values(), row.get("mask")):
            if isinstance(text, str):
                text.encode("utf-8")  # unpaired surrogates could not be written or displayed
        seconds = float(row.get("seconds", 0.0))
    except (UnicodeDecodeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"malformed row ({type(error).__name__}: {error})") from error
    if not 0 <= seconds < math.inf:
        raise DataError(f"`seconds` must be finite and not negative: {seconds}")
    return Prediction(
        id=texts.get("id"),
        image=texts.get("image", ""),
        question=texts.get("question", ""),
        mask=row.get("mask"),
        answer=texts.get("answer", ""),
        seconds=seconds,
        instances=instances,
    )


def _parse_instances(given: Any) -> tuple[tuple[Any, float], ...]:
    if not isinstance(given, list) or not all(isinstance(found, dict) and "mask" in found for found in given):
        raise DataError("`instances` must be a list of objects with `mask` and `score`")
    found = tuple((instance["mask"], float(instance.get("score", 1.0))) for instance in given)
    if not all(math.isfinite(score) for _, score in found):
        raise DataError("the `score` of an instance is not finite")
    return found


class _Queries:
    """Index of all targets by id, and by image and question."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = targets
        self._by_id = {target.id: target for target in targets}
        self._by_question: dict[tuple[str, str], list[Target]] = {}
        self._by_file_name: dict[str, set[str]] = {}
        for target in targets:
            self._by_question.setdefault((target.image, _plain(target.question)), []).append(target)
            self._by_file_name.setdefault(_file_name(target.image), set()).add(target.image)
        self._images: Mapping[str, str] = {target.image: target.image for target in targets}

    def find(self, prediction: Prediction) -> Target:
        """Find the target of a row.

        Raises:
            DataError: there is none, or it is ambiguous.
        """
        if prediction.id is not None:
            if prediction.id not in self._by_id:
                raise DataError(f"no such id in the benchmark: {prediction.id}")
            return self._by_id[prediction.id]
        image = self._images.get(prediction.image) or self._find_image(prediction.image)
        found = self._by_question.get((image, _plain(prediction.question)), [])
        if not found:
            raise DataError(f"no such question for {image} in the benchmark: {prediction.question}")
        if len(found) > 1:
            raise DataError(f"{len(found)} queries of {image} have this text, so an id is needed: {found[0].question}")
        return found[0]

    def _find_image(self, name: str) -> str:
        rest = name
        while rest:  # the path may be absolute, or begin with that of the data root
            rest = rest.partition("/")[2]
            if rest in self._images:
                return rest
        images = self._by_file_name.get(name, set())
        if len(images) > 1:
            raise DataError(f"{len(images)} images have this file name, so its path is needed: {name}")
        if not images:
            raise DataError(f"no such image in the benchmark: {name}")
        return next(iter(images))


def _plain(question: str) -> str:
    """A question with whitespace collapsed."""
    return " ".join(question.split())


def _file_name(image: str) -> str:
    return image.rpartition("/")[2]


def _read_rows(path: Path) -> Iterator[tuple[int, _Parse]]:
    """Yield each row's number and a function that parses it."""
    tree = _load_tree(path) if path.suffix.lower() == ".json" else None
    if not is_coco(tree):
        yield from ((number, partial(parse_prediction, line)) for number, line in _read_lines(path))
        return
    rows: list[tuple[int, _Parse]] = []

    def reject(key: str, index: int, reason: str) -> None:
        if key == "annotations":  # errors in images and categories also appear there
            rows.append((index + 1, partial(_refuse, reason)))

    for annotation in read_coco(tree, str(path), reject, allow_empty=True):
        for text in (*annotation.questions, *annotation.phrases):
            rows.append((annotation.index + 1, partial(_convert, annotation, text)))
    yield from sorted(rows, key=itemgetter(0))


def _load_tree(path: Path) -> Any:
    """Load a file as one JSON value; None if it is not, e.g. a JSONL file with another suffix.

    Raises:
        DataError: a key occurs twice in an object.
    """
    try:
        return read_json(path, unique=True)
    except RepeatedKeyError as error:
        raise DataError(f"{error} in an object of: {path}", hint="keep one of the two") from error
    except (OSError, ValueError, RecursionError):
        return None


def _refuse(reason: str) -> Prediction:
    raise DataError(reason)


def _convert(annotation: Annotation, question: str) -> Prediction:
    return Prediction(None, annotation.image, question, annotation.read_mask, answer="", seconds=0.0)


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield line numbers and non-blank lines, as bytes, so that a line with invalid UTF-8 does not affect others."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    yield number, text
    except OSError as error:
        hint = "give a JSONL file with a row per query"
        raise DataError(f"cannot read: {path} ({error.strerror or error})", hint=hint) from error


def _read_mask(given: Any, folder: Path, target: Target) -> RowMask:
    """Read the mask of a row in the size of its target.

    Raises:
        DataError: it cannot be read, has another size, or marks ignored pixels.
    """
    try:
        size_hw = _size(target)
        found = given(size_hw) if callable(given) else read_row_mask(given, folder.joinpath, size_hw)
    except DataError as error:
        raise DataError(f"{error.message}: {given}" if isinstance(given, str) else error.message) from error
    if found.ignore is not None:
        raise DataError(f"its mask has ignored pixels, which are not allowed in predictions: {given}")
    return found


def _read_item(target: Target, prediction: Prediction, folder: Path) -> tuple[Item, str | None]:
    """Score a row; the second value is an assumption made in reading its mask, or None."""
    given = prediction.instances
    instances = None
    if given is not None:
        instances = tuple(ScoredMask(_read_mask(mask, folder, target).mask, score) for mask, score in given)
    if prediction.mask is None and instances is not None:
        found = (
            RowMask(merge_rles([i.mask for i in instances])) if instances else read_row_mask([], Path, _size(target))
        )
    else:
        found = _read_mask(prediction.mask, folder, target)
    return replace(_score(target, found.mask, prediction), instances=instances), found.note


def _size(target: Target) -> tuple[int, int]:
    height, width = target.target["size"]
    return height, width


def _score(target: Target, mask: Rle, prediction: Prediction) -> Item:
    ignore = None if target.ignore is None else decode_rle(target.ignore)
    return Item(
        id=target.id,
        image=target.image,
        category=target.category,
        question=target.question,
        is_sentence=target.is_sentence,
        answer=prediction.answer,
        well_formed=True,
        overlap=measure_overlap(decode_rle(mask), decode_rle(target.target), ignore),
        coarse_overlap=None,
        mask=mask,
        coarse_mask=None,
        target=target.target,
        ignore=target.ignore,
        seconds=prediction.seconds,
        target_instances=target.instances,
    )


def _score_nothing(target: Target) -> Item:
    """Score a query without a prediction as an empty mask."""
    empty = encode_rle(np.zeros(target.target["size"], dtype=bool))
    return _score(target, empty, Prediction(target.id, target.image, target.question, empty, answer="", seconds=0.0))


def _check_use(report: ForeignReport, path: Path, strict: bool) -> None:
    if len(report.missing) == report.count:
        reason = f", line {report.problems[0].line}: {report.problems[0].reason}" if report.problems else ""
        hint = f"the first id of the benchmark: {report.missing[0]}" if report.missing else None
        raise DataError(f"no valid row in: {path}{reason}", hint=hint)
    if strict and report.missing:
        hint = "leave out --strict to score them as empty masks"
        raise DataError(f"no mask for {len(report.missing)} queries, {report.missing[0]} first, in: {path}", hint=hint)
