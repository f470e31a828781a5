"""What a model is made of, and how much memory it will take, from sizes alone: nothing is loaded.

The memory of activations is an estimate; weights, gradients and optimiser state are counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cores_core import prompts
from cores_core.config import Config
from cores_core.model.attention import QUERIES
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.cores import CoresModel
from cores_core.model.placement import BITS, QUANTIZED, Quantization
from cores_core.sample import Query, Sample

QUESTION = "Which part of it would one use to change direction when it moves fast?"
"""Stands for the length of a question."""
ATTENTION_COPIES = 3
"""How often SAM holds the scores of its attention at once: the product, the sum with positions, the softmax."""
_HALVED_PARTS = ("language model", "vocabulary head", "vision tower", "projector", "SAM image encoder")
"""The names of the parts that `cores.HALVED` speaks of."""


@dataclass(frozen=True)
class PartPlan:
    """One part of a model: how many parameters it has, how many of them train, and the bytes of its weights."""

    name: str
    parameters: int
    trainable: int
    weight_bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by purpose. `parts` add up to the weights."""

    parts: tuple[PartPlan, ...]
    gradients: int
    optimizer: int
    activations: int

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return sum(part.weight_bytes for part in self.parts)

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.gradients + self.optimizer + self.activations


def model_parts(model: CoresModel) -> Mapping[str, nn.Module]:
    """The parts of a model by the names that users know."""
    parts = {
        "language model": model.mllm.llava.model.language_model,
        "vocabulary head": model.mllm.llava.lm_head,
        "vision tower": model.mllm.llava.model.vision_tower,
        "projector": model.mllm.llava.model.multi_modal_projector,
        "token projection": model.projection,
        "refiner": model.refiner,
        "SAM image encoder": model.segmenter.image_encoder,
        "SAM prompt encoder": model.segmenter.prompt_encoder,
        "SAM mask decoder": model.segmenter.mask_decoder,
    }
    return {name: module for name, module in parts.items() if module is not None}


def count_parameters(model: CoresModel) -> dict[str, int]:
    """The number of parameters of each part and in all."""
    sizes = {name: _count(module) for name, module in model_parts(model).items()}
    return sizes | {"all": sum(sizes.values())}


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, str]:
    """What is worth knowing of a checkpoint beside its sizes, by name."""
    processor, config = checkpoint.processor, checkpoint.config
    tokens = zip(processor.prompt.chain, processor.chain_ids, strict=True)
    base = checkpoint.about.get("base", {})
    return {
        "chain": f"{config.chain.steps} steps, {'with' if config.chain.refiner else 'without'} refiner",
        "tokens": ", ".join(f"{token} = {index}" for token, index in tokens),
        "prompts": f"context {config.context}, wording {config.wording}, conversation {config.conversation}",
        "image sizes": f"{processor.images.mllm_size} px (MLLM), {processor.images.sam_size} px (SAM)",
        **{f"base {name}": f"{found['source']} ({found['fingerprint']})" for name, found in base.items()},
        **{key: str(value) for key, value in checkpoint.about.items() if not isinstance(value, dict | list)},
    }


def plan_prediction(
    checkpoint: Checkpoint, dtype: torch.dtype, quantization: Quantization | None = None, questions: int = 1
) -> MemoryPlan:
    """The memory to ask one image so many questions.

    Args:
        checkpoint: may be on the meta device.
        dtype: precision of the MLLM and of SAM's image encoder.
        quantization: of the language model's linear layers.
    """
    config, model = checkpoint.config, checkpoint.model
    parts = []
    for name, module in model_parts(model).items():
        bits = 8 * (dtype if name in _HALVED_PARTS else torch.float32).itemsize
        linear = _linear_parameters(module) if quantization and name == QUANTIZED else 0
        count = _count(module)
        weight_bytes = int((count - linear) * bits + linear * (BITS[quantization] if quantization else 0)) // 8
        parts.append(PartPlan(name, count, 0, weight_bytes))
    tokens, language = _tokens(checkpoint, questions), config.language
    cache = 2 * language.layers * language.width * (language.key_heads or language.heads) // language.heads
    language_bytes = tokens * (cache + 4 * language.width + 2 * language.mlp) * dtype.itemsize
    return MemoryPlan(tuple(parts), 0, 0, max(language_bytes, _sam_attention(config) * dtype.itemsize))


def plan_training(checkpoint: Checkpoint, processes: int = 1) -> MemoryPlan:
    """The memory of one process that trains a model as it stands: its adapters, what learns, its precisions.

    Args:
        checkpoint: may be on the meta device.
        processes: that train together and, by the stage of ZeRO, divide moments, gradients and weights.
    """
    model, train, language = checkpoint.model, checkpoint.config.train, checkpoint.config.language
    stage = checkpoint.config.engine.stage if processes > 1 else 0
    parts, learning = [], 0
    for name, module in model_parts(model).items():
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        weight_bytes = sum(parameter.numel() * parameter.dtype.itemsize for parameter in module.parameters())
        weight_bytes //= processes if stage == 3 else 1
        parts.append(PartPlan(name, _count(module), sum(p.numel() for p in trainable), weight_bytes))
        learning += sum(parameter.numel() * parameter.dtype.itemsize for parameter in trainable)
    width = 2 if train.precision == "bf16" else 4
    per_layer = 10 * language.width + 4 * language.mlp  # numbers that a layer keeps of a token for its gradients
    kept = language.layers * (language.width if train.checkpoint_activations else per_layer)
    tokens = _tokens(checkpoint, train.queries_per_image)
    kept_by_sam = 0
    if next(model.segmenter.image_encoder.parameters()).requires_grad:
        sam = checkpoint.config.sam
        grid = (sam.image_size // sam.patch_size) ** 2
        blocks = len(sam.global_blocks) if sam.window else sam.depth
        kept_by_sam = grid * sam.depth * 26 * sam.width + blocks * _sam_attention(checkpoint.config, grid)
    per_image = max(tokens * kept + kept_by_sam, _sam_attention(checkpoint.config))
    images = min(train.images_at_once or train.images_per_step, -(-train.images_per_step // processes))
    gradients = learning // processes if stage >= 2 else learning
    moments = 2 * learning // (processes if stage else 1)
    return MemoryPlan(tuple(parts), gradients, moments, images * per_image * width)


def _tokens(checkpoint: Checkpoint, questions: int) -> int:
    """How many tokens an image and so many questions with their answers are."""
    turn = prompts.render_turn(Query(QUESTION), checkpoint.processor.prompt)
    sample = Sample(image=np.zeros((64, 64, 3), dtype=np.uint8), turns=(turn,) * questions)
    return int(checkpoint.processor.collate([sample]).input_ids.shape[1])


def _sam_attention(config: Config, queries: int = QUERIES) -> int:
    """Numbers that SAM's image encoder holds for one global attention, with the scores of so many cells at a time."""
    cells = (config.sam.image_size // config.sam.patch_size) ** 2
    return ATTENTION_COPIES * config.sam.heads * cells * min(queries, cells)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _linear_parameters(module: nn.Module) -> int:
    return sum(_count(layer) for layer in module.modules() if isinstance(layer, nn.Linear))
