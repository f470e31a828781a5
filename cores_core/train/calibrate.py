"""Fit SAM's IoU head to a model's own masks, and choose the predicted IoU below which an answer is a rejection.

The head is the only part that learns, so the masks of a model stay as they are, and images are only read forward. Its
targets are the IoUs of the masks with those of a prepared data set; a question about something that the image does not
show has the target 0. Source: the loss of SAM's IoU head (arXiv:2304.02643), a squared error. That such a prediction
decides about rejections is not in the papers.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from cores_core.data.store import Store
from cores_core.errors import ConfigError, DataError
from cores_core.evaluate.benchmarks import BENCHMARKS, benchmark_of
from cores_core.evaluate.targets import Target, list_targets
from cores_core.images import load_image
from cores_core.masks import binarize, decode_rle
from cores_core.metrics import measure_overlap
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.inference import QUERIES_AT_ONCE, Segmentation, segment_image
from cores_core.sample import Query

HELD_OUT = 5
"""Every fifth image is not learned from: it chooses the epoch and the threshold, and gives the report."""
EPOCHS, BATCH, LEARNING_RATE = 100, 256, 1e-3


@dataclass(frozen=True)
class CalibrationJob:
    """What to fit on.

    Attributes:
        data_root: the folder of all data sets. data, split: a prepared one, in general what the model was trained on.
        images: maximum number of images, drawn by `seed`.
        no_target: number of further questions of each image about what it does not show.
        keep: share of the IoU of the answers to the other questions that must remain, between 0 and 1.
    """

    data_root: Path
    data: str
    split: str
    images: int = 1000
    no_target: int = 2
    keep: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise ConfigError(f"`keep` must be between 0 and 1: {self.keep}")
        for name in ("images", "no_target"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1: {getattr(self, name)}")


@dataclass(frozen=True)
class Calibrated:
    """A fitted model, and figures of the images that it did not learn from.

    Attributes:
        checkpoint: the model, with `sam.predicts_iou` and the threshold as `chain.reject_below`.
        shown, absent: number of questions about what an image shows, and about what it does not.
        error: mean absolute error of the predicted IoU. error_before: that of the mean IoU as a constant.
        giou, giou_before: mean IoU of the answers about what is shown, with and without rejections.
        n_acc, t_acc: share of absent questions that are rejected, and of the others that are not.
    """

    checkpoint: Checkpoint
    shown: int
    absent: int
    error: float
    error_before: float
    giou: float
    giou_before: float
    n_acc: float
    t_acc: float

    @property
    def threshold(self) -> float:
        """Predicted IoU below which answers are rejected."""
        return self.checkpoint.config.chain.reject_below


@dataclass(frozen=True)
class Answers:
    """States (M, C) in front of the IoU head, IoUs (M,), and which of the M answers are held out or absent."""

    states: Tensor
    ious: Tensor
    held_out: Tensor
    absent: Tensor


def calibrate_rejection(
    checkpoint: Checkpoint, job: CalibrationJob, progress: Callable[[int], None] = lambda done: None
) -> Calibrated:
    """Fit the IoU head of a model in eval mode, in place, with supplied answers (teacher-forced).

    Args:
        progress: called with the number of newly read images.

    Raises:
        DataError: the data is not prepared or cannot be read, or is too small for questions of both kinds.
    """
    scoring = _with_settings(checkpoint, reject_below=0.0)
    answers = collect_answers(scoring, job, progress)
    absent = answers.absent[answers.held_out]
    if absent.all() or not absent.any():
        hint = "use more --images, or a data set with several categories"
        raise DataError(f"too few questions of both kinds in {job.images} images of {job.data} {job.split}", hint=hint)
    head = _head(scoring)
    _fit(head, answers, torch.Generator().manual_seed(job.seed))
    with torch.no_grad():
        predicted = _predict(head, answers.states[answers.held_out].to(checkpoint.model.device)).clamp(0, 1).cpu()
    ious = answers.ious[answers.held_out]
    threshold = _choose_threshold(predicted[~absent], ious[~absent], job.keep)
    is_kept = predicted >= threshold
    return Calibrated(
        checkpoint=_with_settings(checkpoint, reject_below=threshold),
        shown=int((~absent).sum()),
        absent=int(absent.sum()),
        error=float((predicted - ious).abs().mean()),
        error_before=float((answers.ious[~answers.held_out].mean() - ious).abs().mean()),
        giou=float((ious * is_kept)[~absent].mean()),
        giou_before=float(ious[~absent].mean()),
        n_acc=float((~is_kept)[absent].float().mean()),
        t_acc=float(is_kept[~absent].float().mean()),
    )


def _with_settings(checkpoint: Checkpoint, reject_below: float) -> Checkpoint:
    """The model, its IoU head in use and with a threshold for rejections."""
    config = checkpoint.config
    sam, chain = replace(config.sam, predicts_iou=True), replace(config.chain, reject_below=reject_below)
    return replace(checkpoint, config=replace(config, sam=sam, chain=chain))


def _head(checkpoint: Checkpoint) -> nn.Module:
    head = checkpoint.model.segmenter.mask_decoder.iou_prediction_head
    assert isinstance(head, nn.Module)
    return head


def collect_answers(checkpoint: Checkpoint, job: CalibrationJob, progress: Callable[[int], None]) -> Answers:
    """Ask about the images, and keep what the IoU head reads."""
    read: list[Tensor] = []
    states: list[Tensor] = []
    ious: list[float] = []
    held_out: list[bool] = []
    absent: list[bool] = []
    with _head(checkpoint).register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].flatten(0, -2).cpu())):
        for number, targets in enumerate(_draw_targets(job)):
            queries = [Query(target.question, target.is_sentence) for target in targets]
            image = load_image(job.data_root / targets[0].image)
            for target, answer in zip(
                targets, segment_image(checkpoint, image, queries, "teacher_forced"), strict=True
            ):
                absent.append(target.is_absent)
                ious.append(_iou(target, answer))
                held_out.append(number % HELD_OUT == 0)
            states.append(
                torch.cat(read)[-len(targets) :].float()
            )  # SAM 2 and 3 also score the masks of earlier stages
            read.clear()
            progress(1)
    if not states:
        raise DataError(f"no questions in {job.data} {job.split}", hint="choose another --data or --split")
    return Answers(torch.cat(states), torch.tensor(ious), torch.tensor(held_out), torch.tensor(absent))


def _draw_targets(job: CalibrationJob) -> Iterator[list[Target]]:
    """The questions about each image; at most as many as one forward pass answers."""
    store, benchmark = Store(job.data_root, job.data, job.split), BENCHMARKS[benchmark_of(job.data)]
    order = np.random.default_rng(job.seed).permutation(len(store))[: job.images]
    for index in order.tolist():
        targets = list_targets(store, index, benchmark, job.no_target)[-QUERIES_AT_ONCE:]
        if targets:
            yield targets


def _iou(target: Target, answer: Segmentation) -> float:
    if target.is_absent:
        return 0.0
    ignore = None if target.ignore is None else decode_rle(target.ignore)
    return measure_overlap(binarize(answer.refined), decode_rle(target.target), ignore).iou


def _fit(head: nn.Module, answers: Answers, generator: torch.Generator) -> None:
    """Train the head on the answers that are not held out; the weights are those of its best epoch on the others."""
    device = next(head.parameters()).device
    learned, held_out = (
        (answers.states[chosen].to(device), answers.ious[chosen].to(device))
        for chosen in (~answers.held_out, answers.held_out)
    )
    optimizer = torch.optim.Adam(head.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    best, weights = math.inf, copy.deepcopy(head.state_dict())
    for _ in range(EPOCHS):
        order = torch.randperm(len(learned[0]), generator=generator)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            optimizer.zero_grad()
            torch.autograd.backward(mse_loss(_predict(head, learned[0][chosen]), learned[1][chosen]))
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            error = float(mse_loss(_predict(head, held_out[0]), held_out[1]))
        if error < best:
            best, weights = error, copy.deepcopy(head.state_dict())
    head.load_state_dict(weights)


def _choose_threshold(predicted: Tensor, ious: Tensor, keep: float) -> float:
    """The highest threshold, to three decimals, above which a share of `keep` of the sum of IoUs remains."""
    order = predicted.argsort()
    lost = ious[order].double().cumsum(0)
    first = int((lost <= (1 - keep) * lost[-1]).sum())  # the first answer that must remain
    return math.floor(1000 * float(predicted[order[min(first, len(order) - 1)]])) / 1000


def _predict(head: nn.Module, states: Tensor) -> Tensor:
    """The IoU that the head predicts for the single mask from its states (M, C), (M,)."""
    predicted: Tensor = head(states)[:, 0]
    return predicted
