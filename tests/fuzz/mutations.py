"""Strategies of Hypothesis for damaged files: edits of bytes, and changes of the values of a JSON tree."""

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

BYTES = (
    b"", bytes(4), b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\n", b"[" * 3000, b"9" * 5000,
    b"\xed\xa0\x80",
)  # fmt: skip
"""Bytes that end texts, are sizes at the limits of integers, nest deeply, or are no UTF-8."""
NUMBERS = (
    0, -1, 1, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1, 2**63, 10**400, 1e300, -0.5, float("nan"), float("inf"),
)  # fmt: skip
TEXTS = (
    "", " ", "\x00", "\ud800", "a\nb", "..", "../x", "/", "a" * 300, "x/" * 3000, "\u202e", "[SEG]", "</s>", "%00",
)  # fmt: skip

Edit = tuple[str, float, float, bytes]
Change = tuple[str, int, int, Any]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
_places = st.floats(0, 1, exclude_max=True)
edits = st.lists(
    st.tuples(
        st.sampled_from(("replace", "insert", "delete", "repeat", "cut")),
        _places,
        st.floats(0, 0.2),
        st.sampled_from(BYTES) | st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=5,
)
"""Edits of bytes: kind, place and length as fractions of the size, and the new bytes."""
changes = st.lists(
    st.tuples(st.sampled_from(("delete", "set", "swap", "repeat")), st.integers(0), st.integers(0), values),
    min_size=1,
    max_size=4,
)
"""Changes of a tree: kind, two places, and a new value."""


def edit_bytes(data: bytes, edits: Sequence[Edit]) -> bytes:
    """The bytes after all edits."""
    for kind, place, length, new in edits:
        start = int(place * len(data))
        end = start + int(length * (len(data) - start))
        if kind == "replace":
            data = data[:start] + new + data[start + len(new) :]
        elif kind == "insert":
            data = data[:start] + new + data[start:]
        elif kind == "delete":
            data = data[:start] + data[end:]
        elif kind == "repeat":
            data = data[:end] + data[start:]
        else:
            data = data[:start]
    return data


def change_tree(tree: Any, changes: Sequence[Change]) -> Any:
    """A copy of a JSON tree after all changes."""
    tree = [copy.deepcopy(tree)]
    for kind, first, second, value in changes:
        places = list(_list_places(tree))
        holder, key = places[first % len(places)]
        other, other_key = places[second % len(places)]
        if kind == "set" or holder is tree:
            holder[key] = copy.deepcopy(value)
        elif kind == "delete":
            del holder[key]
        elif kind == "swap":
            holder[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(holder[key])
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
    return tree[0]


def _list_places(tree: Any) -> Any:
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _list_places(tree[key])


def dump_json(tree: Any) -> bytes:
    """A JSON file."""
    return json.dumps(tree).encode()


def damaged_json(tree: Any, dump: Callable[[Any], bytes] = dump_json) -> st.SearchStrategy[bytes]:
    """Files of a JSON tree with changed values, edited bytes, or both."""
    changed = changes.map(lambda found: dump(change_tree(tree, found)))
    whole = dump(tree)
    edited = edits.map(lambda found: edit_bytes(whole, found))
    both = st.tuples(changed, edits).map(lambda pair: edit_bytes(*pair))
    return st.one_of(changed, changed, edited, both)
