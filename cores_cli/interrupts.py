"""SIGINT and SIGTERM, from the first line of a command to its last. Imports the standard library only, so it is first.

What a signal does depends on what the command is doing:

    nothing to clean up (the start)   the process ends at once. No exception is raised: libraries that are being
                                      imported catch exceptions, and half of a library is imported
    `unwinding()`                     KeyboardInterrupt is raised, so that processes and temporary files are removed
    `saving()`                        the signal is recorded in `number`, which a training reads after each step
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Literal

from cores_core.signals import STOP_SIGNALS, ignore_stop_signals

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit codes of a command that a signal ended: Ctrl-C, or a cluster that takes its machine back."""


class Interrupts:
    """What the signals of this process do, and which came.

    Attributes:
        number: the first signal that did not end the process at once; None before.
        is_raised: whether KeyboardInterrupt was raised for it.
    """

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self.is_raised = False
        self._action: Literal["end", "unwind", "save"] = "end"
        self._process = 0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals, also those that the process was started to ignore, as in the background of a script.

        Python allows this in the main thread only; elsewhere nothing changes.
        """
        self.number, self.is_raised, self._action, self._process = None, False, "end", os.getpid()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            atexit.register(ignore_stop_signals)  # the work is done; what remains of the process ends by itself
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def unwinding(self) -> Iterator[None]:
        """Raise KeyboardInterrupt on a signal within the block."""
        with self._acting("unwind"):
            yield

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Record the first signal within the block; a second SIGINT raises KeyboardInterrupt."""
        with self._acting("save"):
            yield

    def check(self) -> None:
        """Raise KeyboardInterrupt again if a library caught the first one. Called between units of work."""
        if self.is_raised:
            raise KeyboardInterrupt

    @contextmanager
    def _acting(self, action: Literal["unwind", "save"]) -> Iterator[None]:
        before, self._action = self._action, action
        try:
            yield
        finally:
            self._action = before

    def _handle(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a forked process that has not yet set its own handlers; this one decides for it
        if self._action == "end":
            _write("interrupted")
            with suppress(Exception):
                sys.stdout.flush()
            os._exit(EXIT_CODES[signal.Signals(number)])
        is_first, self.number = self.number is None, self.number or signal.Signals(number)
        if self._action == "save" and (is_first or number != signal.SIGINT):
            if is_first:
                _write("saving and stopping after this step ...")
            return
        self.is_raised = True
        raise KeyboardInterrupt


def _write(message: str) -> None:
    """Write a line to stderr without Python's buffer, which the interrupted code may be using."""
    start = "\n" if os.isatty(2) else ""  # below a progress bar
    with suppress(OSError):
        os.write(2, f"{start}{message}\n".encode())


interrupts = Interrupts()
