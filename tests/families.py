"""Tiny models of the multimodal LLM families and of SAM 2 / 3, with random weights, in folders as the hub has them."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    Sam2Config,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2Processor,
    Sam3ImageProcessor,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3TrackerProcessor,
)

from cores_core.model.families.published import stand_in_processor

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
}
NO_IDS = {"bos_token_id": None, "eos_token_id": None}
"""In place of published ids that a tiny vocabulary does not have, until `stand_in_processor` sets them."""
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
"""A vision tower in the words of SigLIP."""
DEEP = {"hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
"""A vision tower in the words of Qwen."""


def _qwen2_vl() -> dict[str, Any]:
    tower = {"depth": 4, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    text = {**TEXT, **NO_IDS, "rope_parameters": rope, "tie_word_embeddings": False}
    return {"text_config": text, "vision_config": tower, "tie_word_embeddings": False}


def _qwen2_5_vl() -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    tower = {**DEEP, "depth": 4, "patch_size": 14, "out_hidden_size": 64, "window_size": 112}
    return {
        "text_config": {**TEXT, **NO_IDS, "rope_parameters": rope, "tie_word_embeddings": True},
        "vision_config": {**tower, "fullatt_block_indexes": [1, 3]},
        "tie_word_embeddings": True,
    }


def _qwen3_vl() -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [2, 3, 3], "mrope_interleaved": True}
    tower = {**DEEP, "depth": 4, "patch_size": 16, "out_hidden_size": 64, "num_position_embeddings": 64}
    return {
        "text_config": {**TEXT, "head_dim": 16, "rope_parameters": rope, "tie_word_embeddings": True},
        "vision_config": {**tower, "deepstack_visual_indexes": [0, 1, 2]},
        "tie_word_embeddings": True,
    }


def _qwen3_5() -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e7, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    text = {
        **TEXT,
        "head_dim": 16,
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "rope_parameters": {**rope, "partial_rotary_factor": 0.5},
        "tie_word_embeddings": False,
    }
    tower = {**DEEP, "depth": 2, "patch_size": 16, "out_hidden_size": 64, "num_position_embeddings": 64}
    return {"text_config": text, "vision_config": tower, "tie_word_embeddings": False}


def _internvl() -> dict[str, Any]:
    return {
        "text_config": {**TEXT, "model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": False},
        "vision_config": {**TOWER, "image_size": [56, 56], "patch_size": [14, 14], "attention_bias": True},
        "image_seq_length": 4,
        "tie_word_embeddings": False,
    }


def _idefics3() -> dict[str, Any]:
    return {
        "text_config": {**TEXT, "model_type": "llama", "tie_word_embeddings": False},
        "vision_config": {**TOWER, "image_size": 64, "patch_size": 16},
        "scale_factor": 2,
        "tie_word_embeddings": False,
    }


def _llava_onevision() -> dict[str, Any]:
    return {
        "text_config": {**TEXT, "model_type": "qwen2", "tie_word_embeddings": False},
        "vision_config": {
            **TOWER,
            "model_type": "siglip_vision_model",
            "image_size": 56,
            "patch_size": 14,
            "vision_use_head": False,
        },
        "image_grid_pinpoints": [[56 * rows, 56 * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)],
        "tie_word_embeddings": False,
    }


def _gemma3() -> dict[str, Any]:
    text = {
        **TEXT,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    }
    return {
        "text_config": text,
        "vision_config": {**TOWER, "image_size": 64, "patch_size": 8, "vision_use_head": False},
        "mm_tokens_per_image": 16,
        "tie_word_embeddings": True,
    }


CONFIGS = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_5": _qwen3_5,
    "internvl": _internvl,
    "smolvlm": _idefics3,
    "idefics3": _idefics3,
    "llava_onevision": _llava_onevision,
    "gemma3": _gemma3,
}
FAMILIES = tuple(CONFIGS)
"""The model types that `tiny_config` knows."""


def tiny_config(model_type: str) -> PreTrainedConfig:
    """A config of a family: four text layers of width 64; ties head and embedding where the published models do.

    Its token ids are the defaults of transformers until `stand_in_processor` sets them.
    """
    return AutoConfig.for_model(model_type, **CONFIGS[model_type]())


def tiny_processor(config: PreTrainedConfig) -> ProcessorMixin:
    """The stand-in processor of a tiny config, set to few tokens an image where the published limits leave many."""
    processor = stand_in_processor(config)
    images = processor.image_processor
    if config.model_type.startswith("qwen"):
        side = config.vision_config.patch_size * config.vision_config.spatial_merge_size
        images.size = {"shortest_edge": 4 * side**2, "longest_edge": 64 * side**2}
    elif config.model_type == "internvl":
        images.max_patches = 4
    return processor


def tiny_mllm(model_type: str, seed: int = 0) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A model with random weights in eval mode and its processor; the ids of its config are those of the processor."""
    config = tiny_config(model_type)
    processor = tiny_processor(config)
    torch.manual_seed(seed)
    net = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    if model_type == "gemma3":  # starts at zero: images would all look alike
        torch.nn.init.normal_(net.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
    return net.eval(), processor


def save_tiny_mllm(folder: Path, model_type: str, seed: int = 0) -> Path:
    """Write a tiny model and its processor as the hub has them."""
    net, processor = tiny_mllm(model_type, seed)
    net.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _sam2_config() -> Sam2Config:
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 16,
        "num_attention_heads": 1,
        "image_size": [128, 128],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 4, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }
    return Sam2Config(
        vision_config={
            "backbone_config": backbone,
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
            "fpn_hidden_size": 64,
        },
        prompt_encoder_config={"hidden_size": 64, "image_size": 128},
        mask_decoder_config={"hidden_size": 64, "mlp_dim": 128, "iou_head_hidden_dim": 64},
    )


def _sam3_config() -> Sam3TrackerConfig:
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 112,
        "patch_size": 14,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    }
    return Sam3TrackerConfig(
        vision_config={
            "model_type": "sam3_vision_model",
            "backbone_config": backbone,
            "fpn_hidden_size": 64,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        prompt_encoder_config={"hidden_size": 64, "image_size": 112, "patch_size": 14},
        mask_decoder_config={"hidden_size": 64, "mlp_dim": 128, "iou_head_hidden_dim": 64},
    )


def tiny_sam(kind: str, seed: int = 0) -> PreTrainedModel:
    """A SAM 2 ("sam2", 128 px) or SAM 3 tracker ("sam3", 112 px), random weights, eval mode; prompts are 64 wide."""
    torch.manual_seed(seed)
    net: PreTrainedModel = Sam2Model(_sam2_config()) if kind == "sam2" else Sam3TrackerModel(_sam3_config())
    torch.nn.init.normal_(net.no_memory_embedding, std=0.2)  # zero by default: tests could not detect its absence
    return net.eval()


def save_tiny_sam(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write a tiny SAM and its image processor as the hub has them."""
    net = tiny_sam(kind, seed)
    net.save_pretrained(folder)
    if kind == "sam2":
        images = Sam2ImageProcessor(size={"height": 128, "width": 128}, mask_size={"height": 32, "width": 32})
        Sam2Processor(image_processor=images).save_pretrained(folder)
    else:
        images = Sam3ImageProcessor(size={"height": 112, "width": 112}, mask_size={"height": 32, "width": 32})
        Sam3TrackerProcessor(image_processor=images).save_pretrained(folder)
    return folder
