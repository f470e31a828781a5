"""Worker processes that share a job and write their rows to its journal."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

from cores_core.errors import CoresError
from cores_core.journal import Journal
from cores_core.signals import stop_signals_held

T = TypeVar("T")
Progress = Callable[[int], None]
"""Called with the number of newly finished rows."""
_SECONDS = 0.5


def share_work(
    work: Callable[[str, Sequence[T], Progress], None],
    items: Sequence[T],
    devices: Sequence[str],
    journal: Journal,
    progress: Progress,
) -> None:
    """Work on items in one process per device, or in this one if there is one device or one item.

    Args:
        work: picklable; called with a device, its share of the items and a progress callback.
    """
    if len(devices) == 1 or len(items) <= 1:
        return work(devices[0], items, progress)
    size = len(devices)
    shares = [partial(work, device, items[rank::size], _no_progress) for rank, device in enumerate(devices)]
    run_shares(shares, journal, progress)


def _no_progress(_: int) -> None:
    """Progress of worker processes is read from the journal."""


def run_shares(shares: Sequence[Callable[[], None]], journal: Journal, progress: Progress) -> None:
    """Run each share of a job in a process of its own; they report through the journal.

    Args:
        shares: picklable functions.

    Raises:
        CoresError: one of them failed, or its process died; the others are ended, finished rows are kept.
    """
    before = journal.count()
    with ProcessPoolExecutor(len(shares), mp_context=get_context("spawn")) as pool:
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
            for process in list((pool._processes or {}).values()):
                process.kill()  # workers ignore the other signals; a truncated row is dropped
            raise
