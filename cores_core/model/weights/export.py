"""Write a model in the format of the released LISA and CoReS weights, for scripts that read these.

<folder>/config.json, model.safetensors   LLaVA with SAM, projection and refiner
<folder>/tokenizer.model, added_tokens.json, tokenizer_config.json
<folder>/clip/                            the vision tower, with its image processor

`releases.py` reads it back without loss in float32. The format has no place for rejections (`chain.rejects`,
`chain.reject_below`) and for the choice of the in-context example (`context`).
"""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from cores_core import prompts
from cores_core.config import Config
from cores_core.errors import CheckpointError
from cores_core.files import replacing
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.families.llava import CONFIG_FILE
from cores_core.model.families.llava_prompts import CLIP_MEAN, CLIP_STD
from cores_core.model.sams.sam1 import Sam1
from cores_core.model.tokenizer import SentencePieceTokenizer
from cores_core.model.weights.names import EMBEDDING, HEAD, SECOND_LAYER, TOWER, released_name

TOWER_FOLDER, WEIGHTS_FILE = "clip", "model.safetensors"
TOKENIZER_CONFIG_FILE, PROCESSOR_FILE = "tokenizer_config.json", "preprocessor_config.json"
_METADATA = {"format": "pt"}
"""Without it, the versions of transformers that LISA and CoReS need cannot read the file."""


def export_released(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a folder in the releases' format, atomically.

    Args:
        dtype: precision of the weights in the files; None for that in memory.

    Raises:
        CheckpointError: the format cannot represent the model's tokenizer, prompts or SAM.
        OSError: the folder cannot be written.
    """
    tokenizer, config = _check_parts(checkpoint), checkpoint.config
    ours = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in _released_tensors(checkpoint).items()}
    tower = {f"vision_model.{name.removeprefix(TOWER)}": ours.pop(name) for name in [*ours] if name.startswith(TOWER)}
    weights = {released_name(name, config.vision.projector_layers): tensor for name, tensor in ours.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
        tokenizer.save_pretrained(temporary, without=_unreleased_tokens(config))
        _save_json(_tokenizer_tree(), temporary / TOKENIZER_CONFIG_FILE)
        (temporary / TOWER_FOLDER).mkdir()
        _save_json(_tower_tree(config), temporary / TOWER_FOLDER / CONFIG_FILE)
        _save_json(_image_processor_tree(config), temporary / TOWER_FOLDER / PROCESSOR_FILE)
        save_file(tower, temporary / TOWER_FOLDER / WEIGHTS_FILE, _METADATA)
        save_file(weights, temporary / WEIGHTS_FILE, _METADATA)
        _save_json(_config_tree(config, weights["lm_head.weight"]), temporary / CONFIG_FILE)


def _check_parts(checkpoint: Checkpoint) -> SentencePieceTokenizer:
    """The tokenizer of a model that the format can represent."""
    tokenizer = checkpoint.processor.tokenizer
    if not isinstance(checkpoint.model.segmenter, Sam1):
        reason = "its SAM is not of the first generation"
    elif not isinstance(tokenizer, SentencePieceTokenizer):
        reason = "its tokenizer is not that of LISA, CoReS or the original LLaVA"
    elif checkpoint.config.wording == "released":
        return tokenizer
    else:
        reason = "it was trained with other prompts than LISA and CoReS, without `wording: released`"
    hint = "its own format is read by cores; `cores checkpoint merge` makes its MLLM readable by transformers"
    raise CheckpointError(f"this model cannot be written in the releases' format: {reason}", hint=hint)


def _unreleased_tokens(config: Config) -> tuple[str, ...]:
    """Tokens that a release of this chain does not have."""
    return (prompts.IMAGE, *([prompts.REFERENCE_SPELLING[prompts.LOC]] if config.chain.stages == 1 else []))


def _released_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The model's tensors without those added on import: rows of tokens, the projector's identity layer."""
    weights: dict[str, Tensor] = dict(checkpoint.model.state_dict())
    added = checkpoint.processor.tokenizer.get_added_vocab()
    dropped = {added.pop(token) for token in _unreleased_tokens(checkpoint.config) if token in added}
    last = max(added.values())
    for name in (EMBEDDING, HEAD):
        count = len(weights[name])  # a dropped row between the last token and the end remains, as padding
        weights[name] = weights[name][[row for row in range(count) if row not in dropped or last < row < count - 1]]
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


def _tokenizer_tree() -> dict[str, Any]:
    return {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": True,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
        "bos_token": prompts.BEGIN,
        "eos_token": prompts.END,
        "unk_token": prompts.UNKNOWN,
        "pad_token": prompts.UNKNOWN,
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


def _image_processor_tree(config: Config) -> dict[str, Any]:
    side = config.vision.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": Image.Resampling.BICUBIC.value,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
    }


def _save_json(tree: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
