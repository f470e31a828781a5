"""The training loop: batches in order, one step each, and what is said and saved on the way."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cores_core.config import Config, LossWeights, TrainConfig
from cores_core.data.mixture import Mixture
from cores_core.errors import DataError, LossError
from cores_core.evaluate.results import Evaluation
from cores_core.model.cores import CoresModel
from cores_core.model.losses import Counts, Losses, compute_losses, count_terms, mask_losses, text_loss
from cores_core.model.processor import Batch, Processor, Tokens
from cores_core.runtime import Group
from cores_core.sample import Sample
from cores_core.signals import ignore_stop_signals
from cores_core.train.concepts import ConceptHead
from cores_core.train.engine import Engine

ATTEMPTS, DETOUR = 5, 1_000_003
"""How many samples are tried in place of one that cannot be used, and how far apart they are."""


@dataclass(frozen=True)
class StepReport:
    """One finished step: its number (from 1), its losses (0 where they have no part in it) and its pace.

    `skipped` counts samples of this step that could not be used.
    """

    step: int
    loss: float
    text: float
    bce: float
    dice: float
    concept: float
    gradient_norm: float
    learning_rate: float
    seconds: float
    skipped: int = 0


class Reporter(Protocol):
    """Who listens to a run. All methods are called from the training process, between steps."""

    def on_start(self, first_step: int, steps: int) -> None:
        """Training begins, or continues, after `first_step` steps."""

    def on_changes(self, changes: Sequence[str]) -> None:
        """The run is resumed with other settings or data; `changes` is not empty."""

    def on_step(self, report: StepReport) -> None:
        """A step is done."""

    def on_validation(self, step: int, result: Evaluation) -> None:
        """The model was scored."""

    def on_save(self, step: int, folder: str) -> None:
        """A checkpoint is on disk."""

    def on_death(self, message: str) -> None:
        """Another process died, and this one ends at once."""

    def should_stop(self) -> bool:
        """Whether to save and stop after this step."""


@dataclass(frozen=True)
class StepData:
    """One process's share of a step: its batches, and what could not be used, with the reason."""

    batches: list[Batch]
    skipped: list[str]

    def pin_memory(self) -> "StepData":
        """The same share, its batches pinned."""
        return replace(self, batches=[batch.pin_memory() for batch in self.batches])


class Steps(Dataset[StepData]):
    """The batches of the steps from `first` on; each is a pure function of its number.

    Every process of a group takes every so-many-th image of a step, `images_at_once` in a batch. An image that cannot
    be used gives its place to another, which is a function of its position, too.
    """

    def __init__(self, mixture: Mixture, processor: Processor, config: TrainConfig, first: int, group: Group) -> None:
        self._mixture = mixture
        self._processor = processor
        self._config = config
        self._first = first
        self._group = group

    def __len__(self) -> int:
        return max(self._config.steps - self._first, 0)

    def __getitem__(self, index: int) -> StepData:
        step, pretrain = self._first + index, self._config.pretrain_steps
        start = min(step, pretrain) * self._config.pretrain_images
        start += max(step - pretrain, 0) * self._config.images_per_step
        images = self._config.pretrain_images if step < pretrain else self._config.images_per_step
        mine = range(start + self._group.rank, start + images, self._group.size)
        queries = self._config.pretrain_queries if step < pretrain else self._config.queries_per_image
        skipped: list[str] = []
        samples, rows = zip(*[self._draw(position, queries, skipped) for position in mine], strict=True)
        if step < pretrain:
            return StepData([self._processor.collate_pictures(samples)], skipped)
        size = self._config.images_at_once or len(samples)
        pieces = [slice(begin, begin + size) for begin in range(0, len(samples), size)]
        return StepData([self._processor.collate_tokenized(samples[piece], rows[piece]) for piece in pieces], skipped)

    def _draw(self, position: int, queries: int, skipped: list[str]) -> tuple[Sample, list[Tokens]]:
        """The sample at a position, or at one far behind it, and its tokens.

        Raises:
            DataError: none of several can be used.
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
    """The batches of each step in order, made ahead of time by `workers` processes (0: in this one).

    Args:
        pin: put them into pinned memory, for a model on a GPU.
    """
    options: dict[str, Any] = {"num_workers": workers, "pin_memory": pin}
    if workers:
        options |= {"worker_init_fn": _start_worker, "prefetch_factor": 4}
    own = torch.Generator()  # a loader draws a seed, but not from the generator that everybody shares
    return iter(DataLoader(steps, batch_size=None, generator=own, **options))


@dataclass(frozen=True)
class Learner:
    """What learns: the model, and with `loss.concept` the prototypes that stand in for pretraining."""

    model: CoresModel
    concepts: ConceptHead | None
    engine: Engine


def train_step(learner: Learner, data: StepData, config: Config) -> StepReport:
    """Forward, losses and backward of each batch, then one update.

    Args:
        data: this process's share of the step.

    Raises:
        LossError: the loss is not a number; nothing is updated.
    """
    engine, started, rate = learner.engine, time.perf_counter(), learner.engine.learning_rate
    device = learner.model.device
    mine, sizes = [count_terms(batch) for batch in data.batches], (len(data.batches), len(data.skipped))
    sums = torch.tensor([sum(c.tokens for c in mine), sum(c.masks for c in mine), *sizes], device=device)
    tokens, masks, parts, skipped = engine.sum(sums.double()).tolist()
    counts, terms = Counts(int(tokens), int(masks)), torch.zeros(5, device=device)

    def compute(batch: Batch) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
            losses, concept = _losses_of_phase(learner, batch.to(device), config, counts)
        concept = concept / parts
        total: Tensor = losses.total + config.loss.concept * concept
        found = (total, losses.text, losses.bce, losses.dice, concept)
        terms.add_(torch.stack([part.detach() for part in found]))
        return total

    for batch in data.batches:
        engine.differentiate(partial(compute, batch))
    loss, text, bce, dice, concept_loss = engine.sum(terms).tolist()
    if not math.isfinite(loss):
        raise LossError(f"the loss is {loss}", hint="lower `train.learning_rate`, then continue with --resume")
    norm = engine.step()
    return StepReport(
        step=engine.steps,
        loss=loss,
        text=text,
        bce=bce,
        dice=dice,
        concept=concept_loss,
        gradient_norm=norm,
        learning_rate=rate,
        seconds=time.perf_counter() - started,
        skipped=int(skipped),
    )


def _losses_of_phase(learner: Learner, batch: Batch, config: Config, counts: Counts) -> tuple[Losses, Tensor]:
    """The losses that count in this step, and the concept loss (0 without it)."""
    model, concepts, step, train = learner.model, learner.concepts, learner.engine.steps, config.train
    none = torch.zeros((), device=model.device)
    if concepts is not None and step < train.pretrain_steps:
        return _sam_losses(model, concepts, batch, config.loss, counts)
    if concepts is not None and step < train.pretrain_steps + train.align_steps:
        text = model.reason(batch)
        loss = text_loss(text, counts.tokens)
        return Losses(config.loss.text * loss, loss, none, none), concepts.prompt_loss(text, batch)
    output = model(batch)
    losses = compute_losses(output, batch, model.segmenter, config.loss, counts, config.chain.c1_supervision)
    return losses, none if concepts is None else concepts(output, batch)


def _sam_losses(
    model: CoresModel, concepts: ConceptHead, batch: Batch, weights: LossWeights, counts: Counts
) -> tuple[Losses, Tensor]:
    """The losses of SAM alone, prompted by prototypes, and the concept loss of its pixels."""
    features = model.segmenter.encode(batch.sam_pixels)
    prompts = (concepts.prompts(batch),) * len(model.chain_ids)
    masks = model.segment(tuple(level[batch.image_index] for level in features), prompts)[-1]
    bce, dice = mask_losses(masks, batch, model.segmenter, counts.masks)
    total = weights.mask * (weights.bce * bce + weights.dice * dice)
    return Losses(total, torch.zeros_like(total), bce, dice), concepts.pixel_loss(features[-1], batch)


def _start_worker(worker: int) -> None:
    ignore_stop_signals()
    torch.set_num_threads(1)
