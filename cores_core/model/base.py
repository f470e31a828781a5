"""Pretrained weights to begin with: a LLaVA, a SAM. What they do not bring is built with random weights.

Source: CoReS (arXiv:2404.05673), appendix A: LLaVA and SAM ViT-H; projection, refiner and the chain's tokens are new.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from cores_core import prompts
from cores_core.config import BaseConfig, Config
from cores_core.errors import CheckpointError
from cores_core.model.build import Parts, build_processor
from cores_core.model.cores import build_projection
from cores_core.model.hub import fetch_model, is_hub_id
from cores_core.model.llava import is_llava, model_type, read_llava
from cores_core.model.mllm import build_mllm
from cores_core.model.processor import Tokenizer
from cores_core.model.refiner import TokenRefiner
from cores_core.model.segmenter import build_segmenter, sam_sizes
from cores_core.model.tensors import Tensors, read_file, weight_files
from cores_core.model.vocabulary import add_image_token, add_tokens

SAM_FILES = {
    name: f"sam_{name}_{digest}.pth" for name, digest in (("vit_h", "4b8939"), ("vit_l", "0b3195"), ("vit_b", "01ec64"))
}
"""The released SAMs by their names in segment-anything; the ending is the beginning of the file's SHA-256."""
SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
FINGERPRINT_BYTES = 1 << 20


def read_base(config: Config, new_tokenizer: Callable[[], Tokenizer], shapes_only: bool = False) -> Parts:
    """Read what `config.base` names and build the rest; sizes of what is read replace those of the config.

    Args:
        new_tokenizer: makes a tokenizer where no pretrained MLLM brings one.
        shapes_only: read and build on the meta device: sizes and names without values.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit.
    """
    weights: Tensors = {}
    if config.base.mllm is None:
        tokenizer = new_tokenizer()
    else:
        llava = read_llava(find_mllm(config.base.mllm), shapes_only)
        tokenizer, weights = llava.tokenizer, llava.weights
        tokens = (*config.prompt.chain, prompts.IMAGE_START, prompts.IMAGE_END)
        language = add_tokens(llava.language, tokenizer, weights, tokens)
        language = add_image_token(language, tokenizer, weights)
        config = replace(config, language=language, vision=llava.vision)
    if config.base.sam is not None:
        weights |= read_sam(find_sam(config.base.sam), shapes_only)
        config = replace(config, sam=sam_sizes(weights))
    with torch.device("meta" if shapes_only else "cpu"):
        weights |= _build_missing(config, tokenizer, weights)
    return Parts(config, tokenizer, weights, about={"base": describe_base(config.base)})


def read_sam(path: Path, shapes_only: bool = False) -> Tensors:
    """A SAM in segment-anything's own format, by our names.

    Raises:
        CheckpointError: the file is damaged, or no SAM.
    """
    return {
        f"segmenter.{name}": tensor
        for name, tensor in read_file(path, shapes_only)
        if name not in ("pixel_mean", "pixel_std")
    }


def find_mllm(source: str) -> Path:
    """The folder of a LLaVA given by path or by hub id.

    Raises:
        CheckpointError: there is none.
    """
    folder = fetch_model(source) if is_hub_id(source) else Path(source)
    if not is_llava(folder):
        found = model_type(folder)
        known = f"is of the model type `{found}`, not a LLaVA" if found else "is not a LLaVA"
        hint = "LLaVA 1 and 1.5 are supported: give a folder or a hub id, such as llava-hf/llava-1.5-7b-hf"
        raise CheckpointError(f"base.mllm {known if folder.is_dir() else 'does not exist'}: {source}", hint=hint)
    return folder


def find_sam(source: str) -> Path:
    """A SAM's file, given by path, or by its name: then from torch's hub cache, or downloaded into it.

    Raises:
        CheckpointError: there is no such file, or it cannot be downloaded.
    """
    if source not in SAM_FILES:
        if not Path(source).is_file():
            hint = f"set base.sam to the path of a sam_vit_*.pth, or one of {', '.join(SAM_FILES)}"
            raise CheckpointError(f"base.sam does not exist: {source}", hint=hint)
        return Path(source)
    name = SAM_FILES[source]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = name.removesuffix(".pth").rpartition("_")[2]
        try:
            torch.hub.download_url_to_file(f"{SAM_URL}{name}", str(path), hash_prefix=digest, progress=False)
        except (OSError, RuntimeError) as error:
            hint = f"check the network, or download {SAM_URL}{name} and set base.sam to its path"
            raise CheckpointError(f"cannot download SAM {source} ({error})", hint=hint) from error
    return path


def describe_base(base: BaseConfig) -> dict[str, dict[str, str]]:
    """What a model began with, by the names of the settings: its source and its fingerprint; empty for nothing."""
    found: dict[str, dict[str, str]] = {}
    if base.mllm is not None:
        folder = find_mllm(base.mllm)
        found["mllm"] = describe_source(base.mllm, [folder / "config.json", *weight_files(folder)])
    if base.sam is not None:
        found["sam"] = describe_source(base.sam, [find_sam(base.sam)])
    return found


def describe_source(source: str, files: list[Path]) -> dict[str, str]:
    """Where weights come from, with a digest of the sizes and the first megabyte of their files.

    A safetensors file begins with the names and shapes of what it holds.
    """
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(str(path.stat().st_size).encode())
            digest.update(file.read(FINGERPRINT_BYTES))
    return {"source": source, "fingerprint": digest.hexdigest()[:16]}


def _build_missing(config: Config, tokenizer: Tokenizer, weights: Tensors) -> Tensors:
    """Random weights, from torch's global generator, for the parts of a model that no tensor is of."""
    processor, steps = build_processor(config, tokenizer), len(config.prompt.chain)
    width, prompt_width = config.language.width, config.sam.prompt_width
    builders: dict[str, Callable[[], nn.Module]] = {
        "mllm.": lambda: build_mllm(config.language, config.vision, processor.token_id(prompts.IMAGE)),
        "segmenter.": lambda: build_segmenter(config.sam),
        "projection.": lambda: build_projection(width, prompt_width),
    }
    if config.chain.refiner and steps > 1:
        builders["refiner."] = lambda: TokenRefiner(prompt_width)
    built: Tensors = {}
    for prefix, build in builders.items():
        if not any(name.startswith(prefix) for name in weights):
            built |= {f"{prefix}{name}": tensor for name, tensor in build().state_dict().items()}
    return built
