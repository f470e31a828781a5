"""Disk cache of the image features of frozen encoders, SAM's and LLaVA's, shared by all ranks of a training run.

<folder>/<identity, 16 letters>/<2 letters>/<sha256 of the key>.safetensors    its bfloat16 feature maps

Features are rounded to bfloat16 before first use, and images are encoded one at a time, so that features do not depend
on the batch: a run that reads the cache is bit-identical to the run that filled it.
"""

import hashlib
import logging
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from cores_core.errors import DataError
from cores_core.files import replacing
from cores_core.model.mllm import Mllm, VisionOutput
from cores_core.model.processor import Batch
from cores_core.model.segmenter import Features, Segmenter

_FORMAT = "2"
"""Version of the features; increase it when preprocessing changes, so that older files are not read."""
_CHECK = "crc32"
_log = logging.getLogger(__name__)


class EmbeddingCache:
    """Features by keys that identify the pixels. Any number of processes may share a folder."""

    def __init__(self, folder: Path, identity: str, limit_bytes: int, processes: int = 1) -> None:
        """Open or create a cache folder.

        Args:
            folder: cache folder; may hold features of several encoders.
            identity: digest of the encoder, see `encoder_identity`.
            limit_bytes: maximum size of the folder. Its size is measured once, here; the remaining space is divided
                evenly among the `processes` of a run. Concurrent runs may together exceed the limit.

        Raises:
            DataError: the folder cannot be made.
        """
        self._folder = folder / identity[:16]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._room = (limit_bytes - _measure(folder)) // processes
        except OSError as error:
            hint = "set train.embedding_cache to a folder that can be written to"
            raise DataError(f"cannot keep embeddings in: {folder} ({error.strerror})", hint=hint) from error

    def get(self, key: str) -> Features | None:
        """The bfloat16 feature maps of one image on the CPU; None if missing, unreadable or damaged."""
        try:
            with safe_open(self._path(key), framework="pt") as file:
                features = tuple(file.get_tensor(str(level)) for level in range(len(file.keys())))
                return features if (file.metadata() or {}).get(_CHECK) == _check(features) else None
        except (OSError, SafetensorError):
            return None

    def put(self, key: str, features: Features) -> None:
        """Store the feature maps of one image in bfloat16 if there is room. Write errors are logged and ignored."""
        half = tuple(level.detach().to("cpu", torch.bfloat16).contiguous() for level in features)
        content = save({str(level): tensor for level, tensor in enumerate(half)}, metadata={_CHECK: _check(half)})
        if len(content) > self._room:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        except FileNotFoundError:  # a process with the same id on another machine renamed it first
            return
        except OSError as error:
            _log.warning("no more embeddings are kept: %s", error)
            self._room = 0
        else:
            self._room -= len(content)

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / name[:2] / f"{name}.safetensors"


def encoder_identity(encoder: nn.Module, image_size: int, precision: str) -> str:
    """Hexadecimal digest of everything that features depend on besides the pixels.

    Args:
        encoder: SAM's image encoder; names, dtypes, shapes and values of its tensors are hashed.
        image_size: S, its input size.
        precision: compute precision (autocast).
    """
    digest = hashlib.sha256(f"{_FORMAT} {image_size} {precision}".encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def encode_cached(cache: EmbeddingCache, segmenter: Segmenter, pixels: Tensor, keys: Sequence[str]) -> Features:
    """Float32 features of (B, 3, S, S) pixels, read from the cache or encoded and stored.

    Args:
        keys: B non-empty keys that identify the pixels.
    """

    def encode(number: int) -> Features:
        return tuple(level[0] for level in segmenter.encode(pixels[number][None]))

    found = _get_or_compute(cache, keys, encode)
    return tuple(torch.stack(levels).to(pixels.device).float() for levels in zip(*found, strict=True))


def vision_parts(mllm: Mllm) -> list[nn.Module]:
    """Vision tower and projector."""
    return [mllm.parts[name] for name in ("vision tower", "projector") if name in mllm.parts]


@torch.no_grad()
def encode_vision_cached(cache: EmbeddingCache, mllm: Mllm, batch: Batch) -> VisionOutput:
    """`Mllm.encode_vision`, from the cache or computed and stored. For models with one image tensor per row (LLaVA).

    Args:
        batch: B images with a key each, and B rows.
    """

    def encode(number: int) -> Features:
        vision = {name: tensor[number : number + 1] for name, tensor in batch.vision.items()}
        return (mllm.encode_vision(replace(batch, vision=vision)).pooler_output[0],)

    found = _get_or_compute(cache, batch.keys, encode)
    device, dtype = batch.input_ids.device, mllm.net.dtype
    return BaseModelOutputWithPooling(pooler_output=[features.to(device, dtype) for (features,) in found])


def _get_or_compute(cache: EmbeddingCache, keys: Sequence[str], compute: Callable[[int], Features]) -> list[Features]:
    """Features of each key in bfloat16; `compute` makes those of the image of this number in the batch."""
    known: dict[str, Features] = {}
    for number, key in enumerate(keys):
        if key in known:
            continue
        features = cache.get(key)
        if features is None:
            features = tuple(level.to(torch.bfloat16) for level in compute(number))
            cache.put(key, features)
        known[key] = features
    return [known[key] for key in keys]


def _measure(folder: Path) -> int:
    """Total size in bytes of all files under a folder; files may disappear while it runs."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(parent, name).stat().st_size
            except FileNotFoundError:  # a temporary file that was renamed
                continue
    return total


def _check(features: Features) -> str:
    total = 0
    for level in features:
        total = zlib.crc32(_bytes(level), total)
    return f"{total:08x}"


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
