"""Answer N questions about one image: obtain the answer text, then run the same forward pass as training.

Both protocols run one teacher-forced pass over the answer template. `generate` compares the argmax of that pass with
the template: if they agree at every position, greedy decoding would have produced the template, so nothing is decoded.
Only answers that differ are decoded token by token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cores_core import prompts
from cores_core.choices import Protocol, read_protocol
from cores_core.errors import CheckpointError
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.cores import CoresModel, TextOutput
from cores_core.model.mllm import VisionOutput
from cores_core.model.processor import Batch, Processor
from cores_core.model.segmenter import Features, upsample_masks
from cores_core.runtime import run_beside
from cores_core.sample import ImageSize, Query, RgbImage, Sample

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
        stages: mask logits of each stage, (1, 1, s, s), on the model's device; empty without the chain tokens.
            Full-resolution masks are computed on first access.
        answer_probability: geometric mean of the probabilities of the answer's tokens, 0-1; 0 if not well-formed.
        rejected: whether the model answered that there is no such thing in the image.
    """

    answer: str
    size: ImageSize
    square: int
    stages: tuple[Tensor, ...]
    answer_probability: float = 0.0
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
        self._vision: VisionOutput | None = None

    @torch.no_grad()
    def ask(self, queries: Sequence[Query], protocol: Protocol, example: str | None = None) -> list[Segmentation]:
        """Answer N questions; the MLLM runs once per 16 of them.

        Args:
            protocol: see `Protocol`. A decoded answer that is not well-formed gives an empty mask.
            example: in-context example; None for the one used in training, "" for none.

        Raises:
            CheckpointError: the model's outputs are not finite numbers.
            ConfigError: there is no such protocol.
        """
        model, processor, protocol = self._checkpoint.model, self._checkpoint.processor, read_protocol(protocol)
        turns = tuple(prompts.render_turn(query, processor.prompt) for query in queries)
        found: list[Segmentation] = []
        for start in range(0, len(turns), QUERIES_AT_ONCE):
            sample = Sample(image=self.image, turns=turns[start : start + QUERIES_AT_ONCE], example=example)
            batch = processor.collate([sample]).to(model.device)
            self._encode = self._encode or cache(run_beside(model.device, partial(model.encode, batch)))
            if self._vision is None and processor.mllm.packs:  # else the image tensors are those of all rows
                self._vision = model.mllm.encode_vision(batch)
            answers = _answer(self._checkpoint, sample, batch, protocol, self._vision)
            found += _draw(self._checkpoint, answers, self._encode)
        return found


def segment_image(
    checkpoint: Checkpoint, image: RgbImage, queries: Sequence[Query], protocol: Protocol, example: str | None = None
) -> list[Segmentation]:
    """Answer N questions about one image, see `ImageSession.ask`."""
    return ImageSession(checkpoint, image).ask(queries, protocol, example)


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


def _answer(
    checkpoint: Checkpoint, sample: Sample, batch: Batch, protocol: Protocol, vision_output: VisionOutput | None
) -> _Answers:
    """Obtain the answers to a sample's questions. `batch` contains the template as each answer."""
    model, processor = checkpoint.model, checkpoint.processor
    ids = [processor.answer_ids(turn) for turn in sample.turns]
    text = _reason(model, batch, vision_output)
    differing = _differing_turns(batch, text) if protocol == "generate" else []
    if not differing:
        return _Answers(ids, list(range(len(ids))), [], batch, text)
    for index, written in zip(differing, _write_answers(checkpoint, sample, differing, vision_output), strict=True):
        ids[index] = written
    chained = [index for index, answer in enumerate(ids) if _has_chain(answer, processor)]
    rejected = [index for index, answer in enumerate(ids) if _is_rejection(answer, processor)]
    answers = _Answers(ids, chained, rejected, batch, text)
    if not answers.formed:
        return answers
    turns = tuple(replace(sample.turns[i], segments=i in chained) for i in answers.formed)
    batch = processor.collate([replace(sample, turns=turns)], answers=[[ids[i] for i in answers.formed]])
    batch = batch.to(model.device)
    return replace(answers, batch=batch, text=_reason(model, batch, vision_output))


def _reason(model: CoresModel, batch: Batch, vision_output: VisionOutput | None) -> TextOutput:
    text = model.reason(batch, vision_output)
    _check_finite("the language model", (text.logits, *text.prompts))
    return text


def _check_finite(part: str, outputs: Sequence[Tensor]) -> None:
    if not all(bool(output.isfinite().all()) for output in outputs):
        hint = "its weights are damaged, or too large for --dtype float16: try float32, or download or train it again"
        raise CheckpointError(f"the outputs of {part} are not finite numbers", hint=hint)


def _differing_turns(batch: Batch, text: TextOutput) -> list[int]:
    """Indices of the turns whose template answer differs from greedy decoding."""
    differing = batch.answer_sequence_ids[text.logits.argmax(dim=-1) != text.labels]
    return sorted({branch - 1 for branch in differing.tolist()})


def _write_answers(
    checkpoint: Checkpoint, sample: Sample, turns: Sequence[int], vision_output: VisionOutput | None
) -> list[list[int]]:
    """Greedily decoded answers to some of a sample's questions."""
    model, processor = checkpoint.model, checkpoint.processor
    asked = tuple(sample.turns[i] for i in turns)
    extra = REASON_TOKENS if processor.prompt.chain_of_thought else EXTRA_TOKENS
    limit = max(len(processor.answer_ids(turn)) for turn in asked) + extra
    written: list[list[int]] = []
    for group in [asked] if processor.mllm.packs else [(turn,) for turn in asked]:
        batch = processor.collate([replace(sample, turns=group)], answers=[[[] for _ in group]]).to(model.device)
        written += model.mllm.generate(batch, processor.mllm.end_id, limit, vision_output)
    return written


def _draw(checkpoint: Checkpoint, answers: _Answers, encode: Callable[[], Features]) -> list[Segmentation]:
    """Decode the masks of the answers. `encode` returns SAM's features of the image."""
    drawn: dict[int, tuple[Tensor, ...]] = {}
    if answers.chained:
        images = torch.zeros(len(answers.chained), dtype=torch.long, device=checkpoint.model.device)
        stages = checkpoint.model.segment(encode(), answers.text.prompts, images)
        _check_finite("the segmenter", stages)
        of_each = zip(*(torch.split(logits, 1) for logits in stages), strict=True)
        drawn = dict(zip(answers.chained, of_each, strict=True))
    size, square = answers.batch.sizes[0], checkpoint.processor.frame.side
    probabilities = dict(zip(answers.formed, _answer_probabilities(answers), strict=True))
    return [
        Segmentation(
            answer=checkpoint.processor.decode(ids),
            size=size,
            square=square,
            stages=drawn.get(index, ()),
            answer_probability=probabilities.get(index, 0.0),
            rejected=index in answers.rejected,
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
