"""Ask a model everything that a benchmark asks, one row a query; in several processes, and from where it was cut off.

A CPU process computes with one thread and asks the questions of an image in fixed groups, so that scores do not depend
on how many processes there are, on where a run was cut off, or on how far it reads ahead.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from cores_core.data.store import Store
from cores_core.errors import DataError
from cores_core.evaluate.benchmarks import BENCHMARKS, Benchmark, list_targets
from cores_core.evaluate.items import Item, item_row, parse_item
from cores_core.evaluate.results import Evaluation
from cores_core.evaluate.targets import Target
from cores_core.images import load_image
from cores_core.journal import Journal
from cores_core.masks import binarize, decode_rle, encode_rle
from cores_core.metrics import measure_overlap
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.inference import Protocol, Segmentation, segment_image
from cores_core.model.source import ModelSource
from cores_core.pool import Progress, run_shares
from cores_core.runtime import Group, read_ahead
from cores_core.sample import Query, RgbImage


@dataclass(frozen=True)
class EvalJob:
    """What to ask, of which data.

    Attributes:
        benchmark: a name in `BENCHMARKS`.
        data_root: the folder of all data sets. data: data set and split of each part.
        protocol: how the answer comes about.
        limit: only the first so many images of each part; None for all.
        examples: the in-context example of questions by their id, where it is not the model's own ("" for none).
        read_ahead: images that are read while the model is busy; without influence on any score.
    """

    benchmark: str
    data_root: Path
    data: tuple[tuple[str, str], ...]
    protocol: Protocol
    limit: int | None = None
    examples: Mapping[str, str] | None = None
    read_ahead: int = 4

    @property
    def plan(self) -> Benchmark:
        """The benchmark."""
        return BENCHMARKS[self.benchmark]

    def stores(self) -> list[Store]:
        """The prepared data.

        Raises:
            DataError: a part is not prepared.
        """
        return [Store(self.data_root, name, split) for name, split in self.data]


_Place = tuple[int, int]
"""An image: the number of its store, and its own."""


def list_places(job: EvalJob) -> list[_Place]:
    """All images of a job, in order."""
    sizes = [len(store) if job.limit is None else min(job.limit, len(store)) for store in job.stores()]
    return [(number, index) for number, size in enumerate(sizes) for index in range(size)]


def list_all_targets(job: EvalJob) -> list[Target]:
    """All that a job asks, in order."""
    stores = job.stores()
    return [target for place in list_places(job) for target in _targets_at(job, stores, place)]


def evaluate(
    checkpoint: Checkpoint, job: EvalJob, progress: Progress | None = None, group: Group | None = None
) -> Evaluation:
    """Evaluate a loaded model and keep nothing on disk.

    Args:
        group: processes that share the images and all get the whole evaluation; None if this one is alone.
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
    """Evaluate a model in as many processes as devices are named, and keep every finished image in `folder`.

    Args:
        devices: one for each process; a CPU may be named several times.

    Raises:
        CoresError: the model, the data or a device is not there, or a process died; what is done is kept.
    """
    places, journal = list_places(job), Journal(folder)
    journal.begin(_identify(source, job))
    targets = {place: _targets_at(job, stores, place) for stores in (job.stores(),) for place in places}
    done = _read_items(journal)
    waiting = [place for place in places if any(target.id not in done for target in targets[place])]
    progress(sum(target.id in done for found in targets.values() for target in found))
    if len(devices) == 1 or len(waiting) <= 1:
        _work(replace(source, device=devices[0]), job, waiting, folder, progress)
    else:
        shares = [
            partial(_work, replace(source, device=device), job, waiting[rank :: len(devices)], folder, _no_progress)
            for rank, device in enumerate(devices)
        ]
        run_shares(shares, journal, progress)
    rows = _read_items(journal)
    return tuple(rows[target.id] for place in places for target in targets[place])


def _identify(source: ModelSource, job: EvalJob) -> Mapping[str, Any]:
    """All that rows depend on."""
    model = {
        "model": source.name,
        "dtype": source.dtype,
        "load_in": source.load_in,
        "conversation": source.conversation,
    }
    asked = {"benchmark": job.benchmark, "data": [list(pair) for pair in job.data], "protocol": job.protocol}
    return model | asked | {"data_root": str(job.data_root.resolve()), "examples": job.examples}


def _read_items(journal: Journal) -> dict[str, Item]:
    """The items of a journal by their id; damaged rows are left out."""
    found = {}
    for row in journal.read():
        with suppress(DataError):
            item = parse_item(row)
            found[item.id] = item
    return found


def _work(source: ModelSource, job: EvalJob, places: list[_Place], folder: Path, progress: Progress) -> None:
    if not places:
        return
    checkpoint, journal = source.load(), Journal(folder)
    if checkpoint.model.device.type == "cpu":
        torch.set_num_threads(1)
    for items in _ask_all(checkpoint, job, places, progress):
        journal.add([item_row(item) for item in items])


def _no_progress(_: int) -> None:
    """Progress of worker processes is read from the journal."""


def _ask_all(
    checkpoint: Checkpoint, job: EvalJob, places: Sequence[_Place], progress: Progress | None
) -> Iterator[list[Item]]:
    """The items of one image after another."""
    stores, was_training = job.stores(), checkpoint.model.training
    checkpoint.model.eval()
    asked = ((found, stores[place[0]].data_root) for place in places if (found := _targets_at(job, stores, place)))
    try:
        for (targets, _), image in read_ahead(asked, _load_image, job.read_ahead):
            yield _ask(checkpoint, job, targets, image)
            if progress is not None:
                progress(len(targets))
    finally:
        checkpoint.model.train(was_training)


def _load_image(asked: tuple[list[Target], Path]) -> RgbImage:
    targets, root = asked
    return load_image(root / targets[0].image)


def _targets_at(job: EvalJob, stores: list[Store], place: _Place) -> list[Target]:
    return list_targets(stores[place[0]], place[1], job.plan)


def _ask(checkpoint: Checkpoint, job: EvalJob, targets: list[Target], image: RgbImage) -> list[Item]:
    """Ask all questions about one image, those with the same in-context example together."""
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
    return [_score(target, answers.pop(target.id), seconds) for target in targets]  # each has full-size logits then


def _score(target: Target, answer: Segmentation, seconds: float) -> Item:
    truth = decode_rle(target.target)
    if truth.shape != answer.refined.shape:
        raise DataError(f"{target.image} is {answer.refined.shape}, its mask {truth.shape}", hint="prepare it again")
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
    )
