"""Detection of devices, dtypes and ranks; seeds; asynchronous work. No other file inspects the machine."""

import ctypes
import os
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from cores_core.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Group:
    """Process group of a training or evaluation: the rank of this process and the world size."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which logs, scores and saves."""
        return self.rank == 0


def group_from_environment() -> Group | None:
    """Rank and world size set by a launcher (torchrun, DeepSpeed, a cluster); None if there is none."""
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    return Group(int(rank), int(size)) if rank is not None and size is not None else None


def own_device(device: torch.device, group: Group) -> torch.device:
    """Device of this rank: on CUDA, the GPU with the index LOCAL_RANK."""
    if device.type != "cuda" or group.size == 1:
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", group.rank)))


def count_local_ranks(group: Group) -> int:
    """Number of ranks on this machine: as the launcher says, or else all of the group."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", group.size))


def set_up_cpu(processes: int = 1, are_bound: bool = False) -> None:
    """Prepare torch in this process for work on a CPU; threads that are started later inherit it.

    Denormal numbers count as zero: peaked attention is full of them, and some CPUs take ten times as long for them.
    Memory of freed tensors is used again, as new pages can take a quarter of the time of a small model.

    Args:
        processes: that share the cores this one may run on. Each takes its fraction as threads, unless fewer are set
            already (OMP_NUM_THREADS); a single one keeps torch's number.
        are_bound: whether each process may run on cores of its own, as launchers arrange; then it takes all of these,
            at most its fraction of the machine.
    """
    torch.set_flush_denormal(True)
    _keep_freed_memory()
    if processes > 1:
        cores = os.cpu_count() or 1
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
        share = min(cores // processes, allowed) if are_bound else allowed // processes
        torch.set_num_threads(max(1, min(share, torch.get_num_threads())))


def _keep_freed_memory() -> None:
    """Let glibc reuse the memory of freed tensors of up to 32 MB, which it otherwise returns to the system."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # None with other C libraries
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**28)  # M_TRIM_THRESHOLD


def resolve_device(name: str = "auto") -> torch.device:
    """Resolve a device name: `auto` selects CUDA if available, then MPS, then the CPU.

    Raises:
        ConfigError: the device is not available, or the name is unknown.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    kind = name.split(":")[0]
    if kind not in available:
        raise ConfigError(f"unknown device: {name}", hint="choose auto, cpu, cuda or mps")
    if not available[kind]:
        raise ConfigError(f"this machine has no usable `{kind}` device", hint="use `--device auto` or `--device cpu`")
    return torch.device(name)


def count_gpus() -> int:
    """The number of CUDA devices of this machine."""
    return torch.cuda.device_count()


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Resolve a dtype name: `float32`, `bfloat16`, `float16` or `auto` (bfloat16 on CUDA, else float32).

    Raises:
        ConfigError: the name is unknown.
    """
    auto = torch.bfloat16 if device.type == "cuda" else torch.float32
    dtypes = {"auto": auto, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise ConfigError(f"unknown dtype: {name}", hint=f"choose one of {', '.join(dtypes)}")
    return dtypes[name]


def map_in_thread(function: Callable[[T], R], items: Iterable[T], buffersize: int) -> Iterator[R]:
    """Yield `function(item)` in order; a thread computes them while up to `buffersize` more items are taken.

    Items are taken, and results yielded, in the caller's thread. With 0, each result is waited for.

    Raises:
        Any exception of `function`, when its result would be yielded.
    """
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(thread.submit(function, item))
            if len(waiting) > buffersize:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def run_beside(device: torch.device, work: Callable[[], tuple[Tensor, ...]]) -> Callable[[], tuple[Tensor, ...]]:
    """Run work asynchronously on a second CUDA stream, without gradients across streams (inference only).

    Returns:
        A function that waits for the result. On other devices the work runs when it is called.
    """
    if device.type != "cuda":
        return work
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        result = work()

    def join() -> tuple[Tensor, ...]:
        here = torch.cuda.current_stream(device)
        here.wait_stream(side)
        for tensor in result:
            tensor.record_stream(here)  # keeps its memory allocated until this stream has used it
        return result

    return join


def seed_everything(seed: int) -> None:
    """Seed the global generators of random, numpy and torch, which libraries use. Our own code takes an `rng`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Seed torch on all devices for one training step of one rank, so that dropout is reproducible after a resume."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0]))
