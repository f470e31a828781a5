"""Build published models as meta tensors (shapes without data), to plan memory without a download.

Source: families/published.yaml for models of transformers; here LLaVA 1 and 1.5 (their config.json, and that of CLIP
ViT-L/14) and segment-anything (build_sam.py).
Deviation: the tokenizer is a small one trained on the built-in prompts, so a prompt has slightly
more tokens, and the memory estimate is slightly high.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch

from cores_core import prompts
from cores_core.config import BaseConfig, Config, LanguageConfig, SamConfig, VisionConfig
from cores_core.model.build import Parts, build_tokenizer
from cores_core.model.families.hub import empty_hub_mllm
from cores_core.model.families.llava import build_llava
from cores_core.model.families.published import (
    published_config,
    published_models,
    published_sams,
    stand_in_processor,
)
from cores_core.model.sams.hub import empty_hub_sam
from cores_core.model.sams.sam1 import build_sam1
from cores_core.model.sams.table import HUB_IDS, SAM_FILES, kept_file
from cores_core.model.tokenizer import token_id
from cores_core.model.weights.hub import cached_model

SOURCE = "published sizes"
"""Takes the place of the weights' hash in a model that was built from its sizes."""
_VOCABULARY = 2000
"""Upper limit on the tokenizer's vocabulary; the embedding keeps the published size."""
_CLIP_224 = VisionConfig(
    image_size=224,
    patch_size=14,
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    fit="crop",
    feature_layer=-2,
    projector_layers=1,
)
_CLIP_336 = replace(_CLIP_224, image_size=336, projector_layers=2)
_LLAMA_7B = LanguageConfig(
    hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008, vocab_size=32005
)  # LLaMA's 32,000 and LLaVA's five
_LLAMA_13B = replace(_LLAMA_7B, hidden_size=5120, num_hidden_layers=40, num_attention_heads=40, intermediate_size=13824)
_VICUNA_7B, _VICUNA_13B = (
    replace(llama, vocab_size=32064, max_position_embeddings=4096, rms_norm_eps=1e-5)  # of LLaVA 1.5, padded
    for llama in (_LLAMA_7B, _LLAMA_13B)
)
LLAVA_SIZES: Mapping[str, tuple[LanguageConfig, VisionConfig]] = MappingProxyType(
    {
        "LLaVA-Lightning-7B-v1-1": (_LLAMA_7B, _CLIP_224),
        "LLaVA-13B-v1-1": (_LLAMA_13B, _CLIP_224),
        "llava-hf/llava-1.5-7b-hf": (_VICUNA_7B, _CLIP_336),
        "llava-hf/llava-1.5-13b-hf": (_VICUNA_13B, _CLIP_336),
    }
)
"""Sizes by `base.mllm`: LLaVA 1 by the folder that LISA's instructions merge the deltas into, LLaVA 1.5 by hub id."""
_VIT_H = SamConfig(
    image_size=1024,
    patch_size=16,
    embed_dim=1280,
    depth=32,
    num_heads=16,
    window_size=14,
    global_attn_indexes=(7, 15, 23, 31),
    prompt_embed_dim=256,
    predicts_iou=True,
)
SAM_SIZES: Mapping[str, SamConfig] = MappingProxyType(
    {
        "vit_h": _VIT_H,
        "vit_l": replace(_VIT_H, embed_dim=1024, depth=24, global_attn_indexes=(5, 11, 17, 23)),
        "vit_b": replace(_VIT_H, embed_dim=768, depth=12, num_heads=12, global_attn_indexes=(2, 5, 8, 11)),
    }
)


def find_absent(base: BaseConfig) -> frozenset[str]:
    """Those of "mllm" and "sam" whose weights are neither on disk nor in the hub's cache, but whose sizes are known."""
    absent = set()
    if base.mllm in (*published_models(), *LLAVA_SIZES) and not _is_here(base.mllm):
        absent.add("mllm")
    sam = HUB_IDS.get(base.sam or "", base.sam)
    if sam in SAM_FILES and not kept_file(sam).is_file():
        absent.add("sam")
    if sam in published_sams() and not _is_here(sam):
        absent.add("sam")
    return frozenset(absent)


def published_mllm(config: Config) -> Parts:
    """Build the multimodal LLM of `base.mllm` from its published sizes; its tokenizer has no chain tokens yet."""
    name = str(config.base.mllm)
    if name in LLAVA_SIZES:
        language, vision = LLAVA_SIZES[name]
        tokenizer = build_tokenizer((), _VOCABULARY)
        with torch.device("meta"):
            mllm = build_llava(language, vision, token_id(tokenizer, prompts.IMAGE))
        weights = {f"mllm.{tensor_name}": tensor for tensor_name, tensor in mllm.state_dict().items()}
        return Parts(replace(config, vision=vision, language=language), tokenizer, weights)
    sizes = published_config(name)
    processor = stand_in_processor(sizes)
    hub, weights = empty_hub_mllm(sizes, processor)
    return Parts(replace(config, conversation="template"), processor.tokenizer, weights, mllm=hub)


def published_sam(parts: Parts) -> Parts:
    """Add the SAM of `base.sam` to the parts, from its published sizes."""
    name = str(parts.config.base.sam)
    if name in SAM_SIZES:
        with torch.device("meta"):
            state = build_sam1(SAM_SIZES[name]).state_dict()
        weights = parts.weights | {f"segmenter.{tensor_name}": tensor for tensor_name, tensor in state.items()}
        return replace(parts, weights=weights, config=replace(parts.config, sam=SAM_SIZES[name]))
    sam, weights = empty_hub_sam(published_config(HUB_IDS.get(name, name)))
    return replace(parts, weights=parts.weights | weights, sam=sam)


def _is_here(name: str) -> bool:
    return Path(name).is_dir() or ("/" in name and cached_model(name) is not None)
