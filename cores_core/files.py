"""Atomic writing of files and folders: write to a temporary name in the same folder, then rename; reading of JSON."""

import ctypes
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk or an exhausted quota."""
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_WRITING = (*DISK_FULL, errno.EFBIG, *_NOT_ALLOWED)
"""Error numbers of a disk, folder or file that cannot be written."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Arguments of renameat2 (linux/fcntl.h, linux/fs.h)."""


class RepeatedKeyError(ValueError):
    """A key occurs twice in an object of JSON."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` on success, remove it on any exception.

    Works for files and folders. A file replaces a file, a folder a folder. The folder that holds them must exist.

    Raises:
        OSError: it cannot be written; or a folder would replace a file, a file a folder, or a folder a symbolic link.
    """
    with replacing_all([path]) as (temporary,):
        yield temporary


@contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Like `replacing` for several paths together: on any exception none is replaced, and older files are kept.

    A kill between two renames may leave some replaced, with older files beside them (`.NAME.PID.old`).
    """
    temporaries = [_beside(path, "tmp") for path in paths]
    for temporary in temporaries:
        _remove(temporary)
    try:
        yield temporaries
        _rename_all(temporaries, paths)
    except BaseException:
        for temporary in temporaries:
            _remove(temporary)
        raise


def save_text(text: str, path: Path) -> None:
    """Write a text file atomically, encoded as in `write_text`."""
    with replacing(path) as temporary:
        write_text(text, temporary)


def write_text(text: str, path: Path) -> None:
    """Write UTF-8. Surrogates, from file names that are not UTF-8, are written as \\udcXX."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path, unique: bool = False) -> Any:
    """Read a JSON file in UTF-8, with or without a byte order mark; `unique` as in `parse_json`.

    Raises:
        OSError: it cannot be read. RepeatedKeyError: see `parse_json`. ValueError: it is not UTF-8 or not JSON.
    """
    return parse_json(path.read_text(encoding="utf-8-sig"), unique)


def parse_json(text: str | bytes, unique: bool = False) -> Any:
    """Parse JSON.

    Args:
        unique: refuse objects in which a key occurs twice; otherwise the last one counts.

    Raises:
        RepeatedKeyError: a key occurs twice, if `unique`.
        ValueError: it is not JSON, has a number of too many digits, or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_make_object if unique else None)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RepeatedKeyError(f"the key `{next(key for key in keys if keys.count(key) > 1)}` occurs twice")
    return found


def _rename_all(temporaries: Sequence[Path], paths: Sequence[Path]) -> None:
    """Rename one by one; on a failure, renames already done are undone and the older files restored."""
    for temporary, path in zip(temporaries, paths, strict=True):
        if path.is_dir() and not temporary.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    replaced: list[Path] = []
    with ExitStack() as undo:
        for temporary, path in zip(temporaries[:-1], paths[:-1], strict=True):
            if path.exists():
                older = _beside(path, "old")
                path.replace(older)
                undo.callback(older.replace, path)
                replaced.append(older)
            else:
                undo.callback(path.unlink, missing_ok=True)
            temporary.replace(path)
        if temporaries[-1].is_dir() and paths[-1].is_dir():
            _replace_folder(temporaries[-1], paths[-1])
        else:
            temporaries[-1].replace(paths[-1])
        undo.pop_all()
    for older in replaced:
        with suppress(OSError):  # all are in place
            _remove(older)


def _replace_folder(new: Path, path: Path) -> None:
    """Put `new` in the place of the folder at `path`, so that a kill at any time leaves one of them there, whole.

    On file systems that cannot exchange two folders, a kill between two renames leaves none, with both beside it.
    """
    if path.is_symlink():
        raise FileExistsError(errno.EEXIST, "a symbolic link to a folder", str(path))
    if not _exchange(new, path):
        older = _beside(path, "old")
        path.replace(older)
        try:
            new.replace(path)
        except BaseException:
            older.replace(path)
            raise
        older.replace(new)
    shutil.rmtree(new, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step with Linux's renameat2; returns False, with nothing done, where it cannot."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    paths = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    return renameat2 is not None and renameat2(*paths, _RENAME_EXCHANGE) == 0


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{ending}")


def writing_hint(error: OSError) -> str:
    """Hint for an error while writing a file: free space, check permissions, or just retry."""
    if error.errno in DISK_FULL:
        return "free some disk space, then run the command again"
    if error.errno == errno.EFBIG:
        return "the file system or a limit of the shell (ulimit -f) allows no larger files: choose another folder"
    if error.errno in _NOT_ALLOWED:
        return "check write permission, then run the command again"
    return "run the command again; finished work is kept"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
