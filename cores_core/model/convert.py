"""Read a folder in the format of the released LISA and CoReS weights: sizes, tokenizer, and tensors by our names.

    config.json            sizes of the LLaMA; `mm_vision_tower` names the CLIP (a folder, relative to this one or not)
    tokenizer.model, added_tokens.json
    model.safetensors, pytorch_model.bin, or shards with an index

Source: the releases of LISA and CoReS. The size of SAM stands nowhere; it follows from the shapes of its tensors.
`model_type` is "llava" there, which means another class in transformers, so `config.json` is read directly.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cores_core import prompts
from cores_core.config import ChainConfig, Config, LanguageConfig, SamConfig, VisionConfig
from cores_core.errors import CheckpointError, ConfigError
from cores_core.model.hub import fetch_model, is_hub_id
from cores_core.model.names import EMBEDDING, FIRST_LAYER, HEAD, SECOND_LAYER, TOWER, is_derived, our_name
from cores_core.model.tensors import read_tensors
from cores_core.model.tokenizer import MODEL_FILE, SentencePieceTokenizer

Json = Mapping[str, Any]
Tensors = dict[str, Tensor]

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class ReleasedModel:
    """All that a released folder holds, in our terms: `weights` are the state of the `CoresModel` of `config`."""

    config: Config
    tokenizer: SentencePieceTokenizer
    weights: Tensors


def is_released(folder: Path) -> bool:
    """Whether a folder looks like released weights."""
    return (folder / CONFIG_FILE).is_file() and (folder / MODEL_FILE).is_file()


def read_released(folder: Path) -> ReleasedModel:
    """Read released weights.

    Raises:
        CheckpointError: a file is missing or damaged, or the tokenizer has no token to segment with.
    """
    tree = _load_json(folder / CONFIG_FILE)
    weights = {our_name(name): tensor for name, tensor in read_tensors(folder) if not is_derived(name)}
    tower_folder = find_tower(tree, folder)
    tower = _load_json(tower_folder / CONFIG_FILE)
    tower = tower.get("vision_config", tower)
    if not any(name.startswith(TOWER) for name in weights):
        weights |= dict(_read_tower(tower_folder))
    tokenizer = SentencePieceTokenizer(folder, image_id=len(_tensor(weights, HEAD)))
    refiner = "refiner.norm.weight" in weights
    steps = 2 if refiner or prompts.REFERENCE_SPELLING[prompts.LOC] in tokenizer else 1
    try:
        config = Config(
            language=_language(tree, weights),
            vision=_vision(tree, tower, weights),
            sam=_sam(weights),
            chain=ChainConfig(steps=steps, refiner=refiner),
            context="fixed" if steps == 2 else "none",
            wording="released",
        )
    except (KeyError, ConfigError) as error:
        raise CheckpointError(f"sizes do not make sense in: {folder} ({error})") from error
    for token in (*config.prompt.chain, prompts.IMAGE_START, prompts.IMAGE_END):
        if token not in tokenizer:
            raise CheckpointError(f"the tokenizer has no token {token}: {folder}", hint="is this LISA or CoReS?")
    _add_image_row(weights)
    _add_identity(weights)
    return ReleasedModel(config, tokenizer, weights)


def find_tower(tree: Json, folder: Path) -> Path:
    """The folder of the CLIP that a released config names: relative to its own, elsewhere, or by hub id.

    Raises:
        CheckpointError: it names none, or it is not there.
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


def _language(tree: Json, weights: Tensors) -> LanguageConfig:
    """The LLaMA. Its vocabulary gets one row more, for the image token, which has no id in the releases."""
    heads = int(tree["num_attention_heads"])
    return LanguageConfig(
        width=tree["hidden_size"],
        layers=tree["num_hidden_layers"],
        heads=heads,
        key_heads=tree.get("num_key_value_heads", heads),
        mlp=tree["intermediate_size"],
        vocabulary=len(_tensor(weights, HEAD)) + 1,
        positions=tree.get("max_position_embeddings", 2048),
        norm_epsilon=tree.get("rms_norm_eps", 1e-6),
        rope_theta=float(tree.get("rope_theta") or 10000.0),
    )


def _vision(tree: Json, tower: Json, weights: Tensors) -> VisionConfig:
    return VisionConfig(
        image_size=tower["image_size"],
        patch_size=tower["patch_size"],
        width=tower["hidden_size"],
        layers=tower["num_hidden_layers"],
        heads=tower["num_attention_heads"],
        mlp=tower["intermediate_size"],
        fit="crop",
        read_layer=tree.get("mm_vision_select_layer", -2),
        projector_layers=2 if f"{SECOND_LAYER}weight" in weights else 1,
    )


def _sam(weights: Tensors) -> SamConfig:
    """The size of a SAM from its tensors: heads from the width of the relative positions, windows from their length."""
    prefix = "segmenter.image_encoder."
    position = _tensor(weights, f"{prefix}pos_embed")
    grid, width = position.shape[1], position.shape[3]
    patch = _tensor(weights, f"{prefix}patch_embed.proj.weight").shape[-1]
    blocks = [name for name in weights if name.startswith(prefix) and name.endswith("rel_pos_h")]
    reaches = [_tensor(weights, f"{prefix}blocks.{number}.attn.rel_pos_h").shape for number in range(len(blocks))]
    spans = [(length + 1) // 2 for length, _ in reaches]
    return SamConfig(
        image_size=grid * patch,
        patch_size=patch,
        width=width,
        depth=len(blocks),
        heads=width // reaches[0][1],
        window=min((span for span in spans if span < grid), default=0),
        global_blocks=tuple(number for number, span in enumerate(spans) if span == grid),
        prompt_width=_tensor(weights, f"{prefix}neck.0.weight").shape[0],
    )


def _add_image_row(weights: Tensors) -> None:
    for name in (EMBEDDING, HEAD):
        rows = _tensor(weights, name)
        weights[name] = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])


def _add_identity(weights: Tensors) -> None:
    """A projector of one layer is one of two whose second does nothing."""
    if f"{SECOND_LAYER}weight" not in weights:
        bias = _tensor(weights, f"{FIRST_LAYER}bias")
        weights[f"{SECOND_LAYER}weight"] = torch.eye(len(bias), dtype=bias.dtype)
        weights[f"{SECOND_LAYER}bias"] = torch.zeros_like(bias)


def _read_tower(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in read_tensors(folder):
        if name.startswith("vision_model.") and not is_derived(name):
            yield f"{TOWER}{name.removeprefix('vision_model.')}", tensor


def _tensor(weights: Tensors, name: str) -> Tensor:
    if name not in weights:
        raise CheckpointError(f"missing tensor: {name}")
    return weights[name]


def _load_json(path: Path) -> Json:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read: {path} ({error})") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"not a JSON object: {path}")
    return tree
