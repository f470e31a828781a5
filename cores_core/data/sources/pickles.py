"""Read pickles of plain data: lists, tuples, dicts, numbers, strings, bytes, None, True, False.

The reader is the standard library's `pickle._Unpickler` (its Python implementation), with a table of opcodes that holds
those of plain data only: names, calls, objects and persistent ids have no entry, so nothing in a file can be called.

Why not `pickle.Unpickler` with a `find_class` that refuses everything: the C implementation allocates what a memo
number asks for (`Nr\\x00\\x00\\x00\\x10.`, 7 bytes, took 4 GiB and 15 s), and both implementations hash any dict key: a
tuple of tuples can take exponential time, a deeply nested one crashes the interpreter. The Python implementation keeps
its memo in a dict, and here dict keys are scalars. Protocols 0 to 5; 8-bit strings of Python 2 are latin-1.
"""

import io
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from pickletools import opcodes
from typing import Any

from cores_core.errors import DataError

MAX_BYTES = 1 << 29
"""Size of the largest file that is read; 50,000 references with three sentences each take 36 MB."""
_PLAIN = (
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE", "PUT", "BINPUT",
    "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET", "INT", "BININT", "BININT1", "BININT2", "LONG",
    "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "EMPTY_LIST", "LIST", "APPEND",
    "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS",
)  # fmt: skip
"""Names of `pickletools`."""
_KEY_TYPES = (str, bytes, int, float, type(None))
_FAILURES = (
    pickle.UnpicklingError, struct.error, EOFError, LookupError, TypeError, AttributeError, ValueError, OverflowError,
    MemoryError, RecursionError,
)  # fmt: skip
_NAMES = {ord(info.code): info.name for info in opcodes}
_LOADERS: Mapping[int, Callable[[Any], None]] = pickle._Unpickler.dispatch


def load_plain_pickle(path: Path) -> Any:
    """Read a pickle of plain data. Nothing in the file can be called.

    Raises:
        DataError: the file is missing, too large, truncated, no pickle, or holds anything other than plain data.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            hint = f"at most {MAX_BYTES:,} bytes are read"
            raise DataError(f"too large for a pickle of annotations: {path}", hint=hint)
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin-1").load()
    except OSError as error:
        raise DataError(f"cannot read: {path} ({error.strerror or error})") from error
    except _FAILURES as error:
        reason = "truncated" if isinstance(error, EOFError) else str(error) or type(error).__name__
        raise DataError(f"not a pickle of plain data: {path} ({reason})", hint="get the file again") from error


class _Opcodes(dict[int, Callable[[Any], None]]):
    """Loaders by opcode; any other opcode is refused."""

    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise pickle.UnpicklingError(f"it holds more than plain data: opcode {_NAMES.get(code, code)}")


class _PlainUnpickler(pickle._Unpickler):
    stack: list[Any]
    """Values since the last mark; a dict's keys and values alternate."""

    def _set_item(self) -> None:
        _check_keys(self.stack[-2:-1])
        _LOADERS[pickle.SETITEM[0]](self)

    def _set_items(self) -> None:
        _check_keys(self.stack[::2])
        _LOADERS[pickle.SETITEMS[0]](self)

    def _make_dict(self) -> None:
        _check_keys(self.stack[::2])
        _LOADERS[pickle.DICT[0]](self)

    dispatch = _Opcodes(
        {code: loader for code, loader in _LOADERS.items() if _NAMES[code] in _PLAIN}
        | {pickle.SETITEM[0]: _set_item, pickle.SETITEMS[0]: _set_items, pickle.DICT[0]: _make_dict}
    )


def _check_keys(keys: list[Any]) -> None:
    for key in keys:
        if not isinstance(key, _KEY_TYPES):
            raise pickle.UnpicklingError(f"a {type(key).__name__} is the key of a dict")
