"""Read tensors one at a time from the hub's file formats: safetensors, or pickles with `weights_only=True`."""

import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cores_core.errors import CheckpointError, reason_of
from cores_core.files import read_json

Tensors = dict[str, Tensor]
"""Tensors by name."""

WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_META_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_UNREADABLE = (
    OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, LookupError, TypeError,
    ValueError, struct.error,
)  # fmt: skip
"""Exceptions of torch and safetensors for files that they cannot read."""
_AGAIN = "download it again; code in weight files is never run"


def read_tensors(folder: Path, shapes_only: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of each tensor of a folder, on the CPU, in the dtype of the file.

    Args:
        shapes_only: yield tensors on the meta device without reading values.

    Raises:
        CheckpointError: there are no weights, a shard is missing, damaged or contains code, or index and shards list
            different tensors.
    """
    for name in WHOLE:
        if (folder / name).is_file():
            yield from read_file(folder / name, shapes_only)
            return
    for name in INDEXES:
        if (folder / name).is_file():
            yield from _read_shards(folder, folder / name, shapes_only)
            return
    raise CheckpointError(f"no weights in: {folder}", hint=f"expected one of {', '.join((*WHOLE, *INDEXES))}")


def read_file(path: Path, shapes_only: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of each tensor of one file. Arguments and errors as for `read_tensors`."""
    try:
        if path.suffix == ".safetensors":
            yield from _read_safetensors(path, shapes_only)
        else:
            yield from _check_tensors(read_pickle(path, shapes_only))
    except _UNREADABLE as error:
        raise CheckpointError(f"cannot read weights: {path} ({reason_of(error)})", hint=_AGAIN) from error


def read_pickle(path: Path, shapes_only: bool = False) -> Any:
    """Read a file written by `torch.save`, on the CPU or, with `shapes_only`, on the meta device.

    Raises:
        CheckpointError: it is missing, damaged or contains code.
    """
    place, mapped = ("meta", zipfile.is_zipfile(path)) if shapes_only else ("cpu", False)
    try:
        return torch.load(path, map_location=place, weights_only=True, mmap=mapped)
    except _UNREADABLE as error:
        raise CheckpointError(f"cannot read: {path} ({reason_of(error)})", hint=_AGAIN) from error


def _check_tensors(tree: Any) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(tree, dict):
        raise ValueError(f"it holds a {type(tree).__name__}, not tensors by name")
    for name, tensor in tree.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError("it holds more than tensors by name")
        yield name, tensor


def get_tensor(weights: Tensors, name: str) -> Tensor:
    """Get a tensor by name.

    Raises:
        CheckpointError: it is missing.
    """
    if name not in weights:
        raise CheckpointError(f"missing tensor: {name}")
    return weights[name]


def weight_files(folder: Path) -> list[Path]:
    """The files that `read_tensors` reads, without the index; empty if there are none."""
    for name in WHOLE:
        if (folder / name).is_file():
            return [folder / name]
    for name in INDEXES:
        if (folder / name).is_file():
            return [folder / shard for shard in sorted(set(_read_index(folder / name).values()))]
    return []


def _read_safetensors(path: Path, shapes_only: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield copies of the tensors: memory-mapped ones are unaligned, which changes the last bits of matrix products.

    The file is reopened for each tensor, so that pages already read do not stay mapped in addition to the copies.
    """
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        slices = [file.get_slice(name) for name in names] if shapes_only else []
        for name, part in zip(names, slices, strict=False):
            yield name, torch.empty(part.get_shape(), dtype=_META_DTYPES[part.get_dtype()], device="meta")
    if not shapes_only:
        for name in names:
            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(name).clone()
            yield name, tensor


def _read_shards(folder: Path, index: Path, shapes_only: bool) -> Iterator[tuple[str, Tensor]]:
    places = _read_index(index)
    for shard in sorted(set(places.values())):
        if not (folder / shard).is_file():
            raise CheckpointError(f"missing shard: {folder / shard}", hint="download the folder again")
    unread = dict(places)
    for shard in sorted(set(places.values())):
        for name, tensor in read_file(folder / shard, shapes_only):
            if unread.pop(name, None) is None:
                raise CheckpointError(f"a tensor is not in the index {index.name}: {name} of {shard}")
            yield name, tensor
    if unread:
        raise CheckpointError(f"{len(unread)} tensors of the index are not in any shard: {next(iter(unread))} ...")


def _read_index(index: Path) -> dict[str, str]:
    try:
        places: dict[str, str] = read_json(index)["weight_map"]
        for shard in places.values():
            if not isinstance(shard, str) or Path(shard).is_absolute() or ".." in Path(shard).parts:
                raise ValueError(f"not the path of a shard: {shard}")
    except KeyError as error:
        raise CheckpointError(f"cannot read: {index} (it has no `weight_map`)") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"cannot read: {index} ({reason_of(error)})") from error
    return places
