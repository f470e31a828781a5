"""Ask one image N questions: let the model answer (or give it the answer), then run the forward that training runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cores_core import prompts
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.cores import CoresModel
from cores_core.model.processor import Processor
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
    turns = tuple(prompts.render_turn(query, checkpoint.processor.prompt) for query in queries)
    found: list[Segmentation] = []
    embeddings: Tensor | None = None
    for start in range(0, len(turns), QUERIES_AT_ONCE):
        sample = Sample(image=image, turns=turns[start : start + QUERIES_AT_ONCE], example=example)
        some, embeddings = _segment(checkpoint, sample, protocol, embeddings)
        found += some
    return found


def _segment(
    checkpoint: Checkpoint, sample: Sample, protocol: Protocol, embeddings: Tensor | None
) -> tuple[list[Segmentation], Tensor | None]:
    """Answer a sample's questions, and tell what SAM saw in its image, (1, C, h, w), once there was need to look."""
    model, processor = checkpoint.model, checkpoint.processor
    answers = [processor.answer_ids(turn) for turn in sample.turns]
    if protocol == "generated":
        answers = _write_answers(model, processor, sample, limit=len(answers[0]) + EXTRA_TOKENS)
    texts = [processor.decode(ids) for ids in answers]
    formed = [index for index, ids in enumerate(answers) if _is_well_formed(ids, processor)]
    empty = np.full(sample.image.shape[:2], NO_MASK, dtype=np.float32)
    results = [Segmentation(text, False, empty, empty) for text in texts]
    if formed:
        kept = replace(sample, turns=tuple(sample.turns[i] for i in formed))
        batch = processor.collate([kept], answers=[[answers[i] for i in formed]]).to(model.device)
        text = model.reason(batch)
        embeddings = model.encode(batch) if embeddings is None else embeddings
        steps = model.segment(embeddings.repeat_interleave(len(formed), dim=0), text.prompts)
        coarse, refined = (
            model.segmenter.upsample(logits, batch.sizes[0]).float().cpu().numpy() for logits in (steps[0], steps[-1])
        )
        for row, index in enumerate(formed):
            results[index] = Segmentation(texts[index], True, coarse[row], refined[row])
    return results, embeddings


def _write_answers(model: CoresModel, processor: Processor, sample: Sample, limit: int) -> list[list[int]]:
    batch = processor.collate([sample], answers=[[[] for _ in sample.turns]]).to(model.device)
    return model.mllm.generate(batch, processor.end_id, limit)


def _is_well_formed(ids: list[int], processor: Processor) -> bool:
    """The tokens of the chain, once and in order."""
    return [token for token in ids if token in processor.chain_ids] == list(processor.chain_ids)
