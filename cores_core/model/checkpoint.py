"""Checkpoint format: a self-describing folder. `checkpoint.json` is written last; without it a folder is not loaded.

    mllm/                all weights of the multimodal LLM, in transformers' format
    adapter/             in place of mllm/ after LoRA training: adapters, token embedding and head, in peft's format
    heads.safetensors    projection, refiner, SAM; after LoRA training only SAM's mask decoder, the rest is in the base
    segmenter/           config of a SAM 2 or SAM 3, in transformers' format
    processor/           tokenizer with the chain tokens; for a multimodal LLM of the hub its complete processor
    config.yaml          the resolved config
    objective.safetensors tensors of the training's own losses, if any, for further training
    optimizer/           optimiser state, for resuming
    checkpoint.json      format, step, dtype, base, token ids, package versions

Loading is strict: a missing, unexpected or misshapen tensor is an error that names it. A vocabulary head tied to the
token embedding is stored once. Reads formats 2 (LLaVA and SAM 1 only) and 3, writes format 3, in which
objective.safetensors was once called concepts.safetensors.
"""

import copy
import json
from collections.abc import Callable, Mapping
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
from cores_core.errors import CheckpointError, reason_of
from cores_core.files import read_json, replacing
from cores_core.model.build import Parts, build_model, build_processor
from cores_core.model.catalog import resolve_name
from cores_core.model.cores import HALVED, CoresModel
from cores_core.model.families.chat import ChatPrompts
from cores_core.model.families.hub import HubMllm, read_hub_mllm, state_of
from cores_core.model.families.llava import MODEL_TYPE as LLAVA_TYPE
from cores_core.model.families.llava import is_llava, model_type
from cores_core.model.families.table import FAMILIES, LLAVA
from cores_core.model.lora import add_lora, is_adapter, read_adapter, save_adapter, trained_tensors
from cores_core.model.processor import Processor
from cores_core.model.sams.hub import read_hub_sam_config
from cores_core.model.sams.sam1 import resize_positions
from cores_core.model.tokenizer import Tokenizer, load_tokenizer
from cores_core.model.weights.adapters import refuse_adapter
from cores_core.model.weights.chain import REFINER, change_chain
from cores_core.model.weights.hub import fetch_model, is_hub_id
from cores_core.model.weights.names import our_hub_name, renamed_keys
from cores_core.model.weights.pretrained import describe_base, describe_source, read_base
from cores_core.model.weights.releases import is_released, read_released
from cores_core.model.weights.tensors import Tensors, read_file, read_pickle, read_tensors
from cores_core.model.weights.transformers_io import read_processor, reading, tied_names, writing
from cores_core.prompts import Context, Conversation
from cores_core.settings import load_config, render_config

FORMAT, READABLE = 3, (2, 3)
OBJECTIVE, OLD_OBJECTIVE = "objective.safetensors", "concepts.safetensors"
EMBEDDED = "tiny"
"""The name of the model that ships with the package."""
SHARD_SIZE = "4GB"
_PACKAGES = ("torch", "transformers", "peft", "segment-anything", "tokenizers")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with its processor, its config and `about`, the content of checkpoint.json."""

    model: CoresModel
    processor: Processor
    config: Config
    about: Mapping[str, Any]

    @property
    def predicts_iou(self) -> bool:
        """Whether SAM's head that predicts a mask's IoU was trained; that of every SAM 2 and SAM 3 was."""
        return self.model.segmenter.kind != "sam1" or self.config.sam.predicts_iou


@dataclass(frozen=True)
class LoadOptions:
    """Options for loading a model. None keeps the value of the checkpoint.

    Attributes:
        dtype: precision of the MLLM and of SAM's image encoder, None for that of the files; the rest is float32.
        image_size: SAM's input size in pixels, for further training at another resolution.
        chain, context: answer format (chain and in-context example), for further training with another one.
        conversation: chat template. Released weights do not store theirs; the default is llava_v1.
        merge: merge LoRA adapters into the weights. False only for training.
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
    objective: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint atomically: to a temporary folder, renamed when complete.

    Args:
        folder: the checkpoint's folder; an existing one is replaced.
        dtype: precision of the weights in the files; None for that in memory.
        optimizer: optimiser state, for resuming; None to leave it out.
        objective: tensors of the training's own losses, for further training; None to leave them out.
    """
    processor = checkpoint.processor
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary, writing(folder):
        temporary.mkdir()
        _save_weights(temporary, checkpoint, dtype)
        if objective:
            save_file(_stored(objective, dtype), temporary / OBJECTIVE)
        processor.mllm.save_pretrained(temporary / "processor")
        (temporary / "config.yaml").write_text(render_config(checkpoint.config), encoding="utf-8")
        if optimizer is not None:
            (temporary / "optimizer").mkdir()
            torch.save(dict(optimizer), temporary / "optimizer" / "state.pt")
        about = {
            **checkpoint.about,
            "format": FORMAT,
            "mllm": checkpoint.model.mllm.kind,
            "segmenter": checkpoint.model.segmenter.kind,
            "dtype": str(dtype or checkpoint.model.mllm.net.dtype).removeprefix("torch."),
            "token_ids": dict(zip(processor.prompt.chain, processor.chain_ids, strict=True)),
            "versions": {package: metadata.version(package) for package in _PACKAGES},
        }
        (temporary / "checkpoint.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def load_checkpoint(source: str | Path, options: LoadOptions = DEFAULTS) -> Checkpoint:
    """Load a checkpoint (folder or hub id), a folder of released weights, or the embedded model `tiny`, on the CPU.

    Raises:
        CheckpointError: there is none, it is incomplete, or a tensor is missing, unexpected or of another shape.
    """
    folder = find_checkpoint(source)
    with reading("the model", folder):
        parts = _read_parts(folder)
    return assemble(parts, options, origin=folder)


def inspect_checkpoint(source: str | Path) -> Checkpoint:
    """Load names, shapes and settings on the meta device, without values. An adapter is treated as merged."""
    folder = find_checkpoint(source)
    with reading("the model", folder):
        parts = _read_parts(folder, shapes_only=True)
    weights = {name: tensor for name, tensor in parts.weights.items() if not is_adapter(name)}
    return assemble(_without_base(replace(parts, weights=weights)), replace(DEFAULTS, dtype=None), origin=folder)


def assemble(parts: Parts, options: LoadOptions = DEFAULTS, origin: Path | str = "the base") -> Checkpoint:
    """Build a model from its parts. Empties `parts.weights`, so that no tensor is in memory twice.

    Args:
        origin: source of the parts, for error messages.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape, or an option does not fit the model.
    """
    weights = parts.weights
    parts = _with_options(parts, options)
    with reading("the model", origin), init_empty_weights(include_buffers=False):
        processor = build_processor(parts)
        model = build_model(parts, processor)
    adapter = {name: weights.pop(name) for name in list(weights) if is_adapter(name)}
    _load_weights(model, weights, options, origin)
    if adapter:
        tuner = add_lora(model, parts.config.lora, processor.new_ids)
        expected = {n: t for n, t in trained_tensors(model, parts.config.lora).items() if is_adapter(n)}
        _check_weights(expected, adapter, origin)
        model.load_state_dict(adapter, strict=False)
        if options.merge:
            model.mllm.net = tuner.merge_and_unload(safe_merge=True)
            model.mllm.net.tie_weights()
            parts = _without_base(parts)
    return Checkpoint(model.eval(), processor, parts.config, parts.about)


def _with_options(parts: Parts, options: LoadOptions) -> Parts:
    """Apply load options to parts; `parts.weights` is changed in place."""
    config = parts.config
    if options.conversation is not None:
        config = replace(config, conversation=options.conversation)
    if (config.conversation == "template") != (parts.mllm is not None):
        kind = "this model uses its own chat template" if parts.mllm else "a LLaVA has no chat template"
        raise CheckpointError(f"{kind}, not conversation `{config.conversation}`", hint="leave out --conversation")
    if options.image_size is not None and options.image_size != config.sam.image_size:
        if parts.sam is not None:
            hint = "leave out sam.image_size"
            raise CheckpointError(f"the input size of `{parts.sam.model_type}` cannot be changed", hint=hint)
        config = replace(config, sam=replace(config.sam, image_size=options.image_size))
        parts.weights.update(resize_positions(parts.weights, options.image_size // config.sam.patch_size))
    parts = replace(parts, config=config)
    if options.chain is not None:
        parts = change_chain(parts, options.chain, options.context or config.context)
    return parts


def load_model_config(source: str | Path) -> Config:
    """Read the config of a checkpoint or of released weights, without loading weights."""
    folder = find_checkpoint(source)
    if is_released(folder):
        return read_released(folder, shapes_only=True).config
    return load_config(folder / "config.yaml")


def load_objective(folder: Path) -> dict[str, Tensor]:
    """Tensors of the losses that a model was trained with, in float32; empty if the losses had none."""
    found = [folder / name for name in (OBJECTIVE, OLD_OBJECTIVE) if (folder / name).is_file()]
    return {name: tensor.float() for path in found[:1] for name, tensor in read_file(path)}


def load_optimizer(folder: Path) -> Mapping[str, Any]:
    """The optimiser state written by `save_checkpoint`, on the CPU.

    Raises:
        CheckpointError: the checkpoint has none.
    """
    path = folder / "optimizer" / "state.pt"
    if not path.is_file():
        raise CheckpointError(f"cannot resume, no optimizer state in: {folder}")
    state: Mapping[str, Any] = renamed_keys(read_pickle(path))
    return state


def find_checkpoint(source: str | Path) -> Path:
    """Folder of a checkpoint or of released weights, given by path, hub id (downloaded) or a name of `cores models`.

    Raises:
        CheckpointError: there is none, or it is a base model that was not trained to segment, or an adapter of peft.
    """
    embedded = str(source) == EMBEDDED
    folder = Path(str(resources.files("cores_core") / "weights" / EMBEDDED)) if embedded else Path(source)
    name = str(source) if embedded or folder.exists() else resolve_name(str(source))
    if not embedded and is_hub_id(name):
        folder = fetch_model(name)
    if not (folder / "checkpoint.json").is_file():
        refuse_adapter(folder)
    if not (folder / "checkpoint.json").is_file() and not is_released(folder):
        hint = f"give a checkpoint, a LISA or CoReS release, a hub id, or `{EMBEDDED}`, which ships with cores"
        found = model_type(folder)
        if is_llava(folder) or found in FAMILIES:
            preset = FAMILIES.get(found or "", LLAVA).preset
            hint = f"train it: cores train --preset {preset} --mllm {source}; or {hint}"
            raise CheckpointError(f"not trained to segment: {source} (`{found}`, a base model)", hint=hint)
        known = f"is of the model type `{found}`, not a checkpoint" if found else "is not a checkpoint"
        known = f"{known} (no checkpoint.json)" if folder.is_dir() else "does not exist"
        raise CheckpointError(f"model {known}: {source}", hint=hint)
    return folder


def describe_start(config: Config) -> dict[str, dict[str, str]]:
    """Source and fingerprint of the weights under an adapter: the parts of `base`, or the model of `--from`."""
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
    config = load_config(folder / "config.yaml")
    heads = dict(read_file(folder / "heads.safetensors", shapes_only))
    if not config.lora.rank:
        parts = _read_mllm(folder, about, config, shapes_only)
        parts.weights.update(heads)
        if (folder / "segmenter").is_dir():
            parts = replace(parts, sam=read_hub_sam_config(folder / "segmenter"))
        return parts
    trained_on: Mapping[str, Any] = about.get("base", {})
    for name, found in describe_start(config).items():
        if found["fingerprint"] != trained_on.get(name, {}).get("fingerprint"):
            hint = "restore the original base model, or set its path in the checkpoint's config.yaml"
            raise CheckpointError(f"the adapter was trained on other weights than: {found['source']}", hint=hint)
    base = _read_start(config, lambda: load_tokenizer(folder / "processor"), shapes_only)
    weights = {name: tensor for name, tensor in base.weights.items() if not name.startswith(REFINER)}  # it is in heads
    weights |= read_adapter(folder / "adapter", shapes_only) | heads
    parts = replace(base, config=config, weights=weights, about=about)
    if base.mllm is None:
        return replace(parts, tokenizer=load_tokenizer(folder / "processor"))
    hub = replace(base.mllm, processor=read_processor(folder / "processor"))
    return replace(parts, mllm=hub, tokenizer=hub.processor.tokenizer)


def _read_mllm(folder: Path, about: Mapping[str, Any], config: Config, shapes_only: bool) -> Parts:
    """Read the multimodal LLM of a checkpoint that stores all its weights (no adapter)."""
    if about.get("mllm", LLAVA_TYPE) == LLAVA_TYPE:
        weights = {our_hub_name(name): tensor for name, tensor in read_tensors(folder / "mllm", shapes_only)}
        return Parts(config, load_tokenizer(folder / "processor"), weights, about)
    hub, weights = read_hub_mllm(folder / "mllm", shapes_only, folder / "processor")
    return Parts(config, hub.processor.tokenizer, weights, about, mllm=hub)


def _read_start(config: Config, new_tokenizer: Callable[[], Tokenizer], shapes_only: bool) -> Parts:
    """Read the model under an adapter: the base, or the model of `--from` with its own adapter merged."""
    start = config.train.start_from
    if start is None:
        with torch.random.fork_rng(devices=[]):
            return read_base(config, new_tokenizer, shapes_only)
    begun = inspect_checkpoint(start) if shapes_only else load_checkpoint(start, replace(DEFAULTS, dtype=None))
    net, prompts = begun.model.mllm.net, begun.processor.mllm
    weights = state_of(net) | {n: t for n, t in begun.model.state_dict().items() if not n.startswith("mllm.")}
    mllm = HubMllm(net.config, prompts.processor) if isinstance(prompts, ChatPrompts) else None
    return Parts(begun.config, prompts.tokenizer, weights, mllm=mllm, sam=begun.model.segmenter.config)


def _without_base(parts: Parts) -> Parts:
    """Remove base and LoRA from the config, after an adapter was merged into the weights."""
    return replace(parts, config=replace(parts.config, base=BaseConfig(), lora=LoraConfig()))


def _save_weights(folder: Path, checkpoint: Checkpoint, dtype: torch.dtype | None) -> None:
    model, lora = checkpoint.model, checkpoint.config.lora
    if model.segmenter.config is not None:
        model.segmenter.config.save_pretrained(folder / "segmenter")
    if lora.rank:
        stored = _stored(trained_tensors(model, lora), dtype)
    else:
        heads = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("mllm.")}
        stored = _stored(state_of(model.mllm.net) | heads, dtype)
    heads = {name: stored.pop(name) for name in list(stored) if not name.startswith("mllm.")}
    if lora.rank:
        save_adapter(folder / "adapter", stored, model.mllm, lora, checkpoint.processor.new_ids)
    else:
        named = {name.removeprefix("mllm.net."): tensor for name, tensor in stored.items()}
        config = copy.copy(model.mllm.net.config)
        config.dtype = next(iter(named.values())).dtype
        config.save_pretrained(folder / "mllm")
        save_torch_state_dict(named, folder / "mllm", max_shard_size=SHARD_SIZE)
    save_file(heads, folder / "heads.safetensors")


def _stored(weights: Mapping[str, Tensor], dtype: torch.dtype | None) -> Tensors:
    return {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()}


def _load_weights(model: CoresModel, weights: Tensors, options: LoadOptions, origin: Path | str) -> None:
    """Assign weights to a model on the meta device, removing them from `weights` one by one.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape.
    """
    tied = {f"mllm.net.{name}" for name in tied_names(model.mllm.net)}
    for name in tied:
        weights.pop(name, None)
    _check_weights({n: t for n, t in model.state_dict().items() if n not in tied}, weights, origin)
    own: Tensors = {}
    for name in list(weights):
        own[name] = weights.pop(name).to(options.dtype if name.startswith(HALVED) else torch.float32)
    model.load_state_dict(own, strict=False, assign=True)
    model.mllm.net.tie_weights()


def _load_about(path: Path) -> dict[str, Any]:
    try:
        about = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read: {path} ({reason_of(error)})") from error
    found = about.get("format") if isinstance(about, dict) else None
    if found not in READABLE:
        raise CheckpointError(f"checkpoint format is {found}, not {' or '.join(map(str, READABLE))}: {path.parent}")
    base = about.get("base", {})
    if not isinstance(base, dict) or not all(isinstance(part, dict) for part in base.values()):
        raise CheckpointError(f"`base` is not an object of objects: {path}")
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
