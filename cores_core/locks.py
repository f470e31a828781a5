"""One process at a time writes to a place.

The locks are flock's, through filelock: a lock ends with its process, however that ends, and the processes that it
starts or forks do not hold it. While it is held the lock file names its holder; a file that a killed process left
behind locks nothing.
"""

import errno
import json
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cores_core.errors import CoresWarning, LockError

_PATIENCE = 0.2
"""Seconds to try: a holder that is just ending removes its file, and the next try takes a new one."""
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)
"""Errors of the place itself, which the command that writes there reports."""


@contextmanager
def locked(path: Path, beside: bool = False) -> Iterator[None]:
    """Keep other processes from writing to a place while the block runs.

    Args:
        path: a folder; it is made if missing, and removed again if it is still empty at the end.
        beside: `path` is a file, or a folder that appears as a whole: the lock file lies next to it.

    Raises:
        LockError: another process holds it; the message names the process. Where the file system has no locks, the
            block runs without one and a `CoresWarning` says so.
    """
    folder = path.parent if beside else path
    file = folder / (f".{path.name}.lock" if beside else ".lock")
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = FileLock(file, timeout=_PATIENCE, fallback_to_soft=False, on_acquired=_write_holder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        hint = "wait until it has ended, end it, or choose another place"
        raise LockError(f"another process{_read_holder(file)} is writing to: {path}", hint=hint) from error
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            advice = "start no second command that writes there"
            warnings.warn(f"{folder} cannot be locked ({error.strerror}): {advice}", CoresWarning, stacklevel=3)
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                file.unlink()
            lock.release()
        for place in missing:
            with suppress(OSError):
                place.rmdir()


def _write_holder(descriptor: int) -> None:
    """Write this process into its lock file; without room for that, the lock holds all the same."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"process": os.getpid(), "host": platform.node()}).encode(), 0)


def _read_holder(file: Path) -> str:
    try:
        holder = json.loads(file.read_text(encoding="utf-8"))
        return f" ({holder['process']} on {holder['host']})"
    except (OSError, ValueError, LookupError, TypeError):
        return ""
