"""Ask one image N questions: let the model answer (or give it the answer), then run the forward that training runs.

The template is put into the model's mouth in either protocol. In `generated` its own next words are read at every place
of that one forward: where they are the template's all along, the template is what it would have written, and nothing is
written again. Only what differs is written token by token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cores_core import prompts
from cores_core.choices import Protocol
from cores_core.errors import CheckpointError
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.cores import CoresModel, TextOutput
from cores_core.model.processor import Batch, Processor
from cores_core.model.segmenter import Features, upsample_masks
from cores_core.runtime import run_beside
from cores_core.sample import ImageSize, Query, RgbImage, Sample

QUERIES_AT_ONCE = 16
"""Questions of one image that are read together, to bound memory. Fixed, so that no setting moves a pixel of a mask."""
EXTRA_TOKENS, REASON_TOKENS = 8, 64
"""How many tokens a written answer may have beyond the template's, and one that reasons in words first."""
NO_MASK = -100.0
"""Logit of every pixel where an answer asks for no mask."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What the model says to one question about an image of H x W pixels.

    Attributes:
        answer: the text chain.
        size: of the image; `square` is the side of what SAM saw of it.
        steps: for each step of the chain its (1, 1, s, s) logits on the model's device, none if the answer is not
            well-formed. Their pixels are made when they are first asked for, there.
    """

    answer: str
    size: ImageSize
    square: int
    steps: tuple[Tensor, ...]

    @property
    def well_formed(self) -> bool:
        """Whether the answer holds the chain's tokens once and in order."""
        return bool(self.steps)

    @cached_property
    def coarse(self) -> NDArray[np.float32]:
        """(H, W) logits of C1 in the image's own pixels."""
        return self._pixels(0)

    @cached_property
    def refined(self) -> NDArray[np.float32]:
        """(H, W) logits of C2, the answer, in the image's own pixels; with a chain of one step the same as `coarse`."""
        return self._pixels(-1)

    def _pixels(self, step: int) -> NDArray[np.float32]:
        if not self.well_formed:
            return np.full(self.size.original_hw, NO_MASK, dtype=np.float32)
        logits = upsample_masks(self.steps[step], self.size, self.square)[0]
        pixels: NDArray[np.float32] = logits.float().cpu().numpy()
        return pixels


@torch.no_grad()
def segment_image(
    checkpoint: Checkpoint,
    image: RgbImage,
    queries: Sequence[Query],
    protocol: Protocol,
    example: str | None = None,
) -> list[Segmentation]:
    """Answer N questions about one image, which SAM's encoder reads once, and the MLLM once for every 16 of them.

    Args:
        checkpoint: whose model is asked, in eval mode.
        image: (H, W, 3) uint8 RGB.
        protocol: an answer that is not well-formed gets an empty mask.
        example: the in-context example, None for the one that the model was trained with, "" for none.

    Raises:
        CheckpointError: the model's outputs are not finite numbers.
    """
    model, processor = checkpoint.model, checkpoint.processor
    turns = tuple(prompts.render_turn(query, processor.prompt) for query in queries)
    found: list[Segmentation] = []
    encode: Callable[[], Features] | None = None
    for start in range(0, len(turns), QUERIES_AT_ONCE):
        sample = Sample(image=image, turns=turns[start : start + QUERIES_AT_ONCE], example=example)
        batch = processor.collate([sample]).to(model.device)
        encode = encode or cache(run_beside(model.device, partial(model.encode, batch)))
        found += _draw(checkpoint, _answer(checkpoint, sample, batch, protocol), encode)
    return found


@dataclass(frozen=True)
class _Answers:
    """The tokens of each turn's answer; of those that are well-formed their numbers, and what the model makes of them.

    `text` means nothing if none is.
    """

    ids: list[list[int]]
    formed: list[int]
    batch: Batch
    text: TextOutput


def _answer(checkpoint: Checkpoint, sample: Sample, batch: Batch, protocol: Protocol) -> _Answers:
    """Answer a sample's questions; `batch` holds the template as the answer to each."""
    model, processor = checkpoint.model, checkpoint.processor
    ids = [processor.answer_ids(turn) for turn in sample.turns]
    text = _reason(model, batch)
    differing = _differing_turns(batch, text) if protocol == "generated" else []
    if not differing:
        return _Answers(ids, list(range(len(ids))), batch, text)
    for index, written in zip(differing, _write_answers(checkpoint, sample, differing), strict=True):
        ids[index] = written
    formed = [index for index, answer in enumerate(ids) if _is_well_formed(answer, processor)]
    if formed:
        kept = replace(sample, turns=tuple(sample.turns[i] for i in formed))
        batch = processor.collate([kept], answers=[[ids[i] for i in formed]]).to(model.device)
        text = _reason(model, batch)
    return _Answers(ids, formed, batch, text)


def _reason(model: CoresModel, batch: Batch) -> TextOutput:
    text = model.reason(batch)
    _check_finite("the language model", (text.logits, *text.prompts))
    return text


def _check_finite(part: str, outputs: Sequence[Tensor]) -> None:
    if not all(bool(output.isfinite().all()) for output in outputs):
        hint = "its weights are damaged, or too large for --dtype float16: try float32, or download or train it again"
        raise CheckpointError(f"the outputs of {part} are not finite numbers", hint=hint)


def _differing_turns(batch: Batch, text: TextOutput) -> list[int]:
    """The turns of one image whose answer is not what the model would have written, token by token."""
    branches = batch.branches[:, 1:][batch.predicts_label]
    differing = branches[text.logits.argmax(dim=-1) != text.labels]
    return sorted({branch - 1 for branch in differing.tolist()})


def _write_answers(checkpoint: Checkpoint, sample: Sample, turns: Sequence[int]) -> list[list[int]]:
    """What the model writes to some of a sample's questions."""
    model, processor = checkpoint.model, checkpoint.processor
    asked = tuple(sample.turns[i] for i in turns)
    extra = REASON_TOKENS if processor.prompt.reasons else EXTRA_TOKENS
    limit = max(len(processor.answer_ids(turn)) for turn in asked) + extra
    written: list[list[int]] = []
    for group in [asked] if processor.mllm.packs else [(turn,) for turn in asked]:
        batch = processor.collate([replace(sample, turns=group)], answers=[[[] for _ in group]]).to(model.device)
        written += model.mllm.generate(batch, processor.mllm.end_id, limit)
    return written


def _draw(checkpoint: Checkpoint, answers: _Answers, encode: Callable[[], Features]) -> list[Segmentation]:
    """The masks of the answers; `encode` gives SAM's features of the image."""
    drawn: dict[int, tuple[Tensor, ...]] = {}
    if answers.formed:
        features = tuple(level.repeat_interleave(len(answers.formed), dim=0) for level in encode())
        steps = checkpoint.model.segment(features, answers.text.prompts)
        _check_finite("the segmenter", steps)
        drawn = dict(zip(answers.formed, zip(*(torch.split(logits, 1) for logits in steps), strict=True), strict=True))
    size, square = answers.batch.sizes[0], checkpoint.processor.frame.side
    return [
        Segmentation(checkpoint.processor.decode(ids), size, square, drawn.get(index, ()))
        for index, ids in enumerate(answers.ids)
    ]


def _is_well_formed(ids: list[int], processor: Processor) -> bool:
    """The tokens of the chain, once and in order."""
    return [token for token in ids if token in processor.chain_ids] == list(processor.chain_ids)
