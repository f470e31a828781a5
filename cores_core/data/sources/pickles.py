"""Pickles of plain data, read as data: lists, tuples, dicts, numbers, strings, bytes, None, True, False.

A pickle is a program. This reads one with a machine that has no opcode for names, calls, objects or persistent ids.
`pickle.Unpickler` with a strict `find_class` is not enough: it believes the sizes and memo numbers that a file states
(a dozen bytes can ask for gigabytes) and hashes nested tuples, which can take for ever. Protocols 0 to 5; 8-bit strings
of Python 2 are latin-1.
"""

import struct
from codecs import escape_decode
from collections.abc import Callable, Mapping
from pathlib import Path
from pickletools import TAKEN_FROM_ARGUMENT1, TAKEN_FROM_ARGUMENT8U, UP_TO_NEWLINE, opcodes
from types import MappingProxyType
from typing import Any

from cores_core.errors import DataError

_ARGUMENT_SIZES = {ord(info.code): info.arg.n if info.arg else 0 for info in opcodes}
_NAMES = {ord(info.code): info.name for info in opcodes}
_FAILURES = (EOFError, IndexError, KeyError, TypeError, ValueError, OverflowError, MemoryError, RecursionError)
_KEY_TYPES = (str, bytes, int, float, type(None))


def load_plain_pickle(path: Path) -> Any:
    """Read a pickle of plain data. Nothing in the file can be called.

    Raises:
        DataError: it is missing, cut off, no pickle, or holds anything else than plain data.
    """
    try:
        return _Machine().run(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read: {path} ({error.strerror or error})") from error
    except (*_FAILURES, struct.error) as error:
        reason = str(error) if type(error) in (EOFError, ValueError) else f"{type(error).__name__}: {error}"
        raise DataError(f"not a pickle of plain data: {path} ({reason})") from error


class _Machine:
    """The stack, the stacks below its marks, and the memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below_marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        position = 0
        while position < len(data):
            code = data[position]
            if code not in _ARGUMENT_SIZES:
                raise ValueError(f"no opcode of a pickle: {code}")
            argument, position = _read_argument(data, position + 1, _ARGUMENT_SIZES[code])
            name = _NAMES[code]
            if name in _VALUES:
                self.stack.append(_VALUES[name](argument))
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            elif name == "STOP":
                return self.stack.pop()
            else:
                raise ValueError(f"it holds more than plain data: opcode {name}")
        raise EOFError("it is cut off")

    def mark(self, _: bytes) -> None:
        self.below_marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below_marks.pop()
        return items

    def pop_last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def drop(self, _: bytes) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def drop_mark(self, _: bytes) -> None:
        self.pop_mark()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_dict(self, items: list[Any]) -> None:
        self.push({})
        self.update(items)

    def put(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def get(self, number: int) -> None:
        self.stack.append(self.memo[number])

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("an item for what is no list")
        target.extend(items)

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("a key for what is no dict, or a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, _KEY_TYPES):
                raise ValueError(f"a {type(key).__name__} is the key of a dict")
            target[key] = value


def _read_argument(data: bytes, start: int, size: int) -> tuple[bytes, int]:
    """The bytes of an argument and where the next opcode is; sizes below 0 are marks of pickletools."""
    if size == UP_TO_NEWLINE:
        end = data.find(b"\n", start)
        if end < 0:
            raise EOFError("it is cut off")
        return data[start:end], end + 1
    if size < 0:  # the length stands before the bytes, in 1, 4 or 8 bytes
        width = {TAKEN_FROM_ARGUMENT1: 1, TAKEN_FROM_ARGUMENT8U: 8}.get(size, 4)
        size = int.from_bytes(data[start : start + width], "little")
        start += width
    if start + size > len(data):
        raise EOFError("it is cut off")
    return data[start : start + size], start + size


def _unsigned(argument: bytes) -> int:
    return int.from_bytes(argument, "little")


def _signed(argument: bytes) -> int:
    return int.from_bytes(argument, "little", signed=True)


def _decimal(argument: bytes) -> int | bool:
    return argument == b"01" if argument in (b"00", b"01") else int(argument)  # `I01` is True, `I1` is 1


def _quoted(argument: bytes) -> str:
    if len(argument) < 2 or argument[:1] not in (b"'", b'"') or argument[:1] != argument[-1:]:
        raise ValueError("a string without quotes")
    return escape_decode(argument[1:-1])[0].decode("latin-1")  # type: ignore[no-any-return, attr-defined, unused-ignore]


def _latin(argument: bytes) -> str:
    return argument.decode("latin-1")


def _utf8(argument: bytes) -> str:
    return argument.decode("utf-8", "surrogatepass")


_VALUES: Mapping[str, Callable[[bytes], Any]] = MappingProxyType(
    {
        "NONE": lambda _: None,
        "NEWTRUE": lambda _: True,
        "NEWFALSE": lambda _: False,
        "INT": _decimal,
        "LONG": lambda argument: int(argument.removesuffix(b"L")),
        "FLOAT": float,
        "BINFLOAT": lambda argument: struct.unpack(">d", argument)[0],
        **dict.fromkeys(("BININT1", "BININT2"), _unsigned),
        **dict.fromkeys(("BININT", "LONG1", "LONG4"), _signed),
        "STRING": _quoted,
        "UNICODE": lambda argument: argument.decode("raw-unicode-escape"),
        **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), _latin),
        **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _utf8),
        **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), bytes),
        "EMPTY_LIST": lambda _: [],
        "EMPTY_DICT": lambda _: {},
        "EMPTY_TUPLE": lambda _: (),
    }
)
"""Opcodes that push a value made of their argument alone."""
_ACTIONS: Mapping[str, Callable[[_Machine, bytes], None]] = MappingProxyType(
    {
        **dict.fromkeys(("PROTO", "FRAME"), lambda machine, argument: None),
        "MARK": _Machine.mark,
        "POP": _Machine.drop,
        "POP_MARK": _Machine.drop_mark,
        "DUP": lambda machine, _: machine.push(machine.stack[-1]),
        "LIST": lambda machine, _: machine.push(machine.pop_mark()),
        "APPEND": lambda machine, _: machine.extend(machine.pop_last(1)),
        "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
        "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
        "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop_last(1))),
        "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop_last(2))),
        "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop_last(3))),
        "DICT": lambda machine, _: machine.push_dict(machine.pop_mark()),
        "SETITEM": lambda machine, _: machine.update(machine.pop_last(2)),
        "SETITEMS": lambda machine, _: machine.update(machine.pop_mark()),
        "PUT": lambda machine, argument: machine.put(int(argument)),
        **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, argument: machine.put(_unsigned(argument))),
        "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
        "GET": lambda machine, argument: machine.get(int(argument)),
        **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, argument: machine.get(_unsigned(argument))),
    }
)
"""Opcodes that work on the stack and the memo."""
