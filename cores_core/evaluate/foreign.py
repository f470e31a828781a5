"""Score the masks of any other system: a JSONL file with a row for each query, in any order, or a COCO JSON.

    {"id": "reasonseg/val/12.0.0", "mask": {"size": [480, 640], "counts": "..."}, "answer": "the tail", "seconds": 0.4}
    {"image": "reason_seg/ReasonSeg/val/a.jpg", "question": "what steers the fish?", "mask": [[10, 10, 60, 10, 60, 40]]}
    {"image": "a.jpg", "question": "what steers the fish?", "mask": "masks/a.png"}

A row names its query by id, or by image and question; an image by its path in the data root, or by its file name where
no other has it. A mask is a COCO RLE, a list of polygons (`[]` for nothing), or the path of a mask image (see
`mask_images.py` for its values). `answer` and `seconds` are optional.

In a COCO JSON the name of a category is the question. All annotations of one category in an image are one mask,
whatever their scores, and one row, the number of which is that of its first annotation.

A query without a mask is scored as an empty one and listed.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from cores_core.errors import DataError
from cores_core.evaluate.items import Item
from cores_core.evaluate.targets import Target
from cores_core.formats.coco import read_coco
from cores_core.formats.coco_entries import is_coco
from cores_core.formats.labelled import Annotation
from cores_core.mask_images import RowMask, read_row_mask
from cores_core.masks import Rle, decode_rle, encode_rle
from cores_core.metrics import measure_overlap

_Parse = Callable[[], "Prediction"]
Progress = Callable[[int], None]
"""Called with how many queries more are scored."""
_MOST_CHARACTERS = 200  # of a reason, which may repeat what a row says


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row, or was assumed to read it; its line in the file, or its number, counts from 1."""

    line: int
    reason: str


@dataclass(frozen=True)
class ForeignReport:
    """What became of a file of predictions.

    Attributes:
        count: queries. missing: ids of those without a mask that can be used; they are scored as an empty mask.
        problems: rows that were left out. notes: rows that were read by an assumption.
    """

    count: int
    missing: tuple[str, ...]
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """Sentences for a reader of the scores; none if all is well."""
        found = []
        if self.missing:
            found.append(
                f"{len(self.missing)} of {self.count} queries have no mask and were scored as empty ones: "
                f"{self.missing[0]} is the first."
            )
        if self.problems:
            first = self.problems[0]
            found.append(f"{len(self.problems)} rows were left out, line {first.line} first: {first.reason}.")
        if self.notes:
            first = self.notes[0]
            found.append(f"{len(self.notes)} masks rest on an assumption, line {first.line} first: {first.reason}.")
        return found

    @property
    def is_mostly_left_out(self) -> bool:
        """Whether more rows were left out than scored, and queries have no mask for it."""
        return bool(self.missing) and len(self.problems) > self.count - len(self.missing)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Prediction:
    """One row, its mask still as it was given.

    Attributes:
        id: of its query, or None; then image and question say which it is.
        mask: as `read_row_mask` takes it, or what reads it for an image of (height, width).
        answer: what the system said, "" for nothing. seconds: how long it took, 0 where it is not said.
    """

    id: str | None
    image: str
    question: str
    mask: Any
    answer: str
    seconds: float


def score_predictions(
    targets: Iterable[Target], path: Path, progress: Progress | None = None, strict: bool = False
) -> tuple[list[Item], ForeignReport]:
    """Score a file of predictions against all that was asked.

    Args:
        targets: every query that counts. path: the file; paths of masks in it are relative to its folder.
        strict: refuse the file for the first row that cannot be used, and for a query without a mask.

    Returns:
        An item for each target, in their order; and what was left out.

    Raises:
        DataError: the file cannot be read, no row can be used, or `strict` says so.
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
            found = _read_mask(prediction.mask, path.parent, target)
            items[target.id] = _score(target, found.mask, prediction)
            if found.note is not None:
                notes.append(Problem(number, found.note))
        except DataError as error:
            reason = shorten(error.message, _MOST_CHARACTERS, placeholder=" ...")
            if strict:
                raise DataError(f"{path}, line {number}: {reason}", hint="leave out --strict to go on") from error
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
    """Read a row.

    Raises:
        DataError: it has not this form.
    """
    try:
        row = json.loads(line.decode("utf-8"))
        if not isinstance(row, dict):
            raise DataError("not a row of this form: no JSON object")
        if "id" not in row and not {"image", "question"} <= row.keys():
            raise DataError("it has no `id`, nor `image` and `question`")
        if "mask" not in row:
            raise DataError("it has no `mask`")
        texts = {name: row[name] for name in ("id", "image", "question", "answer") if name in row}
        if not all(isinstance(text, str) for text in texts.values()):
            raise DataError("`id`, `image`, `question` and `answer` must be texts")
        for text in (*texts.values(), row["mask"]):
            if isinstance(text, str):
                text.encode("utf-8")  # half a character of UTF-16 is none, and could not be written or shown
        seconds = float(row.get("seconds", 0.0))
    except (UnicodeDecodeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"not a row of this form ({type(error).__name__}: {error})") from error
    if not 0 <= seconds < math.inf:
        raise DataError(f"`seconds` must be a length of time: {seconds}")
    return Prediction(
        id=texts.get("id"),
        image=texts.get("image", ""),
        question=texts.get("question", ""),
        mask=row["mask"],
        answer=texts.get("answer", ""),
        seconds=seconds,
    )


class _Queries:
    """All targets, found by what a row says of them."""

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
        """The target of a row, or a DataError that says why there is none."""
        if prediction.id is not None:
            if prediction.id not in self._by_id:
                raise DataError(f"no such id here: {prediction.id}")
            return self._by_id[prediction.id]
        image = self._images.get(prediction.image) or self._find_image(prediction.image)
        found = self._by_question.get((image, _plain(prediction.question)), [])
        if not found:
            raise DataError(f"nobody asks this about {image}: {prediction.question}")
        if len(found) > 1:
            raise DataError(f"this is asked {len(found)} times about {image}, so its id is needed: {found[0].question}")
        return found[0]

    def _find_image(self, name: str) -> str:
        rest = name
        while rest:  # the path may be absolute, or have that of the data root before it
            rest = rest.partition("/")[2]
            if rest in self._images:
                return rest
        images = self._by_file_name.get(name, set())
        if len(images) > 1:
            raise DataError(f"{len(images)} images have this file name, so its path is needed: {name}")
        if not images:
            raise DataError(f"no such image here: {name}")
        return next(iter(images))


def _plain(question: str) -> str:
    """A question with its blanks in order."""
    return " ".join(question.split())


def _file_name(image: str) -> str:
    return image.rpartition("/")[2]


def _read_rows(path: Path) -> Iterator[tuple[int, _Parse]]:
    """What parses each row, with the row's number."""
    tree = _load_tree(path) if path.suffix.lower() == ".json" else None
    if not is_coco(tree):
        yield from ((number, partial(parse_prediction, line)) for number, line in _read_lines(path))
        return
    rows: list[tuple[int, _Parse]] = []

    def reject(key: str, index: int, reason: str) -> None:
        if key == "annotations":  # what is wrong with others shows there
            rows.append((index + 1, partial(_refuse, reason)))

    for annotation in read_coco(tree, str(path), reject, allow_empty=True):
        for text in (*annotation.questions, *annotation.phrases):
            rows.append((annotation.index + 1, partial(_convert, annotation, text)))
    yield from sorted(rows, key=itemgetter(0))


def _load_tree(path: Path) -> Any:
    """A whole file of JSON, or None if it is none, as a JSONL by another name is not."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _refuse(reason: str) -> Prediction:
    raise DataError(reason)


def _convert(annotation: Annotation, question: str) -> Prediction:
    return Prediction(None, annotation.image, question, annotation.read_mask, answer="", seconds=0.0)


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their number; as bytes, so that one that is no text spoils no other."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    yield number, text
    except OSError as error:
        hint = "name a JSONL file with a row for each query"
        raise DataError(f"cannot read: {path} ({error.strerror or error})", hint=hint) from error


def _read_mask(given: Any, folder: Path, target: Target) -> RowMask:
    """The mask of a row in the size of its target."""
    height, width = target.target["size"]
    try:
        size_hw = height, width
        found = given(size_hw) if callable(given) else read_row_mask(given, folder.joinpath, size_hw)
    except DataError as error:
        raise DataError(f"{error.message}: {given}" if isinstance(given, str) else error.message) from error
    if found.ignore is not None:
        raise DataError(f"its mask marks pixels as ignored, which a prediction cannot: {given}")
    return found


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
    )


def _score_nothing(target: Target) -> Item:
    """A query that nobody answered."""
    empty = encode_rle(np.zeros(target.target["size"], dtype=bool))
    return _score(target, empty, Prediction(target.id, target.image, target.question, empty, answer="", seconds=0.0))


def _check_use(report: ForeignReport, path: Path, strict: bool) -> None:
    if len(report.missing) == report.count:
        reason = f", line {report.problems[0].line}: {report.problems[0].reason}" if report.problems else ""
        hint = f"the first id that is asked for: {report.missing[0]}" if report.missing else None
        raise DataError(f"no row can be used of: {path}{reason}", hint=hint)
    if strict and report.missing:
        hint = "leave out --strict to score them as empty masks"
        raise DataError(f"no mask for {len(report.missing)} queries, {report.missing[0]} first, in: {path}", hint=hint)
