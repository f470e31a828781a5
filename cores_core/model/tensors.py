"""Read the tensors of a folder in the hub's file forms, one shard at a time; pickles only with `weights_only`."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cores_core.errors import CheckpointError

WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every tensor of a folder, on the CPU, in the precision of the file.

    Raises:
        CheckpointError: there are no weights, a shard is missing, damaged or holds code, or the index and the shards
            name different tensors.
    """
    for name in WHOLE:
        if (folder / name).is_file():
            yield from read_file(folder / name)
            return
    for name in INDEXES:
        if (folder / name).is_file():
            yield from _read_shards(folder, folder / name)
            return
    raise CheckpointError(f"no weights in: {folder}", hint=f"expected one of {', '.join((*WHOLE, *INDEXES))}")


def read_file(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every tensor of one file, as `read_tensors` gives them."""
    hint = "download it again; files with code in them are never run"
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    yield name, file.get_tensor(name)
        else:
            yield from torch.load(path, map_location="cpu", weights_only=True, mmap=True).items()
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"cannot read weights: {path} ({reason})", hint=hint) from error


def _read_shards(folder: Path, index: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot read: {index} ({error!r})") from error
    for shard in sorted(set(places.values())):
        if not (folder / shard).is_file():
            raise CheckpointError(f"a shard is missing: {folder / shard}", hint="download the folder again")
    unread = dict(places)
    for shard in sorted(set(places.values())):
        for name, tensor in read_file(folder / shard):
            if unread.pop(name, None) is None:
                raise CheckpointError(f"a tensor is not in the index {index.name}: {name} of {shard}")
            yield name, tensor
    if unread:
        raise CheckpointError(f"{len(unread)} tensors of the index are in no shard: {next(iter(unread))} ...")
