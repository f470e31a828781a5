"""A checkpoint is a folder that can explain itself; `checkpoint.json` is written last and makes it one.

    mllm.safetensors     all weights of the multimodal LLM
    heads.safetensors    projection, refiner, SAM
    processor/           tokenizer with the chain's tokens
    config.yaml          the resolved config
    concepts.safetensors what stood in for pretraining (train/concepts.py), where it did: only to train on
    optimizer/           only for resuming
    checkpoint.json      format, step, dtype, token ids, package versions

Loading is strict: a missing, extra or misshapen tensor is an error that names it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from cores_core.config import Config, load_config, render_config
from cores_core.errors import CheckpointError
from cores_core.files import replacing
from cores_core.model.build import build_model, build_processor
from cores_core.model.convert import is_released, read_released
from cores_core.model.cores import CoresModel
from cores_core.model.hub import fetch_model, is_hub_id
from cores_core.model.processor import Processor, Tokenizer
from cores_core.model.segmenter import resize_positions
from cores_core.model.tensors import read_file
from cores_core.model.tokenizer import MODEL_FILE, SentencePieceTokenizer

FORMAT = 1
CONCEPTS = "concepts"
EMBEDDED = "tiny"
"""The name of the model that ships with the package."""
_PACKAGES = ("torch", "transformers", "segment-anything", "tokenizers")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with all that belongs to it."""

    model: CoresModel
    processor: Processor
    config: Config
    about: Mapping[str, Any]


def save_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    dtype: torch.dtype = torch.float32,
    optimizer: Mapping[str, Any] | None = None,
    concepts: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint; it appears under its name only when it is whole.

    Args:
        folder: where; an existing one is replaced.
        dtype: precision of the weights in the files.
        optimizer: state to resume from, if it is to be resumed.
        concepts: tensors of the concept head, if further training is to find them.
    """
    model, processor = checkpoint.model, checkpoint.processor
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
        temporary.mkdir()
        mllm, heads = _split_weights(model.state_dict())
        files: dict[str, Mapping[str, Tensor]] = {"mllm": mllm, "heads": heads}
        for name, weights in (files | ({} if concepts is None else {CONCEPTS: concepts})).items():
            stored = {key: value.detach().to("cpu", dtype).contiguous() for key, value in weights.items()}
            save_file(stored, temporary / f"{name}.safetensors")
        processor.tokenizer.save_pretrained(temporary / "processor")
        (temporary / "config.yaml").write_text(render_config(checkpoint.config), encoding="utf-8")
        if optimizer is not None:
            (temporary / "optimizer").mkdir()
            torch.save(dict(optimizer), temporary / "optimizer" / "state.pt")
        about = {
            **checkpoint.about,
            "format": FORMAT,
            "dtype": str(dtype).removeprefix("torch."),
            "token_ids": dict(zip(processor.prompt.chain, processor.chain_ids, strict=True)),
            "versions": {package: metadata.version(package) for package in _PACKAGES},
        }
        (temporary / "checkpoint.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def load_checkpoint(source: str | Path, image_size: int | None = None) -> Checkpoint:
    """Load a checkpoint, a folder of released weights, or the embedded model by its name, in float32 on the CPU.

    Args:
        image_size: side of SAM's square in pixels, to train on at another size; None for that of the checkpoint.

    Raises:
        CheckpointError: there is none, it is incomplete, or a tensor is missing, extra or of another shape.
    """
    folder = find_checkpoint(source)
    if is_released(folder):
        released = read_released(folder)
        config, weights = released.config, released.weights
        tokenizer: Tokenizer = released.tokenizer
        about: Mapping[str, Any] = {"released": True}
    else:
        about = _load_about(folder / "checkpoint.json")
        config, tokenizer = load_config(folder / "config.yaml"), _load_tokenizer(folder / "processor")
        weights = {}
        for name in ("mllm", "heads"):
            weights |= dict(read_file(folder / f"{name}.safetensors"))
    if image_size is not None and image_size != config.sam.image_size:
        config = replace(config, sam=replace(config.sam, image_size=image_size))
        weights |= resize_positions(weights, image_size // config.sam.patch_size)
    processor = build_processor(config, tokenizer)
    with init_empty_weights(include_buffers=False):
        model = build_model(config, processor)
    _check_weights(model, weights, folder)
    # copies, one by one: tensors of a file are not aligned in memory, which changes the last bits of products
    own = {name: weights.pop(name).to(torch.float32, copy=True) for name in list(weights)}
    model.load_state_dict(own, assign=True)
    return Checkpoint(model.requires_grad_(True).eval(), processor, config, about)


def load_concepts(folder: Path) -> dict[str, Tensor]:
    """The tensors of the concept head that a model was trained with, in float32."""
    return {name: tensor.float() for name, tensor in read_file(folder / f"{CONCEPTS}.safetensors")}


def load_optimizer(folder: Path) -> Mapping[str, Any]:
    """The state that `save_checkpoint` wrote for resuming."""
    path = folder / "optimizer" / "state.pt"
    if not path.is_file():
        raise CheckpointError(f"nothing to resume from, no optimizer state in: {folder}")
    state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def describe_checkpoint(checkpoint: Checkpoint) -> tuple[dict[str, int], dict[str, str]]:
    """The number of parameters of each part and in all; and what else is worth knowing, by name."""
    model, processor = checkpoint.model, checkpoint.processor
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
    sizes = {
        name: 0 if module is None else sum(parameter.numel() for parameter in module.parameters())
        for name, module in parts.items()
    }
    sizes["all"] = sum(sizes.values())
    tokens = zip(processor.prompt.chain, processor.chain_ids, strict=True)
    facts = {
        "chain": f"{checkpoint.config.chain.steps} steps",
        "tokens": ", ".join(f"{token} = {index}" for token, index in tokens),
        "context": checkpoint.config.context,
        "wording": checkpoint.config.wording,
        "image sizes": f"{processor.images.mllm_size} px (MLLM), {processor.images.sam_size} px (SAM)",
        **{key: str(value) for key, value in checkpoint.about.items() if not isinstance(value, dict | list)},
    }
    return sizes, facts


def find_checkpoint(source: str | Path) -> Path:
    """The folder of a checkpoint given by path, by hub id, or by the embedded model's name."""
    embedded = str(source) == EMBEDDED
    folder = Path(str(resources.files("cores_core") / "weights" / EMBEDDED)) if embedded else Path(source)
    if not embedded and is_hub_id(str(source)):
        folder = fetch_model(str(source))
    if not (folder / "checkpoint.json").is_file() and not is_released(folder):
        hint = f"give a checkpoint, released weights, a hub id, or `{EMBEDDED}`, the model that ships with cores"
        known = "is not a checkpoint (no checkpoint.json)" if folder.is_dir() else "does not exist"
        raise CheckpointError(f"model {known}: {source}", hint=hint)
    return folder


def _split_weights(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    mllm = {key: value for key, value in weights.items() if key.startswith("mllm.")}
    return mllm, {key: value for key, value in weights.items() if key not in mllm}


def _load_about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read: {path} ({error})") from error
    found = about.get("format") if isinstance(about, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"checkpoint format {found} is not {FORMAT}: {path.parent}")
    return dict(about)


def _load_tokenizer(folder: Path) -> Tokenizer:
    if (folder / MODEL_FILE).is_file():
        return SentencePieceTokenizer(folder)
    try:
        tokenizer: Tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        return tokenizer
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the tokenizer: {folder} ({error})") from error


def _check_weights(model: CoresModel, weights: Mapping[str, Tensor], folder: Path) -> None:
    expected = model.state_dict()
    problems = [f"missing {name}" for name in expected if name not in weights]
    problems += [f"unknown {name}" for name in weights if name not in expected]
    problems += [
        f"shape of {name} is {tuple(weights[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected
        if name in weights and weights[name].shape != expected[name].shape
    ]
    if problems:
        listed = "; ".join(problems[:3])
        raise CheckpointError(f"{len(problems)} tensors do not fit in {folder}: {listed}")
