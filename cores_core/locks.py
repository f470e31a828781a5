"""File locks, so that only one process at a time writes to a folder.

Uses flock through filelock: the operating system releases a lock when its process ends for any reason, and child
processes do not inherit it. The lock file contains the holder's process id and host; a stale file after a kill does not
lock anything.
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
"""Timeout in seconds: a holder that is exiting removes its file, and a retry creates a new one."""
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)
"""Error numbers of an unwritable folder; ignored here, because writing to it raises a clearer error."""


@contextmanager
def locked(path: Path, beside: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on a path while the block runs.

    On file systems without locks, the block runs unlocked with a `CoresWarning`.

    Args:
        path: a folder; created if missing, and removed if it is still empty at the end.
        beside: put the lock file next to `path`, for a file or a folder that is written atomically.

    Raises:
        LockError: another process holds the lock; the message contains its id and host.
    """
    folder = path.parent if beside else path
    file = folder / (f".{path.name}.lock" if beside else ".lock")
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = FileLock(file, timeout=_PATIENCE, fallback_to_soft=False, on_acquired=_write_holder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        hint = "wait until it has finished, stop it, or choose another folder"
        raise LockError(f"another process{_read_holder(file)} is writing to: {path}", hint=hint) from error
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            advice = "do not run a second command that writes there"
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
    """Write process id and host to the lock file. Errors are ignored; the lock is valid without them."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"process": os.getpid(), "host": platform.node()}).encode(), 0)


def _read_holder(file: Path) -> str:
    try:
        holder = json.loads(file.read_text(encoding="utf-8"))
        return f" ({holder['process']} on {holder['host']})"
    except (OSError, ValueError, LookupError, TypeError):
        return ""
