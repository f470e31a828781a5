"""One process at a time writes to a place; the second is refused by name, and a lock ends with its process."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cores_core.errors import CoresWarning, LockError
from cores_core.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from cores_core.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("beside", [False, True])
def test_the_second_is_refused_and_the_first_is_named(tmp_path: Path, beside: bool) -> None:
    with (
        locked(tmp_path / "out", beside),
        pytest.raises(LockError, match=rf"another process \({os.getpid()} on .*\) is writing to: .*out") as caught,
        locked(tmp_path / "out", beside),
    ):
        pytest.fail("two hold it")
    assert caught.value.hint
    with locked(tmp_path / "out", beside):
        pass
    assert not list(tmp_path.iterdir())


def test_two_places_are_locked_independently(tmp_path: Path) -> None:
    with locked(tmp_path / "a"), locked(tmp_path / "b"):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_folder_that_holds_something_stays(tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        (tmp_path / "out/file").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


def test_a_lock_ends_with_its_process_however_it_ends(tmp_path: Path) -> None:
    for _ in range(3):
        holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockError, match=str(holder.pid)), locked(tmp_path):
            pytest.fail("two hold it")
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
        with locked(tmp_path):
            pass


def test_a_file_system_without_locks_is_written_to_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(CoresWarning, match="cannot be locked"), locked(tmp_path / "out"):
        (tmp_path / "out/file").touch()
    assert (tmp_path / "out/file").exists()
