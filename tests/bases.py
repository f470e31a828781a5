"""Pretrained models in a thimble, in the formats in which real ones come: a LLaVA of the hub, a SAM's `.pth`."""

from collections.abc import Mapping
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from cores_core import prompts
from cores_core.config import SamConfig
from cores_core.model.sams.sam1 import build_sam1
from cores_core.runtime import seed_everything

SAM = SamConfig(
    image_size=64,
    patch_size=8,
    embed_dim=32,
    depth=2,
    num_heads=2,
    window_size=4,
    global_attn_indexes=(1,),
    prompt_embed_dim=16,
    predicts_iou=True,
)
ROWS = 320
"""The vocabulary of the LLaVA, padded beyond its tokens as those of the hub are."""


def save_hub_llava(folder: Path, **changes: object) -> Path:
    """A LLaVA as `llava-hf/llava-1.5-7b-hf` is: two-layer projector, `<image>` in its vocabulary, no chain tokens."""
    tokenizer = _tokenizer()
    seed_everything(3)
    text = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=ROWS,
        max_position_embeddings=4096,
    )
    tower = CLIPVisionConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=28,
        patch_size=14,
    )
    settings = {
        "text_config": text,
        "vision_config": tower,
        "image_token_id": tokenizer.convert_tokens_to_ids(prompts.IMAGE),
        "image_seq_length": 4,
        "vision_feature_layer": -2,
    }
    LlavaForConditionalGeneration(LlavaConfig(**(settings | changes))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_sam(path: Path, changes: Mapping[str, Tensor | None] | None = None) -> Path:
    """A SAM in segment-anything's format; `changes` replace tensors, or remove them with None."""
    seed_everything(4)
    weights = {**build_sam1(SAM).state_dict(), **(changes or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: tensor for name, tensor in weights.items() if tensor is not None}, path)
    return path


def _tokenizer() -> PreTrainedTokenizerFast:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[prompts.UNKNOWN, prompts.BEGIN, prompts.END, prompts.IMAGE, "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["Which part of the fish steers it?"] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=prompts.UNKNOWN,
        bos_token=prompts.BEGIN,
        eos_token=prompts.END,
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
