"""The dual chain: hidden states of the answer's tokens prompt the segmenter, coarse first, then refined.

Source: CoReS (arXiv:2404.05673). This is the only forward path: training, evaluation and prediction all run it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cores_core.model.embeddings import EmbeddingCache, encode_cached
from cores_core.model.mllm import Mllm
from cores_core.model.processor import Batch
from cores_core.model.refiner import TokenRefiner
from cores_core.model.segmenter import Features, Segmenter

HALVED = ("mllm.", "segmenter.image_encoder.")
"""Beginnings of the names of all weights that may be in half precision; the mask head and what it is given may not."""


@dataclass(frozen=True)
class TextOutput:
    """What the chain of reasoning gives for N queries with K answer tokens in all.

    Attributes:
        prompts: for each step of the chain its prompt for SAM, (N, C), before it is refined.
        logits: (K, V) float32 vocabulary logits of the answers, and `labels` (K,) what they should have said.
    """

    prompts: tuple[Tensor, ...]
    logits: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ChainOutput:
    """What one forward gives for N queries.

    Attributes:
        text: the chain of reasoning.
        steps: for each step of the chain its unthresholded logits, (N, 1, s, s); the last is the answer.
        features: what SAM's image encoder gave, each map with B rows.
    """

    text: TextOutput
    steps: tuple[Tensor, ...]
    features: Features

    @property
    def coarse(self) -> Tensor:
        """C1: logits of the first step."""
        return self.steps[0]

    @property
    def refined(self) -> Tensor:
        """C2: logits of the last step."""
        return self.steps[-1]


class CoresModel(nn.Module):
    """MLLM, projection and SAM, joined by the tokens of the chain.

    `embeddings`, if it is set, keeps what SAM's image encoder makes of images with a key, as long as it is frozen.
    """

    mllm: Mllm
    segmenter: Segmenter

    def __init__(self, mllm: Mllm, segmenter: Segmenter, chain_ids: tuple[int, ...], refiner: bool) -> None:
        super().__init__()
        self.mllm = mllm
        self.segmenter = segmenter
        self.chain_ids = chain_ids
        self.projection = build_projection(mllm.width, segmenter.width)
        self.refiner = TokenRefiner(segmenter.width) if refiner and len(chain_ids) > 1 else None
        self.embeddings: EmbeddingCache | None = None

    def forward(self, batch: Batch) -> ChainOutput:
        """Run both chains over questions with their answers.

        Every turn that segments must hold each token of the chain exactly once, and no other turn any.
        """
        text = self.reason(batch)
        features = self.encode(batch)
        steps = self.segment(tuple(level[batch.image_index] for level in features), text.prompts)
        return ChainOutput(text=text, steps=steps, features=features)

    def reason(self, batch: Batch) -> TextOutput:
        """Run the chain of reasoning alone."""
        hidden = self.mllm(batch)
        states = [self._states(hidden, batch.input_ids, token_id).float() for token_id in self.chain_ids]
        predicts_label = batch.predicts_label
        return TextOutput(
            prompts=tuple(self.projection(state).float() for state in states),
            logits=self.mllm.logits(hidden[:, :-1][predicts_label]).float(),
            labels=batch.labels[:, 1:][predicts_label],
        )

    def encode(self, batch: Batch) -> Features:
        """What SAM sees in a batch's B images, in float32; with `embeddings`, each is rounded to bfloat16."""
        named = bool(batch.keys) and all(batch.keys)
        if self.embeddings is None or not named or self._encoder_learns():
            return self.segmenter.encode(batch.sam_pixels)
        return encode_cached(self.embeddings, self.segmenter, batch.sam_pixels, batch.keys)

    def segment(self, features: Features, prompts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run the segmenting chain: each step's prompt, refined by and decoded with the mask of the step before.

        Args:
            features: one image for each query, every map with N rows.
            prompts: one (N, C) for each step.

        Returns:
            For each step its logits, (N, 1, s, s).
        """
        if not len(features[0]):  # words alone: a blank query keeps every weight in the graph, on every process
            blank = tuple(level.new_zeros(1, *level.shape[1:]) for level in features)
            queries = tuple(prompt.new_zeros(1, prompt.shape[1]) + prompt.sum() for prompt in prompts)
            return tuple(logits[:0] for logits in self.segment(blank, queries))
        steps: list[Tensor] = []
        for prompt in prompts:
            prior = steps[-1] if steps else None
            if prior is not None and self.refiner is not None:
                prompt = self.refiner(prompt, features[-1], prior)
            steps.append(self.segmenter.decode(features, prompt, prior))
        return tuple(steps)

    @property
    def device(self) -> torch.device:
        """Where SAM and the heads are, and batches should be."""
        return next(self.projection.parameters()).device

    def _encoder_learns(self) -> bool:
        return any(parameter.requires_grad for parameter in self.segmenter.image_encoder.parameters())

    @staticmethod
    def _states(hidden: Tensor, input_ids: Tensor, token_id: int) -> Tensor:
        """(N, D) states of a token's predictors, in the order of the queries."""
        predicts_next = input_ids[:, 1:] == token_id  # (B, T-1): the state at t-1 predicts the token at t
        return hidden[:, :-1][predicts_next]


def build_projection(width: int, prompt_width: int) -> nn.Sequential:
    """From hidden states of width D to prompts of width C, with random weights; shared by the tokens of the chain."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, prompt_width))
