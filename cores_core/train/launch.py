"""`train`: run a training in one process or in a group, whose ranks are started or joined, and end together.

The calling process is rank 0. On a CPU, two processes of one thread each are faster than one of two threads, because
small operations do not wait for each other. Where a launcher has started the processes (torchrun, DeepSpeed's, one of a
cluster), its environment says which one this is.
"""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from cores_core.errors import ConfigError, LaunchError
from cores_core.locks import locked
from cores_core.runtime import Group, count_local_ranks, group_from_environment, own_device, set_up_cpu
from cores_core.signals import end_with_parent, ignore_stop_signals, stop_signals_held
from cores_core.train.callbacks import Callback
from cores_core.train.start import RunPlan, TrainJob, choose_recipe, plan_run
from cores_core.train.trainer import Trainer, uses_deepspeed
from cores_core.train.zero import disconnect

EXIT_DIED = 3
"""Exit code of a rank that ends because another rank died."""
_LAST_SECONDS = 2.0
"""Time in which the process of a broken connection is seen to have died."""
GRACE = 20.0
"""Seconds that rank 0 waits for its own error before it reports another dead rank."""
_PATIENCE = timedelta(hours=6)
"""Timeout of collective operations: other ranks wait while one saves or evaluates."""


def train(job: TrainJob, callbacks: Sequence[Callback] = (), resume: bool = False, processes: int = 1) -> int:
    """Train until the last step or until a callback requests a stop.

    Args:
        resume: continue from the newest checkpoint in `job.output`, or from the start if there is none yet.
        processes: how many share the images of each step; ignored in a process that a launcher has started, which
            trains as the rank that its environment says.

    Returns:
        The number of finished steps.

    Raises:
        CoresError: settings, data or weights cannot be used (`plan_run`, `Trainer`); there are fewer images a step than
            processes; or a process died.
    """
    group = group_from_environment()
    if group is not None:
        return _join(job, callbacks, resume, group)
    images = choose_recipe(job.config).fewest_images
    if images < processes:
        raise ConfigError(
            f"{processes} processes cannot share {images} images",
            hint="raise train.global_batch_size, or use fewer",
        )
    with locked(job.output):
        return _lead(plan_run(job, resume), callbacks, Group(0, processes))


def _lead(plan: RunPlan, callbacks: Sequence[Callback], group: Group) -> int:
    """Train as rank 0 of a group that this process starts."""
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{folder}/store"
        with _followers(plan, store, group.size) as followers, _watched(followers, callbacks):
            try:
                return _train_as(plan, callbacks, group, store)
            except RuntimeError as error:
                if followers:  # a broken connection may be noticed before the death of its process
                    connection.wait([follower.sentinel for follower in followers], _LAST_SECONDS)
                dead = _find_dead(followers)
                if dead is None:
                    raise
                hint = f"what it printed is above; continue with: cores train --resume --output {plan.job.output}"
                raise LaunchError(_describe_death(*dead), hint=hint) from error


def _join(job: TrainJob, callbacks: Sequence[Callback], resume: bool, group: Group) -> int:
    """Train as one rank of a group that a launcher has started; rank 0 plans, logs and saves."""
    if not group.leads:
        ignore_stop_signals()
    with locked(job.output) if group.leads else nullcontext(), _joined(job, group, "env://"):
        plans: list[Any] = [plan_run(job, resume) if group.leads else None]
        distributed.broadcast_object_list(plans)
        return Trainer(_on_own_device(plans[0], group), callbacks, group).run()


def hostfile_command(hostfile: Path, nodes: int, gpus: int, arguments: Sequence[str]) -> list[str]:
    """Command of DeepSpeed's launcher that starts `cores` with these arguments on several machines."""
    machines = ["--hostfile", str(hostfile), "--num_nodes", str(nodes), "--num_gpus", str(gpus)]
    return ["deepspeed", *machines, "--module", "cores_cli.app", *arguments]


def _train_as(plan: RunPlan, callbacks: Sequence[Callback], group: Group, store: str) -> int:
    """Train as a rank of a group that meets at `store`, torch's `init_method`."""
    with _joined(plan.job, group, store):
        return Trainer(_on_own_device(plan, group), callbacks, group).run()


def _on_own_device(plan: RunPlan, group: Group) -> RunPlan:
    return replace(plan, job=replace(plan.job, device=own_device(plan.job.device, group)))


@contextmanager
def _joined(job: TrainJob, group: Group, store: str) -> Iterator[None]:
    """Connect this process with its group. `store` is torch's `init_method`."""
    if group.size > 1:
        set_up_cpu(count_local_ranks(group), are_bound=group_from_environment() is not None)
    if group.size == 1 and not uses_deepspeed(choose_recipe(job.config), group):
        yield
        return
    device = own_device(job.device, group)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(
        backend, init_method=store, rank=group.rank, world_size=group.size, timeout=_PATIENCE
    )
    try:
        yield
    finally:
        disconnect()


@contextmanager
def _followers(plan: RunPlan, store: str, size: int) -> Iterator[list[BaseProcess]]:
    """Start the other ranks; all of them are ended when the block is left."""
    context = get_context("spawn")
    followers: list[BaseProcess] = [
        context.Process(target=_follow, args=(plan, store, Group(rank, size))) for rank in range(1, size)
    ]
    try:
        with stop_signals_held():
            for follower in followers:
                follower.start()
        yield followers
        for follower in followers:
            follower.join()
    finally:
        for follower in followers:
            if follower.is_alive():
                follower.kill()
                follower.join()


def _follow(plan: RunPlan, store: str, group: Group) -> None:
    ignore_stop_signals()
    end_with_parent(EXIT_DIED)  # a follower would wait for rank 0 until the timeout
    _train_as(plan, (), group, store)


@contextmanager
def _watched(followers: Sequence[BaseProcess], callbacks: Sequence[Callback]) -> Iterator[None]:
    """End this process when another rank died unnoticed, as on GPUs, where ranks wait in collectives."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            dead = _find_dead(followers)
            if dead is not None and not over.wait(GRACE):
                for callback in callbacks:
                    callback.on_death(_describe_death(*dead))
                for follower in followers:
                    follower.kill()
                os._exit(EXIT_DIED)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _find_dead(followers: Sequence[BaseProcess]) -> tuple[int, int] | None:
    """Rank and exit code of a dead rank; polls briefly, because a killed process takes a moment to end."""
    for rank, follower in enumerate(followers, start=1):
        if follower.exitcode is None:
            follower.join(timeout=0.5)
        if follower.exitcode:
            return rank, follower.exitcode
    return None


def _describe_death(rank: int, code: int) -> str:
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return f"a training process died: rank {rank}, {how}"
