"""Answer N questions about one image: obtain the answer text, then run the same forward pass as training.

Both protocols run one teacher-forced pass over the answer template. `generate` compares the argmax of that pass with
the template: if they agree at every position, greedy decoding would have produced the template, so nothing is decoded.
Only answers that differ are decoded token by token. The prefix that all questions share is read in the first pass; its
keys and values serve all later ones.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cores_core import prompts
from cores_core.choices import Protocol, read_protocol
from cores_core.errors import CheckpointError
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.cores import TextOutput
from cores_core.model.mllm import PrefixCache
from cores_core.model.processor import Batch, Processor
from cores_core.model.segmenter import Features, upsample_masks
from cores_core.runtime import run_beside
from cores_core.sample import ImageSize, Query, RgbImage, Sample, Turn

QUERIES_AT_ONCE = 16
"""Questions per forward pass, to bound memory. A constant, so that masks do not depend on any setting."""
EXTRA_TOKENS, REASON_TOKENS = 8, 64
"""Limit on the tokens that a decoded answer may have beyond the template, without and with a reasoning text."""
NO_MASK = -100.0
"""Logit of all pixels when the answer is a rejection or not well-formed."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Answer to one question about an image of H x W pixels.

    Attributes:
        answer: the answer text.
        size: of the image; `square` is the side of SAM's input.
        stages: mask logits of each stage, (1, 1, s, s), on the model's device; empty without the chain tokens, and
            of a rejection. Full-resolution masks are computed on first access.
        answer_probability: geometric mean of the probabilities of the answer's tokens, 0-1; 0 if not well-formed.
        predicted_iou: SAM's prediction of the IoU of the final mask with the object, 0-1; None if SAM's head for it was
            never trained, or without the chain tokens.
        rejected: whether there is no such thing in the image: by the answer's text, or because the predicted IoU is
            below `chain.reject_below`.
    """

    answer: str
    size: ImageSize
    square: int
    stages: tuple[Tensor, ...] = field(repr=False)
    answer_probability: float = 0.0
    predicted_iou: float | None = None
    rejected: bool = False

    @property
    def well_formed(self) -> bool:
        """Whether the answer contains the chain tokens once each and in order, or is a rejection."""
        return self.rejected or bool(self.stages)

    @cached_property
    def coarse(self) -> NDArray[np.float32]:
        """(H, W) logits of the coarse mask C1 at image resolution."""
        return self._pixels(0)

    @cached_property
    def refined(self) -> NDArray[np.float32]:
        """(H, W) logits of the final mask C2 at image resolution; equal to `coarse` for a chain of one stage."""
        return self._pixels(-1)

    def _pixels(self, stage: int) -> NDArray[np.float32]:
        if not self.stages:
            return np.full(self.size.original_hw, NO_MASK, dtype=np.float32)
        logits = upsample_masks(self.stages[stage], self.size, self.square)[0]
        pixels: NDArray[np.float32] = logits.float().cpu().numpy()
        return pixels


class ImageSession:
    """One image to which questions are asked, at once or one after another. Both encoders run once."""

    def __init__(self, checkpoint: Checkpoint, image: RgbImage) -> None:
        """Begin with a model in eval mode and an image, (H, W, 3) uint8 RGB; nothing is computed yet."""
        self.image = image
        self._checkpoint = checkpoint
        self._encode: Callable[[], Features] | None = None
        self._context: _ImageContext | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the image, its tensors, and the kept keys and values; SAM's features (about 4 MB) not included."""
        return self.image.nbytes + (self._context.nbytes if self._context is not None else 0)

    @torch.no_grad()
    def ask(self, queries: Sequence[Query], protocol: Protocol, example: str | None = None) -> list[Segmentation]:
        """Answer N questions; the MLLM runs once per 16 of them, and reads what they share at the first call only.

        Args:
            protocol: see `Protocol`. A decoded answer that is not well-formed gives an empty mask.
            example: in-context example; None for the one used in training, "" for none.

        Raises:
            CheckpointError: the model's outputs are not finite numbers.
            ConfigError: there is no such protocol.
        """
        model, protocol = self._checkpoint.model, read_protocol(protocol)
        if self._context is None or self._context.sample.example != example:
            self._context = _ImageContext(self._checkpoint, Sample(image=self.image, turns=(), example=example))
        image = self._context.image
        self._encode = self._encode or cache(run_beside(model.device, partial(model.encode, image)))
        turns = tuple(prompts.render_turn(query, self._checkpoint.processor.prompt) for query in queries)
        found: list[Segmentation] = []
        for start in range(0, len(turns), QUERIES_AT_ONCE):
            answers = _answer(self._context, turns[start : start + QUERIES_AT_ONCE], protocol)
            found += _draw(self._checkpoint, answers, image.sizes[0], self._encode)
        return found


def segment_image(
    checkpoint: Checkpoint, image: RgbImage, queries: Sequence[Query], protocol: Protocol, example: str | None = None
) -> list[Segmentation]:
    """Answer N questions about one image, see `ImageSession.ask`."""
    return ImageSession(checkpoint, image).ask(queries, protocol, example)


class _ImageContext:
    """An image with its in-context example: prompt, image tensors, and the MLLM's keys and values, each made once."""

    def __init__(self, checkpoint: Checkpoint, sample: Sample) -> None:
        """Prepare a sample without turns."""
        self.processor, self._model, self.sample = checkpoint.processor, checkpoint.model, sample
        mllm = self.processor.mllm
        self._prefix = mllm.prefix(sample)
        self._kept = PrefixCache() if mllm.packs else None
        vision = mllm.vision([sample], [self._prefix])
        self.image = replace(self.processor.collate_images([sample]), vision=vision).to(self._model.device)
        """Batch of the image alone, without tokens, on the model's device."""

    @property
    def nbytes(self) -> int:
        """Bytes of the image tensors and of the keys and values."""
        tensors = (self.image.sam_pixels, *self.image.vision.values())
        return sum(tensor.nbytes for tensor in tensors) + (self._kept.nbytes if self._kept is not None else 0)

    def collate(self, turns: tuple[Turn, ...], answers: Sequence[Sequence[int]] | None = None) -> Batch:
        """Make a batch of turns about the image; `answers` as in `Processor.collate`."""
        sample = replace(self.sample, turns=turns)
        rows = self.processor.tokenize(sample, answers, self._prefix)
        return self.processor.collate_turns(self.image, sample, rows).to(self._model.device)

    def reason(self, batch: Batch) -> TextOutput:
        """Run the language model on a batch of `collate`."""
        text = self._model.reason(batch, self._kept)
        _check_finite("the language model", (text.logits, *text.prompts))
        return text

    def decode_answers(self, turns: tuple[Turn, ...]) -> list[list[int]]:
        """Greedily decoded answers to turns."""
        extra = REASON_TOKENS if self.processor.prompt.chain_of_thought else EXTRA_TOKENS
        limit = max(len(self.processor.answer_ids(turn)) for turn in turns) + extra
        end_id, written = self.processor.mllm.end_id, list[list[int]]()
        for group in [turns] if self._kept is not None else [(turn,) for turn in turns]:
            batch = self.collate(group, [[] for _ in group])
            written += self._model.mllm.generate(batch, end_id, limit, self._kept)
        return written


@dataclass(frozen=True)
class _Answers:
    """Answer ids of each turn, and the model output for the well-formed ones.

    `chained` are the indices of the turns whose answer has the chain tokens, `rejected` of those whose answer is a
    rejection. `text` is undefined if there are neither.
    """

    ids: list[list[int]]
    chained: list[int]
    rejected: list[int]
    batch: Batch
    text: TextOutput

    @property
    def formed(self) -> list[int]:
        """Indices of the turns in `text`, in its order."""
        return sorted((*self.chained, *self.rejected))


def _answer(context: _ImageContext, turns: tuple[Turn, ...], protocol: Protocol) -> _Answers:
    """Obtain the answers of turns, each of which has the template as its answer."""
    processor = context.processor
    ids = [processor.answer_ids(turn) for turn in turns]
    batch = context.collate(turns, ids)
    text = context.reason(batch)
    differing = _differing_turns(batch, text) if protocol == "generate" else []
    if not differing:
        return _Answers(ids, list(range(len(ids))), [], batch, text)
    for index, decoded in zip(differing, context.decode_answers(tuple(turns[i] for i in differing)), strict=True):
        ids[index] = decoded
    chained = [index for index, answer in enumerate(ids) if _has_chain(answer, processor)]
    rejected = [index for index, answer in enumerate(ids) if _is_rejection(answer, processor)]
    answers = _Answers(ids, chained, rejected, batch, text)
    if not answers.formed:
        return answers
    formed = tuple(replace(turns[i], segments=i in chained) for i in answers.formed)
    batch = context.collate(formed, [ids[i] for i in answers.formed])
    return replace(answers, batch=batch, text=context.reason(batch))


def _check_finite(part: str, outputs: Sequence[Tensor]) -> None:
    ends = [sum(output.aminmax()) for output in outputs if output.numel()]  # NaN passes on; no copy of the outputs
    if not all(map(math.isfinite, ends)):
        hint = "its weights are damaged, or too large for --dtype float16: try float32, or download or train it again"
        raise CheckpointError(f"the outputs of {part} are not finite numbers", hint=hint)


def _differing_turns(batch: Batch, text: TextOutput) -> list[int]:
    """Indices of the turns whose template answer differs from greedy decoding."""
    differing = batch.answer_sequence_ids[text.logits.argmax(dim=-1) != text.labels]
    return sorted({branch - 1 for branch in differing.tolist()})


def _draw(
    checkpoint: Checkpoint, answers: _Answers, size: ImageSize, encode: Callable[[], Features]
) -> list[Segmentation]:
    """Decode the masks of the answers. `encode` returns SAM's features of the image."""
    drawn: dict[int, tuple[Tensor, ...]] = {}
    ious: dict[int, float] = {}
    if answers.chained:
        model, inputs = checkpoint.model, (encode(), answers.text.prompts, answers.batch.image_index)
        if checkpoint.predicts_iou:
            stages, predicted = model.segment_scored(*inputs)
            ious = dict(zip(answers.chained, predicted.clamp(0, 1).tolist(), strict=True))
        else:
            stages = model.segment(*inputs)
        _check_finite("the segmenter", stages)
        of_each = zip(*(torch.split(logits, 1) for logits in stages), strict=True)
        drawn = dict(zip(answers.chained, of_each, strict=True))
    rejected = {*answers.rejected, *(i for i, iou in ious.items() if iou < checkpoint.config.chain.reject_below)}
    probabilities = dict(zip(answers.formed, _answer_probabilities(answers), strict=True))
    return [
        Segmentation(
            answer=checkpoint.processor.decode(ids),
            size=size,
            square=checkpoint.processor.frame.side,
            stages=() if index in rejected else drawn.get(index, ()),
            answer_probability=probabilities.get(index, 0.0),
            predicted_iou=ious.get(index),
            rejected=index in rejected,
        )
        for index, ids in enumerate(answers.ids)
    ]


def _answer_probabilities(answers: _Answers) -> list[float]:
    """Of each well-formed answer, in order, the geometric mean of its tokens' probabilities."""
    if not answers.formed:
        return []
    turns = answers.batch.answer_sequence_ids - 1
    tokens = answers.text.logits.log_softmax(dim=-1).gather(1, answers.text.labels[:, None])[:, 0]
    sums = tokens.new_zeros(len(answers.formed)).index_add(0, turns, tokens)
    probabilities: list[float] = (sums / turns.bincount(minlength=len(sums))).exp().tolist()
    return probabilities


def _has_chain(ids: list[int], processor: Processor) -> bool:
    """Whether the ids contain the chain tokens once each and in order."""
    return [token for token in ids if token in processor.chain_ids] == list(processor.chain_ids)


def _is_rejection(ids: list[int], processor: Processor) -> bool:
    return processor.prompt.rejects and processor.decode(ids) == prompts.REJECTION
