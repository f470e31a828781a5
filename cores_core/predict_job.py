"""Answer questions about any number of images, in one process or several, and continue after an interruption.

<output>/predictions.jsonl     a row per question, docs/format.md; written at the end, images in the order of the inputs
<output>/skipped.jsonl         images that could not be used, with the reason
<output>/unfinished/           rows of a job that was interrupted (journal.py)

An image that cannot be used is skipped; all others are answered. Masks do not depend on the number of processes.
"""

import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cores_core.choices import Format, Protocol
from cores_core.errors import DataError
from cores_core.files import save_text
from cores_core.formats.coco import save_coco
from cores_core.formats.label_studio import save_label_studio
from cores_core.formats.labelled import LabelledImage, LabelledMask
from cores_core.formats.labelme import save_labelme
from cores_core.formats.pictures import save_cutout, save_palette
from cores_core.formats.yolo import save_yolo
from cores_core.images import is_url
from cores_core.inputs import Request
from cores_core.instances import NO_CLEANING, MaskCleaning
from cores_core.journal import Journal, Row
from cores_core.masks import decode_rle
from cores_core.model.source import ModelSource
from cores_core.pool import Executor, Progress, Worker, share_work
from cores_core.predict import Prediction, Predictor, save_prediction
from cores_core.runtime import map_in_thread
from cores_core.sample import Query, RgbImage

PREDICTIONS, SKIPPED = "predictions.jsonl", "skipped.jsonl"
READ_AHEAD, WRITE_BEHIND = 4, 1
"""Images that are decoded before their turn, and answered images whose files are not written yet."""
IMAGE_FORMATS = frozenset[Format](("files", "cutout", "palette", "labelme"))
"""Formats that are written as soon as an image is answered, where it was answered; the others at the end."""


@dataclass(frozen=True)
class PredictJob:
    """How to answer, and what to write where. `source` names the model and its device."""

    source: ModelSource
    output: Path
    protocol: Protocol = "generate"
    formats: tuple[Format, ...] = ("files",)
    cleaning: MaskCleaning = NO_CLEANING


@dataclass(frozen=True)
class Outcome:
    """Counts of a finished job: answered questions, answered images, and the skipped images with the reasons."""

    questions: int
    images: int
    skipped: Mapping[str, str]


def run_job(
    job: PredictJob,
    requests: Sequence[Request],
    devices: Sequence[str],
    resume: bool,
    progress: Progress,
    execute: Executor = share_work,
) -> Outcome:
    """Answer all requests; each device named runs a process of its own with a copy of the model.

    Args:
        resume: continue an interrupted job of the same model and settings in `job.output`.
        progress: called with the number of newly answered questions.
        execute: runs the processes on this machine, or on a Ray cluster.

    Raises:
        CoresError: the model cannot be loaded, an interrupted job is there and `resume` is not given, it is of another
            model, or a process died. Answered images are kept.
    """
    journal = _open_journal(job, resume)
    done = {_key(row) for row in journal.read() if "reason" not in row}
    waiting = [request for request in requests if any(key not in done for key in _keys(request))]
    progress(sum(key in done for request in requests for key in _keys(request)))
    try:
        execute(partial(_start, job), waiting, devices, journal, progress)
    except BaseException:
        if not journal.count():
            journal.close()  # there is nothing to continue
        raise
    return _finish(job, requests, journal)


def answer_stream(
    predictor: Predictor, requests: Iterable[Request], job: PredictJob, is_live: bool = False
) -> Iterator[list[Row]]:
    """The rows of each request, or one row with the `reason` why it was skipped; its files are written before.

    Args:
        is_live: yield the rows of a request before the next one is taken. Otherwise images are decoded ahead, and files
            are written while the next image is answered.
    """
    images = map_in_thread(_load, requests, 0 if is_live else READ_AHEAD)
    answers = (_answer(predictor, job, request, image) for request, image in images)
    return map_in_thread(partial(_write, job), answers, 0 if is_live else WRITE_BEHIND)


def prediction_row(job: PredictJob, request: Request, query: Query, prediction: Prediction, seconds: float) -> Row:
    """The row of one answer, docs/format.md."""
    row = {"image": request.image, "name": request.name, "is_sentence": query.is_sentence, **prediction.to_json()}
    return row | {"model": job.source.name, "protocol": job.protocol, "seconds": round(seconds, 3)}


def _open_journal(job: PredictJob, resume: bool) -> Journal:
    journal = Journal(job.output)
    if journal.exists and not resume:
        hint = "continue it with --resume, or choose another --output"
        raise DataError(f"an interrupted job is in: {job.output}", hint=hint)
    journal.begin({**job.source.identity, "protocol": job.protocol, "cleaning": asdict(job.cleaning)})
    return journal


def _start(job: PredictJob, device: str) -> Worker[Request]:
    """Load the model onto a device.

    Raises:
        DataError: files of single images are asked for, and this machine does not see the job's folder.
    """
    if not Journal(job.output).exists and IMAGE_FORMATS & set(job.formats):
        asked = ", ".join(sorted(IMAGE_FORMATS & set(job.formats)))
        hint = f"workers write the formats {asked}: choose an --output that all machines share, or other formats"
        raise DataError(f"the output folder of the job is not on {platform.node()}: {job.output}", hint=hint)
    predictor = Predictor(replace(job.source, device=device).load())
    return partial(answer_stream, predictor, job=job)


@dataclass(frozen=True)
class _Answered:
    """A request with its image and the answers, which took `seconds` each; or the error that made it fail."""

    request: Request
    image: RgbImage | DataError
    predictions: list[Prediction]
    seconds: float


def _load(request: Request) -> tuple[Request, RgbImage | DataError]:
    try:
        return request, request.load()
    except DataError as error:
        return request, error


def _answer(predictor: Predictor, job: PredictJob, request: Request, image: RgbImage | DataError) -> _Answered:
    started = time.perf_counter()
    try:
        if isinstance(image, DataError):
            raise image
        predictions = predictor.set_image(image, job.cleaning).ask(request.queries, job.protocol)
    except DataError as error:
        return _Answered(request, error, [], 0.0)
    return _Answered(request, image, predictions, (time.perf_counter() - started) / len(predictions))


def _write(job: PredictJob, answered: _Answered) -> list[Row]:
    """Write the files of one image; returns its rows."""
    request, image = answered.request, answered.image
    if isinstance(image, DataError):
        return [{"image": request.image, "reason": image.message}]
    rows: list[Row] = []
    for number, query in enumerate(request.queries, start=1):
        prediction = answered.predictions.pop(0)  # its full-size logits are freed before the next are computed
        row = prediction_row(job, request, query, prediction, answered.seconds)
        base = job.output / request.output_name(number)
        if "files" in job.formats:
            save_prediction(prediction, image, base, row)
        if "cutout" in job.formats:
            save_cutout(image, prediction.mask, _place(base.with_name(f"{base.name}.cutout.png")))
        rows.append(row)
    labelled = _labelled(request.image, rows)
    if "palette" in job.formats:
        save_palette(labelled, _place(job.output / f"{request.name}.palette.png"))
    if "labelme" in job.formats:
        path = _place(job.output / "labelme" / f"{request.name}.json")
        named = request.image if is_url(request.image) else os.path.relpath(request.image, path.parent)
        save_labelme(replace(labelled, image=named), path)
    return rows


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _finish(job: PredictJob, requests: Sequence[Request], journal: Journal) -> Outcome:
    """Write what covers all images, in the order of the requests, and remove the journal."""
    found: dict[tuple[str, str, bool], Row] = {}
    skipped: dict[str, str] = {}
    for row in journal.read():
        if "reason" in row:
            skipped[row["image"]] = row["reason"]
        else:
            found[_key(row)] = row
    order = dict.fromkeys(key for request in requests for key in _keys(request))
    rows = [found[key] for key in order if key in found]
    answered = {row["image"] for row in rows}
    skipped = {image: reason for image, reason in skipped.items() if image not in answered}
    save_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), job.output / PREDICTIONS)
    lines = (json.dumps({"image": image, "reason": reason}, ensure_ascii=False) for image, reason in skipped.items())
    if skipped:
        save_text("".join(f"{line}\n" for line in lines), job.output / SKIPPED)
    _save_collections(job, rows)
    journal.close()
    return Outcome(len(rows), len(answered), skipped)


def _save_collections(job: PredictJob, rows: Sequence[Row]) -> None:
    """The formats that put all images into one file or folder."""
    by_image: dict[str, list[Row]] = {}
    for row in rows:
        by_image.setdefault(row["image"], []).append(row)
    if "coco" in job.formats:
        save_coco((_labelled(image, own) for image, own in by_image.items()), job.output / "coco.json")
    if "label-studio" in job.formats:
        save_label_studio((_labelled(image, own) for image, own in by_image.items()), job.output / "label-studio.json")
    if "yolo" in job.formats:
        named = {f"{own[0]['name']}{Path(image).suffix}": own for image, own in by_image.items()}
        save_yolo((_labelled(image, own) for image, own in named.items()), job.output / "yolo")


def _labelled(image: str, rows: Sequence[Row]) -> LabelledImage:
    masks = [
        LabelledMask(row["question"], decode_rle(part["mask"]), part["score"])
        for row in rows
        for part in row.get("instances") or [row]  # an empty mask has no instances
    ]
    height, width = rows[0]["mask"]["size"]
    return LabelledImage(image, (height, width), tuple(masks))


def _key(row: Mapping[str, Any]) -> tuple[str, str, bool]:
    return row["image"], row["question"], row["is_sentence"]


def _keys(request: Request) -> list[tuple[str, str, bool]]:
    return [(request.image, query.text, query.is_sentence) for query in request.queries]
