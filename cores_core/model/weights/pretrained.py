"""Initialise a model from a pretrained multimodal LLM and a pretrained SAM; all other parts get random weights.

Source: CoReS (arXiv:2404.05673), appendix A: LLaVA and SAM ViT-H; projection, refiner and chain tokens are new.
"""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedConfig

from cores_core import prompts
from cores_core.config import BaseConfig, Config
from cores_core.errors import CheckpointError
from cores_core.model.build import Parts, build_mllm, build_segmenter, with_vocabulary
from cores_core.model.cores import build_projection
from cores_core.model.families.hub import read_hub_mllm
from cores_core.model.families.llava import is_llava, model_type, read_llava
from cores_core.model.families.table import FAMILIES
from cores_core.model.refiner import TokenRefiner
from cores_core.model.sams.sam1 import sam_sizes
from cores_core.model.sams.table import find_sam, read_sam, sam_weight_files
from cores_core.model.tokenizer import Tokenizer
from cores_core.model.weights.adapters import refuse_adapter
from cores_core.model.weights.delta import delta_command
from cores_core.model.weights.hub import fetch_model, is_hub_id
from cores_core.model.weights.stand_in import SOURCE, find_absent, published_mllm, published_sam
from cores_core.model.weights.tensors import Tensors, weight_files
from cores_core.model.weights.vocabulary import add_image_token, add_tokens

FINGERPRINT_BYTES = 1 << 20


def read_base(
    config: Config, new_tokenizer: Callable[[], Tokenizer], shapes_only: bool = False, published: bool = False
) -> Parts:
    """Read the models of `config.base` and build the rest. The sizes in the returned config are those of the weights.

    Args:
        new_tokenizer: builds a tokenizer; called if there is no pretrained MLLM.
        shapes_only: read and build on the meta device: names and shapes without values.
        published: with `shapes_only`: use published sizes for models that are not available locally (no download).

    Raises:
        CheckpointError: a file is missing, damaged or of an unsupported model.
    """
    assert shapes_only or not published
    absent = find_absent(config.base) if published else frozenset()
    if config.base.mllm is None:
        parts = Parts(config, new_tokenizer(), {})
    else:
        read = published_mllm(config) if "mllm" in absent else _read_mllm(config, shapes_only)
        parts = _add_chain(read)
    if "sam" in absent:
        parts = published_sam(parts)
    elif config.base.sam is not None:
        parts = _add_sam(parts, *read_sam(find_sam(config.base.sam), shapes_only))
    with torch.device("meta" if shapes_only else "cpu"):
        parts.weights.update(_build_missing(parts))
    return replace(parts, about={"base": describe_base(config.base, absent)})


def _read_mllm(config: Config, shapes_only: bool) -> Parts:
    """Read the multimodal LLM of a config, with its original vocabulary."""
    folder = find_mllm(str(config.base.mllm))
    if is_llava(folder):
        llava = read_llava(folder, shapes_only)
        config = replace(config, vision=llava.vision, language=llava.language)
        return Parts(config, llava.tokenizer, llava.weights)
    hub, weights = read_hub_mllm(folder, shapes_only)
    return Parts(replace(config, conversation="template"), hub.processor.tokenizer, weights, mllm=hub)


def _add_chain(parts: Parts) -> Parts:
    """Add embedding rows for the chain tokens, and for a LLaVA those of the image and its start and end tokens."""
    chain = parts.config.prompt.chain
    if parts.mllm is not None:
        return with_vocabulary(parts, add_tokens(parts.tokenizer, parts.weights, chain))
    add_tokens(parts.tokenizer, parts.weights, (*chain, prompts.IMAGE_START, prompts.IMAGE_END))
    return with_vocabulary(parts, add_image_token(parts.tokenizer, parts.weights))


def _add_sam(parts: Parts, sam: PreTrainedConfig | None, weights: Tensors) -> Parts:
    parts.weights.update(weights)
    if sam is None:
        return replace(parts, config=replace(parts.config, sam=sam_sizes(weights)))
    return replace(parts, sam=sam)


def find_mllm(source: str) -> Path:
    """Folder of a multimodal LLM given by path or hub id (downloaded).

    Raises:
        CheckpointError: there is none, its family is not supported, or it is an adapter of peft.
    """
    command = delta_command(source)
    how = "" if command is None else f"it is published as a difference from LLaMA; make it with: {command}"
    try:
        folder = fetch_model(source) if is_hub_id(source) else Path(source)
    except CheckpointError as error:
        raise CheckpointError(error.message, hint=f"{how}; or {error.hint}" if how else error.hint) from error
    refuse_adapter(folder)
    found = model_type(folder)
    if not is_llava(folder) and found not in FAMILIES:
        known = f"is of the model type `{found}`, which is not supported" if found else "is not a multimodal LLM"
        hint = f"give a folder or a hub id of LLaVA 1 or 1.5, or of one of these model types: {', '.join(FAMILIES)}"
        if not folder.is_dir():
            raise CheckpointError(f"base.mllm does not exist: {source}", hint=how or hint)
        raise CheckpointError(f"base.mllm {known}: {source}", hint=hint)
    return folder


def describe_base(base: BaseConfig, absent: Collection[str] = ()) -> dict[str, dict[str, str]]:
    """`source` and `fingerprint` of the pretrained `mllm` and `sam`, as far as they are set.

    Args:
        absent: parts of which only published sizes are known.
    """
    found: dict[str, dict[str, str]] = {}
    if base.mllm is not None and "mllm" not in absent:
        folder = find_mllm(base.mllm)
        found["mllm"] = describe_source(base.mllm, [folder / "config.json", *weight_files(folder)])
    if base.sam is not None and "sam" not in absent:
        found["sam"] = describe_source(base.sam, sam_weight_files(find_sam(base.sam)))
    return found | {name: {"source": getattr(base, name), "fingerprint": SOURCE} for name in sorted(absent)}


def describe_source(source: str, files: list[Path]) -> dict[str, str]:
    """Source of weights, and a fingerprint: SHA-256 (16 hex digits) of file sizes and the first megabyte of each file.

    A safetensors file begins with the names and shapes of its tensors.
    """
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(str(path.stat().st_size).encode())
            digest.update(file.read(FINGERPRINT_BYTES))
    return {"source": source, "fingerprint": digest.hexdigest()[:16]}


def _build_missing(parts: Parts) -> Tensors:
    """Random weights, from torch's global generator, for the parts of a model without any tensor in `parts.weights`."""
    chain, weights = parts.config.chain, parts.weights
    builders: dict[str, Callable[[], nn.Module]] = {
        "mllm.": lambda: build_mllm(parts),
        "segmenter.": lambda: build_segmenter(parts),
        "projection.": lambda: build_projection(parts.mllm_width, parts.prompt_width),
    }
    if chain.refiner and chain.stages > 1:
        builders["refiner."] = lambda: TokenRefiner(parts.prompt_width)
    built: Tensors = {}
    for prefix, build in builders.items():
        if not any(name.startswith(prefix) for name in weights):
            built |= {f"{prefix}{name}": tensor for name, tensor in build().state_dict().items()}
    return built
