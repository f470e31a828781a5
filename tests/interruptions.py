"""Interrupt a job from its progress callback."""

from collections.abc import Callable


class StopError(Exception):
    """Raised by a progress callback."""


def stop_after(count: int) -> Callable[[int], None]:
    """A progress callback that raises `StopError` once `count` items are done."""
    seen = 0

    def progress(new: int) -> None:
        nonlocal seen
        seen += new
        if seen >= count:
            raise StopError

    return progress
