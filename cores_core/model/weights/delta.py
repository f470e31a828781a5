"""Make the first LLaVAs, which are published as differences from LLaMA: target = delta + base, in float16.

Source: LLaVA's apply_delta and model zoo (https://github.com/haotian-liu/LLaVA); LISA's README names the two targets.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from cores_core.errors import CheckpointError
from cores_core.files import replacing
from cores_core.model.weights.hub import fetch_model, is_hub_id
from cores_core.model.weights.names import is_derived
from cores_core.model.weights.tensors import INDEXES, Tensors, read_tensors

SHARD_SIZE = "4GB"
_PROJECTOR = "model.mm_projector."
_LARGER = ("model.embed_tokens.weight", "lm_head.weight")
"""Tensors with rows for tokens that the base does not have."""


@dataclass(frozen=True)
class Delta:
    """Hub ids of a published delta and of the model that it is added to."""

    delta: str
    base: str


DELTAS: Mapping[str, Delta] = MappingProxyType(
    {
        "LLaVA-Lightning-7B-v1-1": Delta("liuhaotian/LLaVA-Lightning-7B-delta-v1-1", "huggyllama/llama-7b"),
        "LLaVA-13B-v1-1": Delta("liuhaotian/LLaVA-13b-delta-v1-1", "huggyllama/llama-13b"),
    }
)
"""By the name of the folder that a preset's `base.mllm` expects."""


def delta_command(name: str) -> str | None:
    """The command that makes the model of this name; None if it is not published as a delta."""
    found = DELTAS.get(Path(name).name)
    return None if found is None else f"cores checkpoint apply-delta {found.delta} {found.base} {name}"


def apply_delta(delta: str, base: str, folder: Path) -> None:
    """Write a LLaVA in the original format. Both models are folders or hub ids; about 14 GB of memory for 7B.

    Raises:
        CheckpointError: a model is missing or damaged, or the two do not belong together.
    """
    delta_folder, base_folder = (
        fetch_model(name) if is_hub_id(name) else _existing(Path(name)) for name in (delta, base)
    )
    weights = {name: tensor.half() for name, tensor in read_tensors(base_folder) if not is_derived(name)}
    unchanged = set(weights)
    for name, tensor in read_tensors(delta_folder):
        if not is_derived(name):
            unchanged.discard(name)
            weights[name] = _sum(name, tensor.half(), weights)
    if unchanged:
        raise CheckpointError(f"{len(unchanged)} tensors of {base} are not in the delta: {min(unchanged)} ...")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
        temporary.mkdir()
        for path in (path for pattern in ("*.json", "*.model") for path in delta_folder.glob(pattern)):
            if path.name not in INDEXES:
                shutil.copyfile(path, temporary / path.name)
        save_torch_state_dict(weights, temporary, max_shard_size=SHARD_SIZE)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise CheckpointError(f"no such folder: {folder}", hint="give a folder or a hub id, owner/name")
    return folder


def _sum(name: str, tensor: Tensor, base: Tensors) -> Tensor:
    """A tensor of the target; one that the base lacks, or has fewer rows of, is taken from the delta there."""
    if name not in base:
        if not name.startswith(_PROJECTOR):
            raise CheckpointError(f"not in the base model: {name}", hint="is this the LLaMA that the delta belongs to?")
        return tensor
    known = base[name]
    if tensor.shape != known.shape:
        is_larger = name in _LARGER and len(tensor) > len(known) and tensor.shape[1:] == known.shape[1:]
        if not is_larger:
            message = f"{name} is {tuple(tensor.shape)} in the delta, {tuple(known.shape)} in the base model"
            raise CheckpointError(message, hint="is this the LLaMA that the delta belongs to?")
        known = torch.cat((known, known.new_zeros(len(tensor) - len(known), *known.shape[1:])))
    return tensor + known
