"""Run a model on a benchmark, with a row per query, in one or several processes; interrupted runs are resumed.

CPU processes use one thread and fixed groups of questions per image, so that scores do not depend on the number of
processes, on interruptions or on prefetching.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import distributed

from cores_core.choices import Protocol
from cores_core.data.store import Store
from cores_core.errors import DataError
from cores_core.evaluate.benchmarks import BENCHMARKS, Benchmark
from cores_core.evaluate.items import Item, ScoredMask, item_row, parse_item
from cores_core.evaluate.results import Evaluation
from cores_core.evaluate.targets import Target, list_targets
from cores_core.images import load_image
from cores_core.instances import mask_score, split_instances
from cores_core.journal import Journal, Row
from cores_core.masks import binarize, decode_rle, encode_rle
from cores_core.metrics import measure_overlap
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.inference import Segmentation, segment_image
from cores_core.model.source import ModelSource
from cores_core.pool import Progress, Worker, share_work
from cores_core.runtime import Group, map_in_thread
from cores_core.sample import BoolMask, Query, RgbImage


@dataclass(frozen=True)
class EvalJob:
    """What to evaluate.

    Attributes:
        benchmark: a name in `BENCHMARKS`.
        data_root: the folder of all data sets. data: data set and split of each part.
        protocol: `generate` or `teacher_forced`.
        limit: maximum number of images per part; None for all.
        examples: in-context example by target id ("" for none); None or a missing id: the model's own.
        no_target: number of further queries of each image about things that are not in it, see `list_targets`.
        read_ahead: number of prefetched images; scores do not depend on it.
        instances: also keep the connected regions of each mask as its objects, for AP.
    """

    benchmark: str
    data_root: Path
    data: tuple[tuple[str, str], ...]
    protocol: Protocol
    limit: int | None = None
    examples: Mapping[str, str] | None = None
    no_target: int = 0
    read_ahead: int = 4
    instances: bool = False

    @property
    def plan(self) -> Benchmark:
        """The entry of `BENCHMARKS`."""
        return BENCHMARKS[self.benchmark]

    def stores(self) -> list[Store]:
        """Open the prepared data of all parts.

        Raises:
            DataError: a part is not prepared.
        """
        return [Store(self.data_root, name, split) for name, split in self.data]


_Place = tuple[int, int]
"""An image: index of its store, and row index in it."""


def list_places(job: EvalJob) -> list[_Place]:
    """All images of a job, in order."""
    sizes = [len(store) if job.limit is None else min(job.limit, len(store)) for store in job.stores()]
    return [(number, index) for number, size in enumerate(sizes) for index in range(size)]


def list_all_targets(job: EvalJob) -> list[Target]:
    """All queries of a job, in order."""
    stores = job.stores()
    return [target for place in list_places(job) for target in _targets_at(job, stores, place)]


def evaluate(
    checkpoint: Checkpoint, job: EvalJob, progress: Progress | None = None, group: Group | None = None
) -> Evaluation:
    """Evaluate a loaded model without writing files.

    Args:
        group: process group that shares the images; all ranks return the complete evaluation. None for one process.
    """
    places = list_places(job)
    mine = places if group is None else places[group.rank :: group.size]
    items = [item for found in _ask_all(checkpoint, job, mine, progress) for item in found]
    if group is not None and group.size > 1:
        shares: list[list[Item]] = [[] for _ in range(group.size)]
        distributed.all_gather_object(shares, items)
        by_id = {item.id: item for share in shares for item in share}
        items = [by_id[target.id] for target in list_all_targets(job)]
    return Evaluation(tuple(items), {})


def run_evaluation(
    source: ModelSource, job: EvalJob, folder: Path, devices: Sequence[str], progress: Progress
) -> tuple[Item, ...]:
    """Evaluate a model with one process per device, logging every finished image to a journal in `folder`.

    Args:
        devices: device of each process; `cpu` may be repeated.
        progress: called with the number of newly answered queries.

    Raises:
        CoresError: model, data or a device is not available, or a process died. Finished images are kept.
    """
    places, journal = list_places(job), Journal(folder)
    journal.begin(_identify(source, job))
    targets = {place: _targets_at(job, stores, place) for stores in (job.stores(),) for place in places}
    done = _read_items(journal)
    waiting = [place for place in places if any(target.id not in done for target in targets[place])]
    progress(sum(target.id in done for found in targets.values() for target in found))
    share_work(partial(_start, source, job), waiting, devices, journal, progress)
    rows = _read_items(journal)
    return tuple(rows[target.id] for place in places for target in targets[place])


def _identify(source: ModelSource, job: EvalJob) -> Mapping[str, Any]:
    """All settings that rows depend on."""
    asked = {"benchmark": job.benchmark, "data": [list(pair) for pair in job.data], "protocol": job.protocol}
    options = {"examples": job.examples, "no_target": job.no_target, "instances": job.instances}
    return source.identity | asked | options | {"data_root": str(job.data_root.resolve())}


def _read_items(journal: Journal) -> dict[str, Item]:
    """The items of a journal by id; damaged rows are skipped."""
    found = {}
    for row in journal.read():
        with suppress(DataError):
            item = parse_item(row)
            found[item.id] = item
    return found


def _start(source: ModelSource, job: EvalJob, device: str) -> Worker[_Place]:
    """Load the model onto a device; the worker yields the rows of each image."""
    checkpoint = replace(source, device=device).load()
    return partial(_ask_rows, checkpoint, job)


def _ask_rows(checkpoint: Checkpoint, job: EvalJob, places: Sequence[_Place]) -> Iterator[list[Row]]:
    for items in _ask_all(checkpoint, job, places, progress=None):
        yield [item_row(item) for item in items]


def _ask_all(
    checkpoint: Checkpoint, job: EvalJob, places: Sequence[_Place], progress: Progress | None
) -> Iterator[list[Item]]:
    """Yield the items of each image."""
    stores, was_training = job.stores(), checkpoint.model.training
    checkpoint.model.eval()
    asked = ((found, stores[place[0]].data_root) for place in places if (found := _targets_at(job, stores, place)))
    try:
        for targets, image in map_in_thread(_load_image, asked, job.read_ahead):
            yield _ask(checkpoint, job, targets, image)
            if progress is not None:
                progress(len(targets))
    finally:
        checkpoint.model.train(was_training)


def _load_image(asked: tuple[list[Target], Path]) -> tuple[list[Target], RgbImage]:
    targets, root = asked
    return targets, load_image(root / targets[0].image)


def _targets_at(job: EvalJob, stores: list[Store], place: _Place) -> list[Target]:
    return list_targets(stores[place[0]], place[1], job.plan, job.no_target)


def _ask(checkpoint: Checkpoint, job: EvalJob, targets: list[Target], image: RgbImage) -> list[Item]:
    """Ask all questions about one image, in one group per in-context example."""
    started = time.perf_counter()
    answers: dict[str, Segmentation] = {}
    by_example: dict[str | None, list[Target]] = {}
    for target in targets:
        by_example.setdefault((job.examples or {}).get(target.id), []).append(target)
    for example, group in by_example.items():
        queries = [Query(target.question, target.is_sentence) for target in group]
        found = segment_image(checkpoint, image, queries, job.protocol, example)
        answers |= {target.id: answer for target, answer in zip(group, found, strict=True)}
    seconds = (time.perf_counter() - started) / len(targets)
    scored = ((target, answers.pop(target.id)) for target in targets)  # pop frees full-size logits
    return [_score(target, answer, seconds, job.instances) for target, answer in scored]


def _score(target: Target, answer: Segmentation, seconds: float, has_instances: bool) -> Item:
    truth = decode_rle(target.target)
    if truth.shape != answer.refined.shape:
        found = answer.refined.shape
        raise DataError(f"{target.image} has size {found}, its mask {truth.shape}", hint="prepare it again")
    ignore = None if target.ignore is None else decode_rle(target.ignore)
    refined, coarse = binarize(answer.refined), binarize(answer.coarse)
    return Item(
        id=target.id,
        image=target.image,
        category=target.category,
        question=target.question,
        is_sentence=target.is_sentence,
        answer=answer.answer,
        well_formed=answer.well_formed,
        overlap=measure_overlap(refined, truth, ignore),
        coarse_overlap=measure_overlap(coarse, truth, ignore),
        mask=encode_rle(refined),
        coarse_mask=encode_rle(coarse),
        target=target.target,
        ignore=target.ignore,
        seconds=seconds,
        confidence=_confidence(refined, answer),
        instances=_split(refined, answer.refined) if has_instances else None,
        target_instances=target.instances,
    )


def _confidence(mask: BoolMask, answer: Segmentation) -> dict[str, float]:
    """Confidences in a mask; none for an answer without one, whose emptiness they do not describe."""
    if not answer.stages:
        return {}
    found = {"score": mask_score(mask, answer.refined), "answer_probability": answer.answer_probability}
    if answer.predicted_iou is not None:
        found["predicted_iou"] = answer.predicted_iou
    return {name: round(value, 4) for name, value in found.items()}


def _split(mask: BoolMask, logits: NDArray[np.float32]) -> tuple[ScoredMask, ...]:
    return tuple(ScoredMask(encode_rle(found.mask), found.score) for found in split_instances(mask, logits))
