"""A checkpoint is a folder that can explain itself; `checkpoint.json` is written last and makes it one.

    mllm/                all weights of the multimodal LLM, as transformers writes and reads them
    adapter/             in its place where LoRA trained: the adapters, embedding and head, as peft writes them
    heads.safetensors    projection, refiner, SAM; beside an adapter only SAM's mask decoder, the rest is the base's
    processor/           tokenizer with the chain's tokens
    config.yaml          the resolved config
    concepts.safetensors what stood in for pretraining (train/concepts.py), where it did: only to train on
    optimizer/           only for resuming
    checkpoint.json      format, step, dtype, base, token ids, package versions

Loading is strict: a missing, extra or misshapen tensor is an error that names it.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch import Tensor

from cores_core.config import BaseConfig, ChainConfig, Config, LoraConfig
from cores_core.errors import CheckpointError
from cores_core.files import replacing
from cores_core.model.base import describe_base, describe_source, read_base
from cores_core.model.build import Parts, build_model, build_processor
from cores_core.model.chain import REFINER, change_chain
from cores_core.model.convert import is_released, read_released
from cores_core.model.cores import HALVED, CoresModel
from cores_core.model.hub import fetch_model, is_hub_id
from cores_core.model.llava import model_type
from cores_core.model.lora import add_lora, is_adapter, read_adapter, save_adapter, trained_tensors
from cores_core.model.names import our_hub_name
from cores_core.model.processor import Processor, Tokenizer
from cores_core.model.segmenter import resize_positions
from cores_core.model.tensors import Tensors, read_file, read_tensors
from cores_core.model.tokenizer import load_tokenizer
from cores_core.prompts import Context, Conversation
from cores_core.settings import load_config, render_config

FORMAT = 2
CONCEPTS = "concepts"
EMBEDDED = "tiny"
"""The name of the model that ships with the package."""
SHARD_SIZE = "4GB"
_PACKAGES = ("torch", "transformers", "peft", "segment-anything", "tokenizers")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with all that belongs to it."""

    model: CoresModel
    processor: Processor
    config: Config
    about: Mapping[str, Any]


@dataclass(frozen=True)
class LoadOptions:
    """How a model is to be loaded.

    Attributes:
        dtype: precision of the MLLM and of SAM's image encoder, None for that of the files; all else is in float32.
        image_size: side of SAM's square in pixels, to train on at another size; None for that of the checkpoint.
        chain, context: how it is to answer from now on, to train on in another way; None for that of the checkpoint.
        conversation: how turns are set apart; None for what the checkpoint says, which for releases is their default.
        merge: fold the adapters into the weights, as all but training wants it.
    """

    dtype: torch.dtype | None = torch.float32
    image_size: int | None = None
    chain: ChainConfig | None = None
    context: Context | None = None
    conversation: Conversation | None = None
    merge: bool = True


DEFAULTS = LoadOptions()


def save_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    dtype: torch.dtype | None = torch.float32,
    optimizer: Mapping[str, Any] | None = None,
    concepts: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint; it appears under its name only when it is whole.

    Args:
        folder: where; an existing one is replaced.
        dtype: precision of the weights in the files; None for that in memory.
        optimizer: state to resume from, if it is to be resumed.
        concepts: tensors of the concept head, if further training is to find them.
    """
    processor = checkpoint.processor
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
        temporary.mkdir()
        _save_weights(temporary, checkpoint, dtype)
        if concepts is not None:
            save_file(_stored(concepts, dtype), temporary / f"{CONCEPTS}.safetensors")
        processor.tokenizer.save_pretrained(temporary / "processor")
        (temporary / "config.yaml").write_text(render_config(checkpoint.config), encoding="utf-8")
        if optimizer is not None:
            (temporary / "optimizer").mkdir()
            torch.save(dict(optimizer), temporary / "optimizer" / "state.pt")
        about = {
            **checkpoint.about,
            "format": FORMAT,
            "dtype": str(dtype or checkpoint.model.mllm.llava.dtype).removeprefix("torch."),
            "token_ids": dict(zip(processor.prompt.chain, processor.chain_ids, strict=True)),
            "versions": {package: metadata.version(package) for package in _PACKAGES},
        }
        (temporary / "checkpoint.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def load_checkpoint(source: str | Path, options: LoadOptions = DEFAULTS) -> Checkpoint:
    """Load a checkpoint, a folder of released weights, or the embedded model by its name, on the CPU.

    Raises:
        CheckpointError: there is none, it is incomplete, or a tensor is missing, extra or of another shape.
    """
    folder = find_checkpoint(source)
    return assemble(_read_parts(folder), options, origin=folder)


def inspect_checkpoint(source: str | Path) -> Checkpoint:
    """The same on the meta device: names, sizes and settings, without values. An adapter counts as merged."""
    folder = find_checkpoint(source)
    parts = _read_parts(folder, shapes_only=True)
    weights = {name: tensor for name, tensor in parts.weights.items() if not is_adapter(name)}
    return assemble(_without_base(replace(parts, weights=weights)), replace(DEFAULTS, dtype=None), origin=folder)


def assemble(parts: Parts, options: LoadOptions = DEFAULTS, origin: Path | str = "the base") -> Checkpoint:
    """Put a model together; `parts.weights` is emptied on the way, so that no tensor is held twice.

    Args:
        origin: where the parts come from, for messages.

    Raises:
        CheckpointError: a tensor is missing, extra or of another shape.
    """
    config, weights = parts.config, parts.weights
    if options.conversation is not None:
        config = replace(config, conversation=options.conversation)
    if options.image_size is not None and options.image_size != config.sam.image_size:
        config = replace(config, sam=replace(config.sam, image_size=options.image_size))
        weights |= resize_positions(weights, options.image_size // config.sam.patch_size)
    if options.chain is not None:
        config = change_chain(replace(parts, config=config), options.chain, options.context or config.context)
    processor = build_processor(config, parts.tokenizer)
    with init_empty_weights(include_buffers=False):
        model = build_model(config, processor)
    adapter = {name: weights.pop(name) for name in list(weights) if is_adapter(name)}
    _load_weights(model, weights, options, origin)
    parts = replace(parts, config=config)
    if adapter:
        tuner = add_lora(model, config.lora)
        _check_weights({name: t for name, t in model.state_dict().items() if is_adapter(name)}, adapter, origin)
        model.load_state_dict(adapter, strict=False)
        if options.merge:
            tuner.merge_and_unload(safe_merge=True)
            parts = _without_base(parts)
    return Checkpoint(model.eval(), processor, parts.config, parts.about)


def load_model_config(source: str | Path) -> Config:
    """The config of a checkpoint or of released weights, without the weights."""
    folder = find_checkpoint(source)
    if is_released(folder):
        return read_released(folder, shapes_only=True).config
    return load_config(folder / "config.yaml")


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


def find_checkpoint(source: str | Path) -> Path:
    """The folder of a checkpoint given by path, by hub id, or by the embedded model's name."""
    embedded = str(source) == EMBEDDED
    folder = Path(str(resources.files("cores_core") / "weights" / EMBEDDED)) if embedded else Path(source)
    if not embedded and is_hub_id(str(source)):
        folder = fetch_model(str(source))
    if not (folder / "checkpoint.json").is_file() and not is_released(folder):
        hint = f"give a checkpoint, a LISA or CoReS release, a hub id, or `{EMBEDDED}`, which ships with cores"
        found = model_type(folder)
        known = f"is of the model type `{found}`, not a checkpoint" if found else "is not a checkpoint"
        known = f"{known} (no checkpoint.json)" if folder.is_dir() else "does not exist"
        raise CheckpointError(f"model {known}: {source}", hint=hint)
    return folder


def describe_start(config: Config) -> dict[str, dict[str, str]]:
    """What an adapter is put on, as `describe_base` tells it: the base's parts, or the model of `--from`."""
    start = config.train.start_from
    if start is None:
        return describe_base(config.base)
    folder = find_checkpoint(start)
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin"))
    return {"model": describe_source(start, files)}


def _read_parts(folder: Path, shapes_only: bool = False) -> Parts:
    if is_released(folder):
        return read_released(folder, shapes_only)
    about = _load_about(folder / "checkpoint.json")
    config, tokenizer = load_config(folder / "config.yaml"), load_tokenizer(folder / "processor")
    heads = dict(read_file(folder / "heads.safetensors", shapes_only))
    if not config.lora.rank:
        mllm = {our_hub_name(name): tensor for name, tensor in read_tensors(folder / "mllm", shapes_only)}
        return Parts(config, tokenizer, mllm | heads, about)
    trained_on: Mapping[str, Any] = about.get("base", {})
    for name, found in describe_start(config).items():
        if found["fingerprint"] != trained_on.get(name, {}).get("fingerprint"):
            hint = "put back what it was trained on, or name its place in the checkpoint's config.yaml"
            raise CheckpointError(f"this is not what the adapter was trained on: {found['source']}", hint=hint)
    base = _read_start(config, tokenizer, shapes_only)
    base = {name: tensor for name, tensor in base.items() if not name.startswith(REFINER)}  # it is among the heads
    return Parts(config, tokenizer, base | read_adapter(folder / "adapter", shapes_only) | heads, about)


def _read_start(config: Config, tokenizer: Tokenizer, shapes_only: bool) -> Tensors:
    """The weights that a model with an adapter was put on, itself with all adapters merged."""
    start = config.train.start_from
    if start is None:
        with torch.random.fork_rng(devices=[]):
            return read_base(config, lambda: tokenizer, shapes_only).weights
    if shapes_only:
        return dict(inspect_checkpoint(start).model.state_dict())
    return dict(load_checkpoint(start, replace(DEFAULTS, dtype=None)).model.state_dict())


def _without_base(parts: Parts) -> Parts:
    """A model into which the adapter was merged stands by itself."""
    return replace(parts, config=replace(parts.config, base=BaseConfig(), lora=LoraConfig()))


def _save_weights(folder: Path, checkpoint: Checkpoint, dtype: torch.dtype | None) -> None:
    model, lora = checkpoint.model, checkpoint.config.lora
    weights = trained_tensors(model) if lora.rank else model.state_dict()
    stored = _stored(weights, dtype)
    heads = {name: stored.pop(name) for name in list(stored) if not name.startswith("mllm.")}
    if lora.rank:
        save_adapter(folder / "adapter", stored, lora)
    else:
        named = {name.removeprefix("mllm.llava."): tensor for name, tensor in stored.items()}
        llava = copy.copy(model.mllm.llava.config)
        llava.dtype = next(iter(named.values())).dtype
        llava.save_pretrained(folder / "mllm")
        save_torch_state_dict(named, folder / "mllm", max_shard_size=SHARD_SIZE)
    save_file(heads, folder / "heads.safetensors")


def _stored(weights: Mapping[str, Tensor], dtype: torch.dtype | None) -> Tensors:
    return {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()}


def _load_weights(model: CoresModel, weights: Tensors, options: LoadOptions, origin: Path | str) -> None:
    """Give a model on the meta device its weights, which are taken out of `weights` one by one."""
    _check_weights(model.state_dict(), weights, origin)
    own: Tensors = {}
    for name in list(weights):
        own[name] = weights.pop(name).to(options.dtype if name.startswith(HALVED) else torch.float32)
    model.load_state_dict(own, assign=True)


def _load_about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read: {path} ({error})") from error
    found = about.get("format") if isinstance(about, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"checkpoint format {found} is not {FORMAT}: {path.parent}")
    return dict(about)


def _check_weights(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], origin: Path | str) -> None:
    problems = [f"missing {name}" for name in expected if name not in weights]
    problems += [f"unknown {name}" for name in weights if name not in expected]
    problems += [
        f"shape of {name} is {tuple(weights[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected
        if name in weights and weights[name].shape != expected[name].shape
    ]
    if problems:
        listed = "; ".join(problems[:3])
        raise CheckpointError(f"{len(problems)} tensors do not fit in {origin}: {listed}")
