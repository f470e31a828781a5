"""Workers that share a job and their rows, which are written to its journal. Here: processes of this machine."""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, TypeVar

from cores_core.errors import CoresError
from cores_core.journal import Journal, Row
from cores_core.runtime import set_up_cpu
from cores_core.signals import end_with_parent, stop_signals_held

T = TypeVar("T")
Progress = Callable[[int], None]
"""Called with the number of newly finished rows."""
Worker = Callable[[Sequence[T]], Iterator[list[Row]]]
"""Yields the rows of each item, in the order of the items, as soon as it is finished."""
Start = Callable[[str], Worker[T]]
"""Loads the model onto a device and returns a worker. Picklable."""
_SECONDS = 0.5
_LEAVE, _LEAVE_SECONDS = signal.SIGUSR1, 3.0
"""Signal at which a worker ends its share (it ignores those of a terminal), and the time that it has."""


class Executor(Protocol):
    """Works on all items and adds their rows to the journal: `share_work`, or a `RayCluster` (ray_cluster.py)."""

    def __call__(
        self, start: Start[T], items: Sequence[T], devices: Sequence[str], journal: Journal, progress: Progress
    ) -> None:
        """Work on items with one worker per device.

        Raises:
            CoresError: a worker failed or died; rows that are in the journal are kept.
        """


def share_work(
    start: Start[T], items: Sequence[T], devices: Sequence[str], journal: Journal, progress: Progress
) -> None:
    """Work on items in one process per device, or in this one if there is one device or one item."""
    size = len(devices)
    if size == 1 or len(items) <= 1:
        return _work(start, devices[0], items, journal.folder, progress)
    shares = [
        partial(_work, start, device, items[rank::size], journal.folder, processes=size)
        for rank, device in enumerate(devices)
    ]
    _run_shares(shares, journal, progress)


def _work(
    start: Start[T],
    device: str,
    items: Sequence[T],
    folder: Path,
    progress: Progress | None = None,
    processes: int = 1,
) -> None:
    """Work on items in this process, which writes to a file of its own in the journal of a folder.

    Args:
        progress: None in worker processes, whose progress is read from the journal. processes: number of workers; 1 for
            the process that called, whose settings of torch stay as they are.
    """
    if not items:
        return
    if processes > 1:
        set_up_cpu(processes)
    worker, journal = start(device), Journal(folder)
    for rows in worker(items):
        journal.add(rows)
        if progress is not None:
            progress(len(rows))


def _run_shares(shares: Sequence[Callable[[], None]], journal: Journal, progress: Progress) -> None:
    """Run each share of a job in a process of its own; they report through the journal.

    Args:
        shares: picklable functions.

    Raises:
        CoresError: one of them failed, or its process died; the others are ended, finished rows are kept.
    """
    before = journal.count()
    with ProcessPoolExecutor(len(shares), get_context("spawn"), _start_worker) as pool:
        with stop_signals_held():
            tasks: set[Future[None]] = {pool.submit(share) for share in shares}
        try:
            while tasks:
                finished, tasks = wait(tasks, timeout=_SECONDS)
                progress((count := journal.count()) - before)
                before = count
                for task in finished:
                    task.result()
        except BrokenProcessPool as error:
            raise CoresError("a worker process died", hint="run the command again; finished rows are kept") from error
        except BaseException:
            _end_workers(pool, tasks)
            raise


def _start_worker() -> None:
    """Prepare a worker process: it ends with its parent, and leaves its share at `_LEAVE`."""
    end_with_parent()
    signal.signal(_LEAVE, lambda *_: sys.exit(1))


def _end_workers(pool: ProcessPoolExecutor, tasks: Iterable[Future[None]]) -> None:
    """Let workers finish the files that they are writing, then kill them; a truncated row is dropped."""
    workers = list((pool._processes or {}).values())
    for worker in workers:
        if worker.pid is not None and worker.is_alive():
            os.kill(worker.pid, _LEAVE)
    wait(tasks, timeout=_LEAVE_SECONDS)
    for worker in workers:
        worker.kill()
