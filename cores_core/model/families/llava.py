"""Read and build LLaVA 1 and 1.5, in the hub's format or the original one: sizes, tokenizer, tensors with our names.

    hub format       config.json with `text_config` and `vision_config`, tokenizer.json, all weights in one folder
    original format  config.json of a LLaMA; `mm_vision_tower` is the CLIP (folder, absolute or relative to this one, or
                     hub id); tokenizer.model, added_tokens.json. Also used by LISA and CoReS

`model_type` is "llava" in both although the classes differ, so `config.json` is read directly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from cores_core.config import LanguageConfig, VisionConfig
from cores_core.errors import CheckpointError, ConfigError, reason_of
from cores_core.files import read_json
from cores_core.model.families.table import LLAVA
from cores_core.model.mllm import Mllm
from cores_core.model.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer
from cores_core.model.weights.hub import fetch_model, is_hub_id
from cores_core.model.weights.names import (
    EMBEDDING,
    FIRST_LAYER,
    HEAD,
    SECOND_LAYER,
    TOWER,
    is_derived,
    our_hub_name,
    our_name,
)
from cores_core.model.weights.tensors import Tensors, get_tensor, read_tensors
from cores_core.model.weights.transformers_io import read_config

Json = Mapping[str, Any]

CONFIG_FILE = "config.json"
MODEL_TYPE = "llava"
"""`model_type` of LLaVA 1 and 1.5 in the hub's format."""
_OTHER_MODEL = "this is no LLaVA 1 or 1.5"


@dataclass(frozen=True)
class Llava:
    """A LLaVA: sizes, tokenizer, and `weights` as the state dict of the `Mllm` with these sizes."""

    language: LanguageConfig
    vision: VisionConfig
    tokenizer: Tokenizer
    weights: Tensors


def is_llava(folder: Path) -> bool:
    """Whether a folder has the config.json of a LLaVA, in either format."""
    return is_original(folder) or (
        model_type(folder) == MODEL_TYPE and "text_config" in load_json(folder / CONFIG_FILE)
    )


def is_original(folder: Path) -> bool:
    """Whether a folder has the config.json of a LLaVA in the original format."""
    path = folder / CONFIG_FILE
    return path.is_file() and not {"mm_vision_tower", "vision_tower"}.isdisjoint(load_json(path))


def model_type(folder: Path) -> str | None:
    """`model_type` of a folder's config.json; None if it is absent or there is no config.json."""
    path = folder / CONFIG_FILE
    found = load_json(path).get("model_type") if path.is_file() else None
    return found if isinstance(found, str) else None


def read_llava(folder: Path, shapes_only: bool = False) -> Llava:
    """Read a LLaVA with its original vocabulary.

    Raises:
        CheckpointError: a file is missing or damaged, or the architecture is not that of LLaVA 1 or 1.5.
    """
    tree = load_json(folder / CONFIG_FILE)
    if "text_config" in tree:
        return _read_hub(folder, shapes_only)
    weights = read_original(folder, tree, shapes_only)
    language, vision = original_sizes(folder, tree, weights)
    return Llava(language, vision, SentencePieceTokenizer(folder), add_identity(weights))


def read_original(folder: Path, tree: Json, shapes_only: bool) -> Tensors:
    """Read all tensors of a LLaVA in the original format, with our names; those of CLIP may be in another folder."""
    weights = {our_name(name): tensor for name, tensor in read_tensors(folder, shapes_only) if not is_derived(name)}
    if not any(name.startswith(TOWER) for name in weights):
        for name, tensor in read_tensors(find_tower(tree, folder), shapes_only):
            if name.startswith("vision_model.") and not is_derived(name):
                weights[f"{TOWER}{name.removeprefix('vision_model.')}"] = tensor
    return weights


def original_sizes(folder: Path, tree: Json, weights: Tensors) -> tuple[LanguageConfig, VisionConfig]:
    """Read the sizes of a model in the original format; the vocabulary size is the number of rows of its head.

    Raises:
        CheckpointError: sizes are missing or invalid, or the rope is scaled.
    """
    tower = load_json(find_tower(tree, folder) / CONFIG_FILE)
    tower = tower.get("vision_config", tower)
    try:
        heads = int(tree["num_attention_heads"])
        language = LanguageConfig(
            hidden_size=tree["hidden_size"],
            num_hidden_layers=tree["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=tree.get("num_key_value_heads", heads),
            intermediate_size=tree["intermediate_size"],
            vocab_size=len(get_tensor(weights, HEAD)),
            max_position_embeddings=tree.get("max_position_embeddings", 2048),
            rms_norm_eps=tree.get("rms_norm_eps", 1e-6),
            rope_theta=_rope_theta(tree, folder),
        )
        vision = VisionConfig(
            image_size=tower["image_size"],
            patch_size=tower["patch_size"],
            hidden_size=tower["hidden_size"],
            num_hidden_layers=tower["num_hidden_layers"],
            num_attention_heads=tower["num_attention_heads"],
            intermediate_size=tower["intermediate_size"],
            fit="crop",
            feature_layer=tree.get("mm_vision_select_layer", -2),
            projector_layers=2 if f"{SECOND_LAYER}weight" in weights else 1,
        )
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"missing or invalid sizes in: {folder} ({reason_of(error)})") from error
    return language, vision


def _rope_theta(tree: Json, folder: Path) -> float:
    """The base of the rope in a config of the original format, as transformers 4 or 5 writes it."""
    rope = dict(tree.get("rope_parameters") or {}) | dict(tree.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise CheckpointError(f"its rope is `{kind}`, not `default`: {folder}", hint=_OTHER_MODEL)
    return float(tree.get("rope_theta") or rope.get("rope_theta") or 10000.0)


def find_tower(tree: Json, folder: Path) -> Path:
    """Folder of the CLIP named in a config of the original format: a path relative to `folder`, a path, or a hub id.

    Raises:
        CheckpointError: the config names none, or it cannot be found.
    """
    name = tree.get("mm_vision_tower") or tree.get("vision_tower")
    if not name:
        raise CheckpointError(f"`mm_vision_tower` is missing in: {folder / CONFIG_FILE}")
    for place in (folder / name, Path(name)):
        if place.is_dir():
            return place
    if is_hub_id(name):
        return fetch_model(name)
    hint = f"download it beside the model, to {folder / name}, or name its folder in {folder / CONFIG_FILE}"
    raise CheckpointError(f"no such CLIP vision tower: {name}", hint=hint)


def add_identity(weights: Tensors) -> Tensors:
    """Append an identity layer to one-layer projectors, so that they fit the two-layer architecture."""
    if f"{SECOND_LAYER}weight" in weights:
        return weights
    bias = get_tensor(weights, f"{FIRST_LAYER}bias")
    second = {"weight": torch.eye(len(bias), dtype=bias.dtype, device=bias.device), "bias": torch.zeros_like(bias)}
    return weights | {f"{SECOND_LAYER}{name}": tensor for name, tensor in second.items()}


def build_llava(language: LanguageConfig, vision: VisionConfig, image_token_id: int) -> Mllm:
    """Build a LLaVA of the given sizes with random weights: a Llama, a CLIP vision tower, a projector.

    The projector always has two layers; for `projector_layers=1` the second must be loaded with the identity.
    """
    text = LlamaConfig(
        hidden_size=language.hidden_size,
        num_hidden_layers=language.num_hidden_layers,
        num_attention_heads=language.num_attention_heads,
        num_key_value_heads=language.num_key_value_heads or language.num_attention_heads,
        intermediate_size=language.intermediate_size,
        vocab_size=language.vocab_size,
        max_position_embeddings=language.max_position_embeddings,
        rms_norm_eps=language.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": language.rope_theta},
        initializer_range=language.hidden_size**-0.5,
    )
    tower = CLIPVisionConfig(
        hidden_size=vision.hidden_size,
        intermediate_size=vision.intermediate_size or 4 * vision.hidden_size,
        num_hidden_layers=vision.num_hidden_layers,
        num_attention_heads=vision.num_attention_heads,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
    )
    config = LlavaConfig(
        text_config=text,
        vision_config=tower,
        image_token_id=image_token_id,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=vision.feature_layer,
        projector_hidden_act="gelu" if vision.projector_layers == 2 else "linear",
        tie_word_embeddings=False,
    )
    return Mllm(LlavaForConditionalGeneration(config), LLAVA)


def load_json(path: Path) -> Json:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: the file cannot be read or is not a JSON object.
    """
    try:
        tree = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read: {path} ({reason_of(error)})") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"not a JSON object: {path}")
    return tree


def _read_hub(folder: Path, shapes_only: bool) -> Llava:
    config = read_config(LlavaConfig, folder)
    text, tower = config.text_config, config.vision_config
    known = {
        "the language model": (text.model_type, "llama"),
        "its rope": (text.rope_parameters.get("rope_type", "default"), "default"),
        "the vision tower": (tower.model_type, "clip_vision_model"),
        "the projector's activation": (config.projector_hidden_act, "gelu"),
        "the feature selection of the tower": (config.vision_feature_select_strategy, "default"),
    }
    for what, (found, expected) in known.items():
        if found != expected:
            raise CheckpointError(f"{what} is `{found}`, not `{expected}`: {folder}", hint=_OTHER_MODEL)
    weights = {our_hub_name(name): tensor for name, tensor in read_tensors(folder, shapes_only)}
    weights = {name: tensor for name, tensor in weights.items() if not is_derived(name)}
    language = LanguageConfig(
        hidden_size=text.hidden_size,
        num_hidden_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        intermediate_size=text.intermediate_size,
        vocab_size=len(get_tensor(weights, EMBEDDING)),
        max_position_embeddings=text.max_position_embeddings,
        rms_norm_eps=text.rms_norm_eps,
        rope_theta=float(text.rope_parameters["rope_theta"]),
    )
    vision = VisionConfig(
        image_size=tower.image_size,
        patch_size=tower.patch_size,
        hidden_size=tower.hidden_size,
        num_hidden_layers=tower.num_hidden_layers,
        num_attention_heads=tower.num_attention_heads,
        intermediate_size=tower.intermediate_size,
        fit="crop",
        feature_layer=config.vision_feature_layer,
        projector_layers=2,
    )
    return Llava(language, vision, load_tokenizer(folder), weights)
