"""Worker processes of a job end with it: when its main process is killed, and when it is interrupted."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from interruptions import StopError, stop_after

from cores_core.files import replacing
from cores_core.journal import Journal, Row
from cores_core.pool import Worker, share_work
from cores_core.runtime import map_in_thread

ITEMS = range(2000)


def test_workers_end_when_the_main_process_is_killed(tmp_path: Path) -> None:
    with start_job(tmp_path, stop_at=len(ITEMS)) as process:  # the workers inherit the pipe
        deadline = time.monotonic() + 120
        while not Journal(tmp_path).count() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)  # until the last process that holds the pipe is gone
    assert 0 < Journal(tmp_path).count() < len(ITEMS)


def test_workers_of_an_interrupted_job_leave_no_temporary_files(tmp_path: Path) -> None:
    with start_job(tmp_path, stop_at=4) as process:
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert Journal(tmp_path).count() < len(ITEMS)
    written = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert len(written) >= 4
    assert not [name for name in written if name.startswith(".")]


def start_job(folder: Path, stop_at: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, str(folder), str(stop_at)], stdout=subprocess.PIPE)


def start(folder: Path, device: str) -> Worker[int]:
    return partial(write, folder)


def write(folder: Path, items: Sequence[int]) -> Iterator[list[Row]]:
    def write_one(item: int) -> list[Row]:
        with replacing(folder / str(item)) as temporary:
            temporary.touch()
            time.sleep(0.1)
        return [{"item": item}]

    return map_in_thread(write_one, items, 1)


if __name__ == "__main__":
    output = Path(sys.argv[1])
    journal = Journal(output)
    journal.begin({})
    with suppress(StopError):
        share_work(partial(start, output), ITEMS, ["cpu", "cpu"], journal, stop_after(int(sys.argv[2])))
