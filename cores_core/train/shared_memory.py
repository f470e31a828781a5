"""Shared memory, through which torch's data loaders pass batches from their workers to the training."""

import mmap
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cores_core.errors import LaunchError
from cores_core.model.processor import Batch

MORE_ROOM = "give it more shared memory (docker run --shm-size=8g), or continue with --set train.workers=0"
"""Hint for errors of workers."""
_PLACE = Path("/dev/shm")
"""Where Linux has it."""
_PATIENCE = 600.0
"""Seconds to wait for room, for instance during a validation."""


def count_bytes(batches: Sequence[Batch]) -> int:
    """Bytes of shared memory that the tensors of batches take; each takes whole pages."""
    tensors = [value for batch in batches for value in _find_tensors(vars(batch))]
    return sum(-(-tensor.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE for tensor in tensors)


def wait_for_room(size: int) -> None:
    """Wait until some bytes of shared memory are free: earlier steps leave it when they are trained on.

    Raises:
        LaunchError: there is less in total, or it stays full.
    """
    deadline = time.monotonic() + _PATIENCE
    while _PLACE.is_dir():
        room = shutil.disk_usage(_PLACE)
        if room.free >= size:
            return
        if room.total < size or time.monotonic() > deadline:
            free = f"{room.free >> 10:,} of {room.total >> 10:,} KiB are free in {_PLACE}"
            raise LaunchError(
                f"too little shared memory for the workers: {free}, {size >> 10:,} are needed", hint=MORE_ROOM
            )
        time.sleep(0.05)


def _find_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _find_tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _find_tensors(item)
