"""`cores predict --engine ray` through the real entry: interrupted, no process left, continued by local processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest
from helpers import noise_image
from PIL import Image

pytest.importorskip("ray", reason="Ray is not installed: pip install 'cores[ray]'")
IMAGES = 300
PATIENCE = 180
"""Seconds after which a process that should have ended fails the test."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(IMAGES):
        Image.fromarray(noise_image(16, 20 + number % 7, seed=number)).save(tmp_path / "images" / f"{number}.png")
    return tmp_path / "images"


def wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes_with(mark: str) -> list[str]:
    """Command lines of living processes whose environment has this value."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has ended, or is another user's
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_an_interrupted_job_keeps_its_rows_leaves_no_process_and_continues_locally(cli, folder, model_folder, tmp_path):
    mark, out = uuid4().hex, tmp_path / "out"
    arguments = [folder, "What is it?", "--model", model_folder, "--format", "jsonl", "--protocol", "teacher_forced"]
    command = [sys.executable, "-m", "cores_cli.app", "predict", *arguments, "-o", out, "--engine", "ray"]
    process = subprocess.Popen(
        [*map(str, command), "--processes", "2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "CORES_TEST_MARK": mark},
    )
    wait_for(lambda: process.poll() is not None or any(path.stat().st_size for path in out.glob("unfinished/*.jsonl")))
    assert any("raylet" in line for line in processes_with(mark))
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to all processes of the terminal
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "Traceback" in errors) == (130, False), errors
    wait_for(lambda: not processes_with(mark))
    done = sum(path.read_text().count("\n") for path in out.glob("unfinished/*.jsonl"))
    assert 0 < done < IMAGES
    assert cli("predict", *arguments, "-o", out, "--resume").code == 0
    assert cli("predict", *arguments, "-o", tmp_path / "alike").code == 0
    assert rows(out) == rows(tmp_path / "alike")


def rows(folder: Path) -> list[dict]:
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]
