"""What a frozen SAM image encoder made of the images of a training, kept on disk and shared by all its processes.

<folder>/<identity, 16 letters>/<2 letters>/<sha256 of the key>.safetensors    its bfloat16 feature maps

An embedding is rounded to bfloat16 before its first use, and every image is encoded by itself, so that it does not
depend on what else is in a batch: a run that finds its embeddings here is, bit for bit, the one that left them.
"""

import hashlib
import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cores_core.errors import DataError
from cores_core.files import replacing
from cores_core.model.segmenter import Features, Segmenter

_FORMAT = "2"
"""Counts changes of what an embedding is of the same pixels, such as SAM's means; what was kept before is not read."""
_CHECK = "crc32"
_log = logging.getLogger(__name__)


class EmbeddingCache:
    """Embeddings by keys that say which pixels they are of. Any number of processes may share a folder."""

    def __init__(self, folder: Path, identity: str, limit_bytes: int, processes: int = 1) -> None:
        """Open a folder, or begin one.

        Args:
            folder: where embeddings lie, those of other identities too.
            identity: what the embeddings depend on beside the pixels; see `encoder_identity`.
            limit_bytes: how large the folder may grow. It is measured once, here; what is left is shared out evenly
                among the `processes` of a run, and each counts what it writes. Several runs at a time may together
                pass the limit by what they write.

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
        """The bfloat16 maps of one image, on the CPU; None if they are not there, cannot be read or are damaged."""
        try:
            with safe_open(self._path(key), framework="pt") as file:
                features = tuple(file.get_tensor(str(level)) for level in range(len(file.keys())))
                return features if (file.metadata() or {}).get(_CHECK) == _check(features) else None
        except (OSError, SafetensorError):
            return None

    def put(self, key: str, features: Features) -> None:
        """Keep the maps of one image, rounded to bfloat16, if there is room; a disk that refuses ends no training."""
        half = tuple(level.detach().to("cpu", torch.bfloat16).contiguous() for level in features)
        content = save({str(level): tensor for level, tensor in enumerate(half)}, metadata={_CHECK: _check(half)})
        if len(content) > self._room:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        except FileNotFoundError:  # a process of another machine, of the same number, was faster
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
    """A digest of all that an embedding depends on beside its pixels, in hexadecimal.

    Args:
        encoder: SAM's image encoder; its sizes show in the shapes of its weights.
        image_size: S, the side of its input.
        precision: in which it computes; its weights count in their own.
    """
    digest = hashlib.sha256(f"{_FORMAT} {image_size} {precision}".encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def encode_cached(cache: EmbeddingCache, segmenter: Segmenter, pixels: Tensor, keys: Sequence[str]) -> Features:
    """The float32 features of (B, 3, S, S) pixels, read where they are known, else encoded and kept.

    Args:
        keys: B keys that say which pixels these are; none may be empty.
    """
    known: dict[str, Features] = {}
    for image, key in zip(pixels, keys, strict=True):
        if key in known:
            continue
        features = cache.get(key)
        if features is None:
            features = tuple(level[0].to(torch.bfloat16) for level in segmenter.encode(image[None]))
            cache.put(key, features)
        known[key] = tuple(level.to(pixels.device) for level in features)
    return tuple(torch.stack(levels).float() for levels in zip(*(known[key] for key in keys), strict=True))


def _measure(folder: Path) -> int:
    """The bytes of all files under a folder; others may come and go meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(parent, name).stat().st_size
            except FileNotFoundError:  # renamed by the process that wrote it
                continue
    return total


def _check(features: Features) -> str:
    total = 0
    for level in features:
        total = zlib.crc32(_bytes(level), total)
    return f"{total:08x}"


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
