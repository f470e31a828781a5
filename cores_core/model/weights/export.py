"""Write a model in the format of the released LISA and CoReS weights, for scripts that read these.

The inverse of `releases.py`: export and read are lossless in both orders.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cores_core import prompts
from cores_core.config import Config
from cores_core.errors import CheckpointError
from cores_core.files import replacing
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.families.llava import CONFIG_FILE
from cores_core.model.tokenizer import SentencePieceTokenizer, token_id
from cores_core.model.weights.names import EMBEDDING, HEAD, SECOND_LAYER, TOWER, released_name

TOWER_FOLDER, WEIGHTS_FILE = "clip", "model.safetensors"


def export_released(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a folder in the releases' format, atomically.

    Args:
        dtype: precision of the weights in the files; None for that in memory.

    Raises:
        CheckpointError: the format cannot represent the model's tokenizer or prompts.
    """
    tokenizer, config = checkpoint.processor.tokenizer, checkpoint.config
    if not isinstance(tokenizer, SentencePieceTokenizer) or config.wording != "released":
        raise CheckpointError(
            "this model cannot be written in the releases' format: its tokenizer is of another kind",
            hint="only models initialised from LISA, CoReS or LLaVA weights can",
        )
    ours = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in _released_tensors(checkpoint).items()}
    tower = {f"vision_model.{name.removeprefix(TOWER)}": ours.pop(name) for name in [*ours] if name.startswith(TOWER)}
    weights = {released_name(name, config.vision.projector_layers): tensor for name, tensor in ours.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
        tokenizer.save_pretrained(temporary, without=(prompts.IMAGE,))
        (temporary / TOWER_FOLDER).mkdir()
        _save_json(_tower_tree(config), temporary / TOWER_FOLDER / CONFIG_FILE)
        save_file(tower, temporary / TOWER_FOLDER / WEIGHTS_FILE)
        save_file(weights, temporary / WEIGHTS_FILE)
        _save_json(_config_tree(config, weights["lm_head.weight"]), temporary / CONFIG_FILE)


def _released_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The model's tensors without those added on import: the image token's row, the projector's identity layer."""
    weights: dict[str, Tensor] = dict(checkpoint.model.state_dict())
    image = token_id(checkpoint.processor.tokenizer, prompts.IMAGE)
    for name in (EMBEDDING, HEAD):
        weights[name] = weights[name][: image if image == len(weights[name]) - 1 else None]
    if checkpoint.config.vision.projector_layers == 1:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(SECOND_LAYER)}
    return weights


def _config_tree(config: Config, head: Tensor) -> dict[str, Any]:
    language = config.language
    return {
        "architectures": ["CORESForCausalLM" if config.chain.stages == 2 else "LISAForCausalLM"],
        "model_type": "llava",
        "hidden_act": "silu",
        "hidden_size": language.hidden_size,
        "intermediate_size": language.intermediate_size,
        "num_hidden_layers": language.num_hidden_layers,
        "num_attention_heads": language.num_attention_heads,
        "num_key_value_heads": language.num_key_value_heads or language.num_attention_heads,
        "max_position_embeddings": language.max_position_embeddings,
        "rms_norm_eps": language.rms_norm_eps,
        "rope_theta": language.rope_theta,
        "vocab_size": len(head),
        "tie_word_embeddings": False,
        "torch_dtype": str(head.dtype).removeprefix("torch."),
        "mm_hidden_size": config.vision.hidden_size,
        "mm_use_im_start_end": True,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": config.vision.feature_layer,
        "mm_vision_tower": TOWER_FOLDER,
        "out_dim": config.sam.prompt_embed_dim,
        "train_mask_decoder": True,
    }


def _tower_tree(config: Config) -> dict[str, Any]:
    vision = config.vision
    return {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size or 4 * vision.hidden_size,
        "num_hidden_layers": vision.num_hidden_layers,
        "num_attention_heads": vision.num_attention_heads,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
    }


def _save_json(tree: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
