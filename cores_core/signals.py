"""SIGINT and SIGTERM in worker processes: the main process handles them, workers ignore or never receive them.

Within `stop_signals_delayed` the main process handles them later.
"""

import signal
import threading
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


@contextmanager
def stop_signals_delayed() -> Iterator[None]:
    """Handle SIGINT and SIGTERM when the `with` block ends, with the handlers that were set before it.

    For calls that must not be interrupted halfway, or that set handlers of their own. Unlike with `stop_signals_held`,
    processes started within the block receive the signals. In other threads than the main one nothing changes, as
    Python handles no signals there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
