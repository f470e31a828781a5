"""Worker processes that share a job and write their rows to its journal."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from cores_core.errors import CoresError
from cores_core.journal import Journal
from cores_core.signals import stop_signals_held

Progress = Callable[[int], None]
"""Called with the number of newly finished rows."""
_SECONDS = 0.5


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
