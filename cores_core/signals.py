"""Signals in the processes that a command starts: SIGINT and SIGTERM reach all of them, and only the first one acts."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def ignore_stop_signals() -> None:
    """Ignore SIGINT and SIGTERM in this process."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def stop_signals_held() -> Iterator[None]:
    """Block SIGINT and SIGTERM in this thread; one that comes is delivered when the block ends.

    Processes that are started within the block inherit this and never receive them, also while they begin.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # else the first process that is started runs it, which unblocks the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
