"""Parameter counts and memory estimates of a model from tensor shapes; no weights are loaded.

Weights, gradients and optimiser state are counted; the memory of activations is an estimate.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder
from torch import nn

from cores_core import prompts
from cores_core.choices import Quantization
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.cores import CoresModel
from cores_core.model.placement import BITS, QUANTIZED
from cores_core.model.sams.attention import QUERIES
from cores_core.model.sams.hub import hub_block_numbers
from cores_core.model.weights.stand_in import SOURCE
from cores_core.sample import Query, Sample

QUESTION = "Which part of it would one use to change direction when it moves fast?"
"""A question of typical length."""
TYPICAL_HW = (480, 640)
"""A typical image size, for models whose number of image tokens depends on it."""
CARD_GIB, CARD_SHARE = 24, 0.9
"""Memory of a common GPU, and the fraction of it a plan may use; the rest is for CUDA itself and fragmentation."""
ATTENTION_COPIES = 3
"""Copies of the attention scores that SAM holds at a time: the product, the sum with positions, the softmax."""
BLOCK_STATES = 20
"""Values per cell and channel of a block of SAM: queries, keys and values with their copies, MLP, residual."""
CPU_OVERHEAD = 40 * 2**20
"""Bytes that libraries take on a CPU from the first prediction on, beside what they take when imported (measured)."""
_HALVED_PARTS = ("language model", "vocabulary head", "vision tower", "projector", "SAM image encoder")
"""Names of the parts that `cores.HALVED` covers."""


@dataclass(frozen=True)
class PartPlan:
    """One part of a model: its number of parameters, how many of them train, and the bytes of its weights."""

    name: str
    parameters: int
    trainable: int
    weight_bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """Memory in bytes by purpose; the weights are the sum over `parts`."""

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
        """Bytes in total."""
        return self.weights + self.gradients + self.optimizer + self.activations


def model_parts(model: CoresModel) -> Mapping[str, nn.Module]:
    """The parts of a model under the names shown to users."""
    parts: dict[str, nn.Module | None] = {
        **model.mllm.parts,
        "token projection": model.projection,
        "refiner": model.refiner,
        "SAM image encoder": model.segmenter.image_encoder,
        "SAM prompt encoder": model.segmenter.prompt_encoder,
        "SAM mask decoder": model.segmenter.mask_decoder,
    }
    return {name: module for name, module in parts.items() if module is not None}


def count_parameters(model: CoresModel) -> dict[str, int]:
    """Number of parameters of each part, and of `all`."""
    sizes = {name: _count(module) for name, module in model_parts(model).items()}
    return sizes | {"all": sum(sizes.values())}


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, str]:
    """Properties of a checkpoint other than its sizes, as name and text: chain, tokens, prompts, base, ..."""
    processor, config = checkpoint.processor, checkpoint.config
    tokens = zip(processor.prompt.chain, processor.chain_ids, strict=True)
    tokens_of_image = count_image_tokens(checkpoint, TYPICAL_HW)
    base = checkpoint.about.get("base", {})
    bound = config.chain.reject_below
    rejections = ["text"] * config.chain.rejects + [f"a predicted IoU below {bound:g}"] * bool(bound)
    return {
        "chain": f"{config.chain.stages} stages, {'with' if config.chain.refiner else 'without'} refiner",
        "rejects by": " or ".join(rejections) or "nothing: every answer has a mask",
        "tokens": ", ".join(f"{token} = {index}" for token, index in tokens),
        "prompts": f"context {config.context}, wording {config.wording}, conversation {config.conversation}",
        "models": f"{checkpoint.model.mllm.kind} (MLLM), {checkpoint.model.segmenter.kind} (SAM)",
        "images": f"{tokens_of_image} tokens (MLLM, 640x480), {processor.frame.side} px (SAM)",
        **{f"base {name}": f"{found['source']} ({found['fingerprint']})" for name, found in base.items()},
        **{key: str(value) for key, value in checkpoint.about.items() if not isinstance(value, dict | list)},
    }


def describe_plan(checkpoint: Checkpoint, plan: MemoryPlan) -> dict[str, str]:
    """Base models, tokens per image and whether the plan fits a GPU of `CARD_GIB`, as name and text."""
    found: dict[str, str] = {}
    for name, part in checkpoint.about.get("base", {}).items():
        absent = ", from published sizes; weights not found locally" if part["fingerprint"] == SOURCE else ""
        found[f"base {name}"] = f"{part['source']}{absent}"
    tokens, most = count_image_tokens(checkpoint, TYPICAL_HW), checkpoint.config.vision.max_tokens
    limit = ""
    if checkpoint.config.conversation == "template":
        limit = f", at most {most}" if tokens <= most else f", more than vision.max_tokens={most}: the model's minimum"
    found["tokens per image"] = f"{tokens} (640x480){limit}"
    needed, fits = plan.total / 2**30, plan.total <= CARD_SHARE * CARD_GIB * 2**30
    found[f"fits {CARD_GIB} GB"] = f"{'yes' if fits else 'no'}, {needed:.1f} GiB plus what CUDA itself uses"
    return found


def plan_prediction(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    quantization: Quantization | None = None,
    questions: int = 1,
    on_cpu: bool = False,
) -> MemoryPlan:
    """Memory for predicting one image.

    Args:
        checkpoint: may be on the meta device.
        dtype: precision of the MLLM and of SAM's image encoder.
        quantization: of the language model's linear layers.
        questions: number of questions asked in one forward pass.
        on_cpu: whether the model runs on a CPU, where attention scores are computed in small blocks, and memory that
            one part has used is not returned before the next one runs.
    """
    model = checkpoint.model
    parts = []
    for name, module in model_parts(model).items():
        bits = 8 * (dtype if name in _HALVED_PARTS else torch.float32).itemsize
        linear = _linear_parameters(module) if quantization and name == QUANTIZED else 0
        count = _count(module)
        weight_bytes = int((count - linear) * bits + linear * (BITS[quantization] if quantization else 0)) // 8
        parts.append(PartPlan(name, count, 0, weight_bytes))
    text = model.mllm.text_config
    key_width = text.num_key_value_heads * (
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    )
    per_token = 2 * text.num_hidden_layers * key_width + 4 * text.hidden_size + 2 * text.intermediate_size
    language_bytes = count_tokens(checkpoint, questions) * per_token * dtype.itemsize
    if on_cpu:
        activations = language_bytes + _sam_block(checkpoint) * dtype.itemsize + CPU_OVERHEAD
    else:
        activations = max(language_bytes, _sam_attention(checkpoint) * dtype.itemsize)
    return MemoryPlan(tuple(parts), 0, 0, activations)


def plan_training(checkpoint: Checkpoint, processes: int = 1) -> MemoryPlan:
    """Memory of one training process, given the model's adapters, trainable parameters and precisions.

    Args:
        checkpoint: may be on the meta device.
        processes: number of ranks, which shard moments, gradients and weights according to the ZeRO stage.
    """
    model, train, text = checkpoint.model, checkpoint.config.train, checkpoint.model.mllm.text_config
    stage = checkpoint.config.engine.zero_stage if processes > 1 else 0
    parts, learning = [], 0
    for name, module in model_parts(model).items():
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        weight_bytes = sum(parameter.numel() * parameter.dtype.itemsize for parameter in module.parameters())
        weight_bytes //= processes if stage == 3 else 1
        parts.append(PartPlan(name, _count(module), sum(p.numel() for p in trainable), weight_bytes))
        learning += sum(parameter.numel() * parameter.dtype.itemsize for parameter in trainable)
    width = 2 if train.precision == "bf16" else 4
    per_layer = 10 * text.hidden_size + 4 * text.intermediate_size  # values that a layer keeps per token
    kept = text.num_hidden_layers * (text.hidden_size if train.activation_checkpointing else per_layer)
    tokens = count_tokens(checkpoint, train.queries_per_image)
    per_image = width * max(tokens * kept + _kept_by_sam(checkpoint), _sam_attention(checkpoint))
    per_image += torch.float32.itemsize * train.queries_per_image * _kept_by_decoder(checkpoint)
    images = min(train.micro_batch_size or train.global_batch_size, -(-train.global_batch_size // processes))
    gradients = learning // processes if stage >= 2 else learning
    moments = 2 * learning // (processes if stage else 1)
    activations = images * per_image + _merged_vocabulary(checkpoint)
    return MemoryPlan(tuple(parts), gradients, moments, activations)


def count_tokens(checkpoint: Checkpoint, questions: int, image_hw: tuple[int, int] = TYPICAL_HW) -> int:
    """Number of tokens of an image of H x W pixels with `questions` questions and their answers."""
    turn = prompts.render_turn(Query(QUESTION), checkpoint.processor.prompt)
    sample = Sample(image=np.zeros((*image_hw, 3), dtype=np.uint8), turns=(turn,) * questions)
    return sum(len(row.ids) for row in checkpoint.processor.tokenize(sample))


def count_image_tokens(checkpoint: Checkpoint, image_hw: tuple[int, int]) -> int:
    """Number of image tokens of an image of H x W pixels."""
    image = int(checkpoint.model.mllm.net.config.image_token_id)
    sample = Sample(image=np.zeros((*image_hw, 3), dtype=np.uint8), turns=())
    ids: list[int] = checkpoint.processor.mllm.prefix(sample).ids
    return ids.count(image)


def _merged_vocabulary(checkpoint: Checkpoint) -> int:
    """Bytes for training single rows of embedding and head: peft merges them into a full copy with a gradient."""
    if not checkpoint.config.lora.rank or checkpoint.config.lora.vocabulary == "full":
        return 0
    text, dtype = checkpoint.model.mllm.text_config, checkpoint.model.mllm.net.dtype
    return int(2 * text.vocab_size * text.hidden_size * dtype.itemsize)


def _sam_attention(checkpoint: Checkpoint, queries: int = QUERIES) -> int:
    """Number of values SAM 1's image encoder holds in one global attention, with scores of `queries` cells at a time.

    SAM 2 and 3 use attention that stores no scores; for them the states of one block are counted.
    """
    sam, sizes = checkpoint.config.sam, checkpoint.model.segmenter.config
    if sizes is not None:
        return hub_block_numbers(sizes)
    cells = (sam.image_size // sam.patch_size) ** 2
    return ATTENTION_COPIES * sam.num_heads * cells * min(queries, cells)


def _sam_block(checkpoint: Checkpoint) -> int:
    """Number of values of a block of SAM's image encoder with its padded windows, and of three copies of the pixels."""
    sam, sizes = checkpoint.config.sam, checkpoint.model.segmenter.config
    if sizes is not None:
        return hub_block_numbers(sizes)
    grid, window = sam.image_size // sam.patch_size, sam.window_size
    side = -(-grid // window) * window if window else grid
    return BLOCK_STATES * sam.embed_dim * side**2 + 9 * sam.image_size**2


def _kept_by_sam(checkpoint: Checkpoint) -> int:
    """Number of values SAM 1's image encoder keeps per image for the backward pass, 0 if it is frozen."""
    encoder, sam = checkpoint.model.segmenter.image_encoder, checkpoint.config.sam
    if not isinstance(encoder, ImageEncoderViT) or not next(encoder.parameters()).requires_grad:
        return 0
    grid = (sam.image_size // sam.patch_size) ** 2
    blocks = len(sam.global_attn_indexes) if sam.window_size else sam.depth
    return grid * sam.depth * 26 * sam.embed_dim + blocks * _sam_attention(checkpoint, grid)


def _kept_by_decoder(checkpoint: Checkpoint) -> int:
    """Number of values SAM 1's mask decoder keeps per question for the backward pass (`sams/decoder.py`).

    In each stage, the cells before and after each layer, and the weights of its attention layers. Not counted for SAM 2
    and 3.
    """
    model, sam = checkpoint.model, checkpoint.config.sam
    decoder = model.segmenter.mask_decoder
    if not isinstance(decoder, MaskDecoder):
        return 0
    layers, cells = decoder.transformer.layers, (sam.image_size // sam.patch_size) ** 2
    tokens = decoder.num_mask_tokens + 2  # with those of the IoU and the prompt
    weights = sum(2 * tokens * layer.self_attn.num_heads for layer in layers)
    per_cell: int = (len(layers) + 1) * sam.prompt_embed_dim + weights
    return len(model.chain_ids) * cells * per_cell


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _linear_parameters(module: nn.Module) -> int:
    return sum(_count(layer) for layer in module.modules() if isinstance(layer, nn.Linear))
