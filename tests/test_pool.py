"""Worker processes of a job do not outlive its main process."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from cores_core.journal import Journal, Row
from cores_core.pool import Worker, share_work

ITEMS = range(2000)


def test_workers_end_when_the_main_process_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # the workers inherit the pipe
        deadline = time.monotonic() + 120
        while not Journal(tmp_path).count() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)  # until the last process that holds the pipe is gone
    assert 0 < Journal(tmp_path).count() < len(ITEMS)


def start(device: str) -> Worker[int]:
    return partial(work, device)


def work(device: str, items: Sequence[int]) -> Iterator[list[Row]]:
    for item in items:
        time.sleep(0.05)
        yield [{"device": device, "item": item}]


if __name__ == "__main__":
    journal = Journal(Path(sys.argv[1]))
    journal.begin({})
    share_work(start, ITEMS, ["cpu", "cpu"], journal, lambda rows: None)
