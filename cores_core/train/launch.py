"""Train in several processes of one machine: start them, join them, and end them together.

The calling process is rank 0. On a CPU, two processes of one thread each are faster than one of two threads, because
small operations do not wait for each other.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from torch import distributed

from cores_core.errors import ConfigError, CoresError
from cores_core.evaluate.results import Evaluation
from cores_core.runtime import Group, share_cores
from cores_core.train.loop import Reporter, StepReport, ignore_stop_signals
from cores_core.train.run import run_planned, run_training
from cores_core.train.start import RunPlan, TrainJob, plan_run


def launch_training(job: TrainJob, reporter: Reporter, resume: bool, processes: int) -> int:
    """Train in so many processes, which share the images of each step. Returns the number of steps done.

    Raises:
        CoresError: as `run_training`; there are fewer images a step than processes; or a process died.
    """
    if processes == 1:
        return run_training(job, reporter, resume)
    train = job.config.train
    images = min(train.images_per_step, train.pretrain_images) if train.pretrain_steps else train.images_per_step
    if images < processes:
        raise ConfigError(
            f"{processes} processes cannot share {images} images", hint="raise train.images_per_step, or ask for fewer"
        )
    plan = plan_run(job, resume)
    with tempfile.TemporaryDirectory() as folder, _followers(plan, Path(folder) / "store", processes) as followers:
        try:
            group = _join(Path(folder) / "store", Group(0, processes))
            return run_planned(plan, reporter, group)
        except RuntimeError as error:
            for follower in followers:
                follower.join(timeout=1)  # one that was killed may not be gone yet
            if all(follower.exitcode in (None, 0) for follower in followers):
                raise
            hint = f"what it printed is above; continue with: cores train --resume --output {job.output}"
            raise CoresError("a training process died", hint=hint) from error
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()


@contextmanager
def _followers(plan: RunPlan, store: Path, size: int) -> Iterator[list[BaseProcess]]:
    """The other processes; none of them outlives the block."""
    context = get_context("spawn")
    followers: list[BaseProcess] = [
        context.Process(target=_follow, args=(plan, store, Group(rank, size))) for rank in range(1, size)
    ]
    try:
        for follower in followers:
            follower.start()
        yield followers
        for follower in followers:
            follower.join()
    finally:
        for follower in followers:
            if follower.is_alive():
                follower.kill()


def _follow(plan: RunPlan, store: Path, group: Group) -> None:
    ignore_stop_signals()
    run_planned(plan, _Silent(), _join(store, group))
    distributed.destroy_process_group()


def _join(store: Path, group: Group) -> Group:
    share_cores(group)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=group.rank, world_size=group.size)
    return group


class _Silent:
    """The reporter of all but rank 0."""

    def on_start(self, first_step: int, steps: int) -> None:
        pass

    def on_step(self, report: StepReport) -> None:
        pass

    def on_validation(self, step: int, result: Evaluation) -> None:
        pass

    def on_save(self, step: int, folder: str) -> None:
        pass

    def should_stop(self) -> bool:
        return False
