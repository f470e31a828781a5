"""The property of all fuzzers: a result, or one error of one line, within the limits of time and memory."""

import os
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from cores_core.errors import CoresError

SECONDS = 20
MEMORY = 4 << 30
"""Address space in bytes that a fuzzer may use beyond what its process has."""
LONGEST_MESSAGE = 2000
COUNT = int(os.environ.get("CORES_FUZZ", "0"))
"""Inputs per fuzzer by hand; 0 for the few of CI."""


class HangError(BaseException):
    """A reader took longer than `SECONDS`; no reader catches it."""


@dataclass
class Survey:
    """Counts of all inputs of this process.

    Attributes:
        inputs, refused: numbers of inputs, and of those that gave one error. slowest: seconds of the slowest.
        failures: by exception and place, the number of inputs and the first traceback.
    """

    inputs: int = 0
    refused: int = 0
    slowest: float = 0.0
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add_failure(self, error: BaseException) -> None:
        """Count a failure by its exception and the place in our code that let it through."""
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "/cores_core/" in frame.filename]
        key = f"{type(error).__name__} {' '.join(ours[-3:])} < {Path(frames[-1].filename).name}:{frames[-1].lineno}"
        count, first = self.failures.get(key, (0, "".join(traceback.format_exception(error))))
        self.failures[key] = (count + 1, first)


SURVEY = Survey()


def survives(read: Callable[[], object]) -> None:
    """Run a reader on a damaged input. By hand, failures are collected in `SURVEY`; in CI the first is raised.

    Raises:
        AssertionError: its error has more than one line. Any other exception is the reader's.
    """
    started = time.monotonic()
    SURVEY.inputs += 1
    try:
        with _time_limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _read(read)
    except (Exception, HangError) as error:
        if not COUNT:
            raise
        SURVEY.add_failure(error)
    SURVEY.slowest = max(SURVEY.slowest, time.monotonic() - started)


def check_text(text: str) -> None:
    """Check that a text for the user is a line of reasonable length."""
    assert len(text.splitlines()) < 2, text
    assert len(text) <= LONGEST_MESSAGE, text


@contextmanager
def memory_limit() -> Iterator[None]:
    """Within the block, allocating more than `MEMORY` raises MemoryError instead of exhausting the machine."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _read(read: Callable[[], object]) -> None:
    try:
        read()
    except CoresError as error:
        SURVEY.refused += 1
        check_text(error.message)
        check_text(error.hint or "")


@contextmanager
def _time_limit() -> Iterator[None]:
    previous = signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _give_up(number: int, _: FrameType | None) -> None:
    raise HangError(f"longer than {SECONDS} s")
