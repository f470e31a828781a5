"""SIGINT and SIGTERM in worker processes: the main process handles them, workers ignore or never receive them.

`end_with_parent` ends a worker whose main process was killed; `handlers_kept` protects the main process's own handlers
from libraries.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, parent_process

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def ignore_stop_signals() -> None:
    """Ignore SIGINT and SIGTERM in this process."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_with_parent(code: int = 1) -> None:
    """End this process, with an exit code, as soon as the process that started it has died."""
    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(code)

    threading.Thread(target=wait, daemon=True).start()


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
def handlers_kept(delay: bool) -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM that a library replaces within the `with` block.

    In other threads than the main one nothing changes, as Python handles no signals there.

    Args:
        delay: handle signals that come within the block at its end. Unlike with `stop_signals_held`, processes started
            in it receive them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    received: list[int] = []
    try:
        for number in STOP_SIGNALS if delay else ():
            signal.signal(number, lambda number, _: received.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
