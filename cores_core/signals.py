"""SIGINT and SIGTERM in worker processes: the main process handles them, workers ignore or never receive them."""

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
    """Block SIGINT and SIGTERM in this thread; pending ones are delivered when the `with` block ends.

    Processes started within the block inherit the signal mask and never receive them, not even during startup.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # otherwise starting the first process starts it, which unblocks the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
