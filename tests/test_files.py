"""A file is whole or absent."""

import ctypes
import itertools
import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from cores_core.files import parse_json, read_json, replacing, replacing_all, save_text


def test_a_text_is_saved_as_utf8(tmp_path: Path) -> None:
    save_text("Fuß", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == b"Fu\xc3\x9f"
    assert _names(tmp_path) == ["a.txt"]


def test_nothing_lies_under_the_name_before_the_block_ends(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "a.txt").exists()
        assert temporary.parent == tmp_path  # one file system, so that renaming is one act
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path: Path, error: type[BaseException]) -> None:
    save_text("old", tmp_path / "a.txt")
    with pytest.raises(error), replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("half of the n")
        raise error
    assert (tmp_path / "a.txt").read_text() == "old"
    assert _names(tmp_path) == ["a.txt"]


def test_a_failure_keeps_the_old_folder_and_leaves_no_other(tmp_path: Path) -> None:
    _save_folder(tmp_path / "folder", "old")
    with pytest.raises(OSError), replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
        raise OSError
    assert _names(tmp_path) == ["folder"]
    assert _names(tmp_path / "folder") == ["old"]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    _save_folder(tmp_path / "folder", "old")
    _save_folder(tmp_path / "folder", "new")
    assert _names(tmp_path) == ["folder"]
    assert _names(tmp_path / "folder") == ["new"]


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "renames"])
def test_a_kill_at_any_removal_or_renaming_leaves_a_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    kills = 0
    while True:
        folder = tmp_path / str(kills) / "folder"
        _fill(folder, "old")
        child = get_context("fork").Process(target=_replace_and_die, args=(folder, kills))
        child.start()
        child.join()
        if not child.exitcode:
            break
        if exchanges or folder.exists():
            assert _names(folder) in (["old 1", "old 2"], ["new 1", "new 2"]), kills
        else:
            assert sorted(map(_names, folder.parent.iterdir())) == [["new 1", "new 2"], ["old 1", "old 2"]], kills
        kills += 1
    assert kills >= 3
    assert _names(folder.parent) == ["folder"]


def _replace_and_die(folder: Path, step: int) -> None:
    """Replace a folder, in a process that is killed before one of its calls that remove or rename something."""
    calls = itertools.count()

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            if next(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return run

    for name in ("unlink", "rmdir", "rename", "replace"):
        setattr(os, name, deadly(getattr(os, name)))
    with replacing(folder) as temporary:
        _fill(temporary, "new")


def _fill(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    for number in (1, 2):
        (folder / f"{name} {number}").touch()


def test_a_link_to_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(FileExistsError, match="symbolic link"):
        _save_folder(tmp_path / "link", "new")
    assert _names(tmp_path) == ["link", "target"]
    assert _names(tmp_path / "target") == []


def _save_folder(path: Path, content: str) -> None:
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / content).touch()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("blocked", ["a.png", "b.png", "c.json"])
@pytest.mark.parametrize("older", [(), ("a.png", "b.png", "c.json"), ("a.png",)])
def test_of_files_that_belong_together_all_or_none_are_replaced(
    tmp_path: Path, blocked: str, older: tuple[str, ...]
) -> None:
    for name in older:
        (tmp_path / name).write_text("old")
    (tmp_path / blocked).unlink(missing_ok=True)
    (tmp_path / blocked / "inside").mkdir(parents=True)  # a file cannot take the place of a folder
    before = _contents(tmp_path)
    with pytest.raises(OSError):
        _save_together(tmp_path)
    assert _contents(tmp_path) == before
    (tmp_path / blocked / "inside").rmdir()
    (tmp_path / blocked).rmdir()
    _save_together(tmp_path)
    assert _contents(tmp_path) == {"a.png": "new", "b.png": "new", "c.json": "new"}


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_failure_while_renaming_restores_the_older_files(tmp_path: Path, missing: int) -> None:
    for name in ("a.png", "b.png", "c.json"):
        (tmp_path / name).write_text("old")
    before = _contents(tmp_path)
    paths = [tmp_path / name for name in before]
    with pytest.raises(FileNotFoundError), replacing_all(paths) as temporaries:
        for number, temporary in enumerate(temporaries):
            if number != missing:
                temporary.write_text("new")
    assert _contents(tmp_path) == before


def _save_together(folder: Path) -> None:
    with replacing_all([folder / name for name in ("a.png", "b.png", "c.json")]) as temporaries:
        for temporary in temporaries:
            temporary.write_text("new")


def _contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() if path.is_file() else "folder" for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "digits"),
        (b"\xff{}", "utf-8"),
        (b"", "Expecting value"),
        (b"{", "Expecting"),
    ],
    ids=["nested", "digits", "not UTF-8", "empty", "truncated"],
)
def test_a_file_that_is_not_json_is_one_kind_of_error(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        read_json(tmp_path / "a.json")


def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "a.json") == [1]


def test_a_key_that_occurs_twice_is_refused_on_request() -> None:
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="`a` occurs twice"):
        parse_json('[{"b": {"a": 1, "a": 2}}]', unique=True)
