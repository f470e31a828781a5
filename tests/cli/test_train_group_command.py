"""`cores train` in two processes on DeepSpeed: killed in every way, resumed, and still the same run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from runs import read_rows

from cores_core.config import Config
from cores_core.settings import config_tree

INTERRUPTIONS = int(os.environ.get("CORES_TEST_INTERRUPTIONS", "3"))
"""Each takes ten seconds; more of them for those who have the time."""
STEPS, EXIT_DIED = 40, 3


@pytest.fixture
def arguments(tiny_config: Config, partworld_root: Path, tmp_path: Path) -> list[str]:
    """What all runs of the small test model share."""
    tree = config_tree(tiny_config)
    tree["train"] |= {
        "steps": STEPS,
        "save_every": 2,
        "validate_every": 25,
        "validation_images": 2,
        "micro_batch_size": 1,
    }
    tree["engine"] = {"kind": "deepspeed", "stage": 2}
    path = tmp_path / "preset.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return ["--preset", str(path), "--data-root", str(partworld_root), "--gpus", "0"]


def test_a_group_killed_again_and_again_is_the_run_that_was_never_touched(arguments: list[str], tmp_path: Path) -> None:
    calm, rough, rng = tmp_path / "calm", tmp_path / "rough", random.Random(0)
    assert start(calm, arguments).wait(300) == 0
    for number in range(INTERRUPTIONS):
        process = start(rough, arguments)
        begun = len(read_rows(rough)) if (rough / "metrics.jsonl").is_file() else 0
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline and steps_of(rough) <= begun:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1.0))  # now it trains, or saves
        code = kill(process, ("rank", "launcher", "everything")[number % 3])
        assert code in (0, 1, EXIT_DIED, -signal.SIGKILL)
    assert start(rough, arguments).wait(300) == 0
    assert [row["loss"] for row in read_rows(rough)] == [row["loss"] for row in read_rows(calm)]
    assert [row["step"] for row in read_rows(rough)] == list(range(1, STEPS + 1))
    assert not list(rough.glob("checkpoints/.*"))


def test_a_rank_that_is_killed_ends_the_run_and_is_named(arguments: list[str], tmp_path: Path) -> None:
    process = start(tmp_path / "run", arguments, stderr=subprocess.PIPE)
    while not (tmp_path / "run/metrics.jsonl").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    killed = time.monotonic()
    os.kill(follower_of(process), signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode in (1, EXIT_DIED)
    assert time.monotonic() - killed < 60
    assert "rank 1, by SIGKILL" in told.decode()
    assert "Traceback" not in told.decode()


def test_processes_that_a_launcher_started_join_their_group(arguments: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "cores_cli.app", "train", *arguments, "--set", "train.steps=2", "--output", str(run)]
    done = subprocess.run(command, capture_output=True, timeout=240, env=environment(), check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert [row["step"] for row in read_rows(run)] == [1, 2]
    assert (run / "checkpoints/step-000002/checkpoint.json").is_file()


def test_all_machines_train_the_preset_that_the_first_chose(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("first slots=8\nsecond slots=8\n")
    launcher = tmp_path / "bin/deepspeed"
    launcher.parent.mkdir()
    launcher.write_text('#!/bin/sh\necho "$@"\n')
    launcher.chmod(0o755)
    command = [sys.executable, "-m", "cores_cli.app", "train", "--hostfile", str(tmp_path / "hosts"), "--nodes=2"]
    path = f"{launcher.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*command, "--zero", "3"], capture_output=True, text=True, env=environment() | {"PATH": path}, check=True
    )
    machines = f"--hostfile {tmp_path / 'hosts'} --num_nodes 2 --num_gpus 1"
    assert done.stdout == f"{machines} --module cores_cli.app train --zero 3 --preset cores-7b\n"


def start(run: Path, arguments: list[str], stderr: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cores_cli.app", "train", *arguments, "--processes", "2", "--output", str(run)]
    command += ["--resume"] if (run / "config.yaml").is_file() else []
    return subprocess.Popen(command, start_new_session=True, stderr=stderr, env=environment())


def kill(process: subprocess.Popen[bytes], what: str) -> int:
    """Kill the second rank, the first, which launches, or all; no process may outlive it for long."""
    if process.poll() is None:
        if what == "everything":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(process.pid if what == "launcher" else follower_of(process), signal.SIGKILL)
    code = process.wait(60)
    deadline = time.monotonic() + 30
    while is_alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(process.pid)
    return code


def follower_of(process: subprocess.Popen[bytes]) -> int:
    """The process id of rank 1: what the launcher spawned, besides the tracker of its resources."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in (entry.parent / "cmdline").read_bytes():
                return int(entry.parent.name)
        except OSError:
            continue
    raise AssertionError("there is no rank 1")


def is_alive(session: int) -> bool:
    """Whether any process of a session is left."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, found = entry.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(found) == session and state != "Z":
            return True
    return False


def steps_of(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}
