"""Files that are whole or absent: write under a temporary name beside the goal, then rename."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; rename it to `path` on success, remove it on any failure.

    Works for a file and for a folder. An existing folder at `path` is replaced.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove(temporary)
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    except BaseException:
        _remove(temporary)
        raise


def save_text(text: str, path: Path) -> None:
    """Write a UTF-8 file, whole or not at all. Bytes of a file name that are not UTF-8 (surrogates) become \\udcXX."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
