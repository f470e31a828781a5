"""Ask one image N questions: let the model answer (or give it the answer), then run the forward that training runs.

The template is put into the model's mouth in either protocol. In `generated` its own next words are read at every place
of that one forward: where they are the template's all along, the template is what it would have written, and nothing is
written again. Only what differs is written token by token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cores_core import prompts
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.cores import TextOutput
from cores_core.model.processor import IGNORED_LABEL, Batch, Processor
from cores_core.runtime import run_beside
from cores_core.sample import Query, RgbImage, Sample

Protocol = Literal["generated", "given"]
"""How the answer comes about: the model writes it, or the template is put into its mouth (teacher-forced)."""

QUERIES_AT_ONCE = 16
"""Questions of one image that are read together, to bound memory. Fixed, so that no setting moves a pixel of a mask."""
EXTRA_TOKENS = 8
"""How many tokens a written answer may have beyond the template's."""
NO_MASK = -100.0
"""Logit of every pixel where an answer asks for no mask."""


@dataclass(frozen=True)
class Segmentation:
    """What the model says to one question.

    Attributes:
        answer: the text chain. well_formed: whether it holds the chain's tokens once and in order.
        coarse, refined: (H, W) float32 logits of C1 and C2 in the image's own pixels; equal with a one-step chain.
    """

    answer: str
    well_formed: bool
    coarse: NDArray[np.float32]
    refined: NDArray[np.float32]


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
    """
    model, processor = checkpoint.model, checkpoint.processor
    turns = tuple(prompts.render_turn(query, processor.prompt) for query in queries)
    found: list[Segmentation] = []
    encode: Callable[[], Tensor] | None = None
    for start in range(0, len(turns), QUERIES_AT_ONCE):
        sample = Sample(image=image, turns=turns[start : start + QUERIES_AT_ONCE], example=example)
        batch = processor.collate([sample]).to(model.device)
        encode = encode or cache(run_beside(model.device, partial(model.encode, batch)))
        found += _draw(checkpoint, sample, _answer(checkpoint, sample, batch, protocol), encode)
    return found


@dataclass(frozen=True)
class _Answers:
    """The tokens of each turn's answer; of those that are well-formed their numbers, and what the model makes of them.

    `batch` and `text` mean nothing if none is.
    """

    ids: list[list[int]]
    formed: list[int]
    batch: Batch
    text: TextOutput


def _answer(checkpoint: Checkpoint, sample: Sample, batch: Batch, protocol: Protocol) -> _Answers:
    """Answer a sample's questions; `batch` holds the template as the answer to each."""
    model, processor = checkpoint.model, checkpoint.processor
    ids = [processor.answer_ids(turn) for turn in sample.turns]
    text = model.reason(batch)
    differing = _differing_turns(batch, text) if protocol == "generated" else []
    if not differing:
        return _Answers(ids, list(range(len(ids))), batch, text)
    for index, written in zip(differing, _write_answers(checkpoint, sample, differing), strict=True):
        ids[index] = written
    formed = [index for index, answer in enumerate(ids) if _is_well_formed(answer, processor)]
    if formed:
        kept = replace(sample, turns=tuple(sample.turns[i] for i in formed))
        batch = processor.collate([kept], answers=[[ids[i] for i in formed]]).to(model.device)
        text = model.reason(batch)
    return _Answers(ids, formed, batch, text)


def _differing_turns(batch: Batch, text: TextOutput) -> list[int]:
    """The turns of one image whose answer is not what the model would have written, token by token."""
    branches = batch.branches[:, 1:][batch.labels[:, 1:] != IGNORED_LABEL]
    differing = branches[text.logits.argmax(dim=-1) != text.labels]
    return sorted({branch - 1 for branch in differing.tolist()})


def _write_answers(checkpoint: Checkpoint, sample: Sample, turns: Sequence[int]) -> list[list[int]]:
    """What the model writes to some of a sample's questions."""
    model, processor = checkpoint.model, checkpoint.processor
    asked = replace(sample, turns=tuple(sample.turns[i] for i in turns))
    batch = processor.collate([asked], answers=[[[] for _ in turns]]).to(model.device)
    limit = max(len(processor.answer_ids(turn)) for turn in asked.turns) + EXTRA_TOKENS
    return model.mllm.generate(batch, processor.end_id, limit)


def _draw(
    checkpoint: Checkpoint, sample: Sample, answers: _Answers, encode: Callable[[], Tensor]
) -> list[Segmentation]:
    """The masks of the answers; `encode` tells what SAM sees in the image, (1, C, h, w)."""
    texts = [checkpoint.processor.decode(ids) for ids in answers.ids]
    empty = np.full(sample.image.shape[:2], NO_MASK, dtype=np.float32)
    results = [Segmentation(text, False, empty, empty) for text in texts]
    if answers.formed:
        model, size = checkpoint.model, answers.batch.sizes[0]
        embeddings = encode().repeat_interleave(len(answers.formed), dim=0)
        steps = model.segment(embeddings, answers.text.prompts)
        coarse, refined = (
            model.segmenter.upsample(logits, size).float().cpu().numpy() for logits in (steps[0], steps[-1])
        )
        for row, index in enumerate(answers.formed):
            results[index] = Segmentation(texts[index], True, coarse[row], refined[row])
    return results


def _is_well_formed(ids: list[int], processor: Processor) -> bool:
    """The tokens of the chain, once and in order."""
    return [token for token in ids if token in processor.chain_ids] == list(processor.chain_ids)
