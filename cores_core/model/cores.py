"""The CoReS model: hidden states of chain tokens prompt SAM, first for a coarse mask, then for the final one.

Source: CoReS (arXiv:2404.05673). This is the only forward path: training, evaluation and prediction all run it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cores_core.model.embeddings import EmbeddingCache, encode_cached, encode_vision_cached, vision_parts
from cores_core.model.mllm import Mllm, PrefixCache, VisionOutput
from cores_core.model.processor import Batch
from cores_core.model.refiner import TokenRefiner
from cores_core.model.segmenter import Features, Segmenter

HALVED = ("mllm.", "segmenter.image_encoder.")
"""Name prefixes of the weights that may be in half precision. The mask decoder and its inputs stay in float32."""


@dataclass(frozen=True)
class TextOutput:
    """Output of the language side for N queries with K answer tokens in total.

    Attributes:
        prompts: for each stage of the chain the prompt embeddings for SAM, (N, C), before the refiner.
        logits: (K, V) float32 vocabulary logits of the answer tokens; `labels` (K,) are their target ids.
    """

    prompts: tuple[Tensor, ...]
    logits: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ChainOutput:
    """Output of one forward pass for N queries.

    Attributes:
        text: output of the language side.
        stages: for each stage of the chain the unthresholded logits, (N, 1, s, s); the last is the answer.
        features: SAM's image features, each map with B rows.
    """

    text: TextOutput
    stages: tuple[Tensor, ...]
    features: Features

    @property
    def coarse(self) -> Tensor:
        """C1: logits of the first stage."""
        return self.stages[0]

    @property
    def refined(self) -> Tensor:
        """C2: logits of the last stage."""
        return self.stages[-1]


class CoresModel(nn.Module):
    """Multimodal LLM, projection and SAM, connected by the tokens of the chain.

    `embeddings` is an optional cache of SAM's image features, used for images with a key while the encoder is frozen;
    `vision_cache` is one of the output of LLaVA's vision tower.
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
        self.vision_cache: EmbeddingCache | None = None

    def forward(self, batch: Batch) -> ChainOutput:
        """Run language model and SAM on questions with their (teacher-forced) answers.

        Each turn with a mask must contain every chain token exactly once; other turns must contain none.
        """
        text = self.reason(batch)
        features = self.encode(batch)
        stages = self.segment(features, text.prompts, batch.image_index)
        return ChainOutput(text=text, stages=stages, features=features)

    def reason(self, batch: Batch, prefix: PrefixCache | None = None) -> TextOutput:
        """Run the language model and project the hidden states of the chain tokens to prompt embeddings.

        Args:
            prefix: keys and values of the batch's prefix, see `Mllm.forward`.
        """
        hidden = self.mllm(batch, self._cached_vision(batch), prefix)
        hidden = hidden.flatten(0, 1)
        states = [hidden.index_select(0, index).float() for index in batch.chain_index]
        return TextOutput(
            prompts=tuple(self.projection(state).float() for state in states),
            logits=self.mllm.logits(hidden.index_select(0, batch.answer_index)).float(),
            labels=batch.labels.flatten().index_select(0, batch.answer_index + 1),
        )

    def encode(self, batch: Batch) -> Features:
        """SAM's image features of the B images, in float32. Features from the cache are rounded to bfloat16.

        A frozen encoder runs without gradients, and on a CPU image by image, which needs less memory.
        """
        if self._encoder_learns():
            return self.segmenter.encode(batch.sam_pixels)
        with torch.no_grad():
            if self.embeddings is not None and _have_keys(batch):
                return encode_cached(self.embeddings, self.segmenter, batch.sam_pixels, batch.keys)
            at_once = 1 if batch.sam_pixels.device.type == "cpu" else len(batch.sam_pixels)
            encoded = [self.segmenter.encode(pixels) for pixels in torch.split(batch.sam_pixels, at_once)]
            return tuple(torch.cat(levels) for levels in zip(*encoded, strict=True))

    def segment(
        self, features: Features, prompts: tuple[Tensor, ...], images: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Decode one mask per stage; each but the first uses the previous mask as mask input and in the refiner.

        Args:
            features: image features, every map with B rows.
            prompts: (N, C) prompt embeddings for each stage.
            images: (N,) row of each query's image; None if B = N and each query has the row of its own number.

        Returns:
            The mask logits of each stage, (N, 1, s, s).
        """
        if not len(prompts[0]):  # no masks in this batch: a dummy query keeps all weights in the graph on every rank
            blank = tuple(level.new_zeros(1, *level.shape[1:]) for level in features)
            queries = tuple(prompt.new_zeros(1, prompt.shape[1]) + prompt.sum() for prompt in prompts)
            return tuple(logits[:0] for logits in self.segment(blank, queries))
        stages: list[Tensor] = []
        for prompt in prompts:
            mask_input = stages[-1] if stages else None
            prompt = _refine(self.refiner, prompt, features, mask_input, images)
            stages.append(self.segmenter.decode(features, prompt, mask_input, images))
        return tuple(stages)

    def segment_scored(
        self, features: Features, prompts: tuple[Tensor, ...], images: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """`segment` for N >= 1 queries, with SAM's prediction of the IoU of each last mask with the object, (N,)."""
        stages = self.segment(features, prompts[:-1], images) if len(prompts) > 1 else ()
        mask_input = stages[-1] if stages else None
        prompt = _refine(self.refiner, prompts[-1], features, mask_input, images)
        logits, ious = self.segmenter.decode_scored(features, prompt, mask_input, images)
        return (*stages, logits), ious

    @property
    def device(self) -> torch.device:
        """Device of SAM and the heads, to which batches must be moved."""
        return next(self.projection.parameters()).device

    def _cached_vision(self, batch: Batch) -> VisionOutput | None:
        """Output of a frozen vision tower, read from the cache or computed and stored; None without a cache."""
        if self.vision_cache is None or not _have_keys(batch) or _learns(*vision_parts(self.mllm)):
            return None
        return encode_vision_cached(self.vision_cache, self.mllm, batch)

    def _encoder_learns(self) -> bool:
        return _learns(self.segmenter.image_encoder)


def _refine(
    refiner: TokenRefiner | None, prompt: Tensor, features: Features, mask_input: Tensor | None, images: Tensor | None
) -> Tensor:
    """The prompt of a stage: refined after the first one, if the model has a refiner."""
    if mask_input is None or refiner is None:
        return prompt
    refined: Tensor = refiner(prompt, features[-1], mask_input, images)
    return refined


def _learns(*parts: nn.Module) -> bool:
    return any(parameter.requires_grad for part in parts for parameter in part.parameters())


def _have_keys(batch: Batch) -> bool:
    return bool(batch.keys) and all(batch.keys)


def build_projection(width: int, prompt_width: int) -> nn.Sequential:
    """MLP from hidden states (D) to prompt embeddings (C), randomly initialised, shared by all chain tokens."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, prompt_width))
