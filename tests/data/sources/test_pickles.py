"""Pickles of plain data are read without calling anything; one clear error for whatever else a file holds."""

import pickle
import random
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cores_core.data.sources.pickles import MAX_BYTES, load_plain_pickle
from cores_core.errors import DataError

PLAIN = [
    {"ids": [0, 1, 255, 256, 65535, 65536, -1, 2**31, -(2**63), 10**30], "split": "testA", "yes": True, "no": False},
    {
        "sent": "Größe 馬 \U0001f40e",
        "box": (1.5, -2.0, 1e300),
        "none": None,
        5: (),
        "deep": [[], {}, [{"a": ((1,), 2)}]],
    },
]
PYTHON_2_PROTOCOL_0 = rb"""(lp1
(dp2
S'split'
p3
S'caf\xe9'
p4
sS'ref_id'
p5
I7
sS'area'
p6
F1.5
sS'long'
p7
L12L
sS'sent'
p8
Vh\u00e9 \u99ac
p9
sag4
a."""
PYTHON_2_PROTOCOL_2 = (
    b"\x80\x02]q\x01(}q\x02(U\x05splitq\x03U\x04caf\xe9q\x04U\x06ref_idq\x05K\x07U\x04areaq\x06G\x3f\xf8\0\0\0\0\0\0"
    b"U\x04longq\x07\x8a\x01\x0cU\x04sentq\x08X\x07\0\0\0h\xc3\xa9 \xe9\xa6\xacq\x09uh\x04e."
)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_back_from_every_protocol(tmp_path: Path, protocol: int) -> None:
    many = [{"key": f"value {i}", "i": i} for i in range(1500)]  # several batches, memo numbers above 255
    assert _load(tmp_path, pickle.dumps([PLAIN, many, many[0]], protocol)) == [PLAIN, many, many[0]]


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_bytes_come_back(tmp_path: Path, protocol: int) -> None:
    assert _load(tmp_path, pickle.dumps([b"\x00\xff", b"x" * 300], protocol)) == [b"\x00\xff", b"x" * 300]


def test_true_is_not_one(tmp_path: Path) -> None:
    assert [type(value) for value in _load(tmp_path, pickle.dumps([True, 1, False, 0], 0))] == [bool, int, bool, int]


@pytest.mark.parametrize("data", [PYTHON_2_PROTOCOL_0, PYTHON_2_PROTOCOL_2])
def test_what_python_2_wrote_is_latin_1(tmp_path: Path, data: bytes) -> None:
    expected = [{"split": "café", "ref_id": 7, "area": 1.5, "long": 12, "sent": "hé 馬"}, "café"]
    assert pickle.loads(data, encoding="latin1") == expected
    assert _load(tmp_path, data) == expected


def test_the_real_values_come_back(shared: Path) -> None:
    folder = shared / "samples/refcoco/refer_layout"
    paths = sorted(folder.glob("*/refs(*).p"))
    assert len(paths) == 5
    for path in paths:
        assert load_plain_pickle(path) == pickle.loads(path.read_bytes())


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_it_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    touched = tmp_path / "touched"
    data = pickle.dumps([Bomb(touched)], protocol)
    with pytest.raises(DataError, match=r"x\.p \(it holds more than plain data: opcode \w*GLOBAL"):
        _load(tmp_path, data)
    assert not touched.exists()
    pickle.loads(data)
    assert touched.exists()  # so the bomb was live


@pytest.mark.parametrize(
    "value", [np.float64(1), np.zeros(3), OrderedDict(a=1), {1, 2}, frozenset({1}), complex(1, 2), len, bytearray(b"a")]
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_objects_are_refused(tmp_path: Path, value: Any, protocol: int) -> None:
    with pytest.raises(DataError, match=r"x\.p"):
        _load(tmp_path, pickle.dumps([value], protocol))


@pytest.mark.parametrize("data", [b"Pfile.txt\n.", b"]Q.", b"(ios\nsystem\n.", b"(cos\nsystem\no.", b"\x82\x01."])
def test_persistent_ids_instances_and_extensions_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match="more than plain data"):
        _load(tmp_path, data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"not a pickle",
        b"version https://git-lfs.github.com/spec/v1\n",
        b".",
        b"a.",
        b"]a.",
        b"N]a.",
        b"e.",
        b"]q\x01h\x02.",
        b"Nq\x01K\x01a.",
        b"}(K\x01u.",
        b"}]Ns.",
        b"S'open\n.",
        b"I1x\n.",
        b"I" + b"9" * 5000 + b"\n.",
        b"X\x04\x00\x00\x00\xff\xff\xff\xff.",
    ],
)
def test_what_is_no_pickle_is_one_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=r"not a pickle of plain data: .*x\.p"):
        _load(tmp_path, data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x8d" + struct.pack("<Q", 2**62) + b"x.",  # a text of exabytes
        b"\x8e" + struct.pack("<Q", 2**40) + b"x.",  # bytes
        b"T" + struct.pack("<i", -1) + b"x.",
        b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",  # an integer of gigabytes
        b"\x96" + struct.pack("<Q", 2**40) + b".",  # a bytearray
    ],
)
def test_a_stated_size_is_not_believed(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=r"x\.p"):
        _load(tmp_path, data)


def test_a_huge_memo_number_costs_nothing(tmp_path: Path) -> None:
    assert _load(tmp_path, b"Nr\xff\xff\xff\xffp9999999999999\n.") is None


DOUBLED = b")" + b"2\x86" * 60
"""A tuple of 2**60 leaves, which would take for ever to hash."""
DEEP = b")" + b"\x85" * 200_000
"""A tuple nested so deeply that hashing it crashes the interpreter."""


@pytest.mark.parametrize("key", [DOUBLED, DEEP], ids=["doubled", "deep"])
@pytest.mark.parametrize("form", [b"}%bNs.", b"}(K\x01N%bNu.", b"(%bNd."], ids=["SETITEM", "SETITEMS", "DICT"])
def test_a_tuple_is_refused_as_a_key_and_never_hashed(tmp_path: Path, form: bytes, key: bytes) -> None:
    with pytest.raises(DataError, match="a tuple is the key of a dict"):
        _load(tmp_path, form % key)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.p").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match=r"too large for a pickle of annotations: .*x\.p"):
        load_plain_pickle(tmp_path / "x.p")


def test_deep_nesting_is_no_recursion(tmp_path: Path) -> None:
    loaded = _load(tmp_path, b"]" * 100_000 + b"a" * 99_999 + b".")
    depth = 1
    while loaded:
        (loaded,) = loaded
        depth += 1
    assert depth == 100_000


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read: .*x\.p"):
        load_plain_pickle(tmp_path / "x.p")


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_every_cut_is_one_error(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps(PLAIN, protocol)
    for end in range(len(data)):
        with pytest.raises(DataError, match=r"x\.p"):
            _load(tmp_path, data[:end])


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_random_damage_gives_plain_data_or_one_error(tmp_path: Path, protocol: int) -> None:
    rng = random.Random(protocol)
    data = pickle.dumps(PLAIN, protocol)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            _load(tmp_path, bytes(damaged))
            outcomes.add("loaded")
        except DataError as error:
            assert "x.p" in error.message
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}


def _load(folder: Path, data: bytes) -> Any:
    path = folder / "x.p"
    path.write_bytes(data)
    return load_plain_pickle(path)
