"""Steps of a training: their data, and forward, backward and update of one."""

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cores_core.config import Config
from cores_core.data.mixture import Mixture
from cores_core.errors import CoresError, DataError, LaunchError, LossError, reason_of
from cores_core.model.cores import CoresModel
from cores_core.model.losses import Counts, count_terms
from cores_core.model.processor import Batch, Processor, Tokens
from cores_core.runtime import Group
from cores_core.sample import Sample
from cores_core.signals import ignore_stop_signals
from cores_core.train.engine import Engine
from cores_core.train.recipe import Objective, Recipe
from cores_core.train.shared_memory import MORE_ROOM, count_bytes, wait_for_room

ATTEMPTS, DETOUR = 5, 1_000_003
"""Maximum number of samples tried in place of an unusable one, and the stride between them."""
_WORKER_DIED = re.compile(r"DataLoader worker|shared memory|unable to (?:open|resize|write)")
"""Parts of torch's RuntimeErrors about workers that have died or cannot pass on their data."""


@dataclass(frozen=True)
class StepReport:
    """Metrics of one finished step: number (from 1), losses (0 if unused) and time in seconds.

    `extras` are losses beside the paper's, by name; `skipped` counts samples of this step that could not be used.
    """

    step: int
    loss: float
    text: float
    bce: float
    dice: float
    extras: Mapping[str, float]
    gradient_norm: float
    learning_rate: float
    seconds: float
    skipped: int = 0

    def row(self) -> dict[str, float]:
        """All of it by name, the losses in `extras` under their own names."""
        named = {name: value if name == "extras" else {name: value} for name, value in asdict(self).items()}
        return {name: value for part in named.values() for name, value in part.items()}


@dataclass(frozen=True)
class StepData:
    """One rank's share of a step: its batches, and the reasons of skipped samples."""

    batches: list[Batch]
    skipped: list[str]

    def pin_memory(self) -> "StepData":
        """Copy the batches to pinned memory. Called by torch's DataLoader."""
        return replace(self, batches=[batch.pin_memory() for batch in self.batches])


class Steps(Dataset[StepData]):
    """Data set of steps from `first` on; each item is a pure function of its step number.

    Of the images of a step (`Recipe.images_of`), rank r of n takes the r-th and every n-th after it. An image that
    cannot be used is replaced by another, which is a function of its position, too.
    """

    def __init__(self, mixture: Mixture, processor: Processor, recipe: Recipe, first: int, group: Group) -> None:
        self._mixture = mixture
        self._processor = processor
        self._recipe = recipe
        self._first = first
        self._group = group

    def __len__(self) -> int:
        return max(self._recipe.config.train.steps - self._first, 0)

    def __getitem__(self, index: int) -> StepData:
        step = self._first + index
        images = self._recipe.images_of(step)
        mine = range(images.first + self._group.rank, images.first + images.count, self._group.size)
        skipped: list[str] = []
        samples, rows = zip(*[self._draw(position, images.queries, skipped) for position in mine], strict=True)
        size = images.at_once or len(samples)
        pieces = [slice(begin, begin + size) for begin in range(0, len(samples), size)]
        collate = partial(self._recipe.collate, self._processor, step)
        return StepData([collate(samples[piece], rows[piece]) for piece in pieces], skipped)

    def _draw(self, position: int, queries: int, skipped: list[str]) -> tuple[Sample, list[Tokens]]:
        """The sample at a position, or a replacement if it is unusable, and its token rows.

        Raises:
            DataError: `ATTEMPTS` samples in a row are unusable.
        """
        for attempt in range(ATTEMPTS):
            try:
                sample = self._mixture.draw(position + attempt * DETOUR, queries)
                tokens = self._processor.tokenize(sample)
            except DataError as error:
                skipped.append(error.message)
            else:
                return sample, tokens
        hint = "the data set has changed since it was prepared: prepare it again"
        raise DataError(f"{ATTEMPTS} samples in a row cannot be used, the last: {skipped[-1]}", hint=hint)


def load_batches(steps: Steps, workers: int, pin: bool) -> Iterator[StepData]:
    """Iterate over the batches of each step, prefetched by `workers` processes (0: none).

    Args:
        pin: copy batches to pinned memory, for training on a GPU.

    Raises:
        LaunchError: a worker cannot be started, or has died; usually for lack of shared memory.
    """
    options: dict[str, Any] = {"num_workers": workers, "pin_memory": pin}
    if workers:
        options |= {"worker_init_fn": _start_worker, "prefetch_factor": 4}
    own = torch.Generator()  # the loader draws a seed; its own generator leaves the global one unchanged
    try:
        for data in DataLoader(_Guarded(steps, workers), batch_size=None, generator=own, **options):
            if isinstance(data, CoresError):
                raise data
            yield data
    except (OSError, RuntimeError) as error:
        if not workers or (isinstance(error, RuntimeError) and not _WORKER_DIED.search(str(error))):
            raise
        raise LaunchError(f"a worker process that reads data has died ({reason_of(error)})", hint=MORE_ROOM) from error


class _Guarded(Dataset[StepData | CoresError]):
    """Steps as workers read them: errors are returned, and a step waits until it fits into the shared memory.

    A worker that finds no room in shared memory drops its step without an error, and the training would wait for ever.
    """

    def __init__(self, steps: Steps, workers: int) -> None:
        self._steps = steps
        self._workers = workers

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> StepData | CoresError:
        try:
            data = self._steps[index]
            if self._workers:
                wait_for_room(self._workers * count_bytes(data.batches))
            return data
        except CoresError as error:
            return error


@dataclass(frozen=True)
class Learner:
    """Model, losses and engine of a training."""

    model: CoresModel
    objective: Objective
    engine: Engine


def train_step(learner: Learner, data: StepData, config: Config) -> StepReport:
    """Forward and backward of each batch, then one optimiser step.

    Args:
        data: this rank's share of the step.

    Raises:
        LossError: the loss is not a number; nothing is updated.
    """
    engine, started, rate = learner.engine, time.perf_counter(), learner.engine.learning_rate
    device, step = learner.model.device, engine.steps
    counts, skipped = _count_step(data, engine)
    terms: dict[str, Tensor] = {}

    def compute(batch: Batch) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
            losses = learner.objective(learner.model, batch.to(device), step, counts)
        for name, term in losses.terms().items():
            terms[name] = terms[name] + term if name in terms else term
        total: Tensor = losses.total
        return total

    for batch in data.batches:
        engine.differentiate(partial(compute, batch))
    sums = dict(zip(terms, engine.sum(torch.stack(list(terms.values()))).tolist(), strict=True))
    if not math.isfinite(sums["loss"]):
        raise LossError(f"the loss is {sums['loss']}", hint="lower `train.learning_rate`, then continue with --resume")
    norm = engine.step()
    return StepReport(
        step=engine.steps,
        **{name: sums.pop(name) for name in ("loss", "text", "bce", "dice")},
        extras=sums,
        gradient_norm=norm,
        learning_rate=rate,
        seconds=time.perf_counter() - started,
        skipped=skipped,
    )


def _count_step(data: StepData, engine: Engine) -> tuple[Counts, int]:
    """Loss divisors and number of skipped samples of a step, summed over all ranks."""
    own = [count_terms(batch) for batch in data.batches]
    sums = (sum(c.tokens for c in own), sum(c.masks for c in own), len(own), len(data.skipped))
    tokens, masks, batches, skipped = engine.sum(torch.tensor(sums).double()).tolist()
    return Counts(int(tokens), int(masks), int(batches)), int(skipped)


def _start_worker(worker: int) -> None:
    ignore_stop_signals()
    torch.set_num_threads(1)
