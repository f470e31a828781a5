"""What clusters do to a training: full disks, little shared memory, few open files, odd data. One error, or it runs."""

import json
import multiprocessing
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from disks import mounted
from helpers import noise_image
from PIL import Image
from runs import read_rows

from cores_cli.app import main
from cores_core.config import Config
from cores_core.model.checkpoint import load_checkpoint
from cores_core.settings import config_tree

Enter = Callable[[], object]
PATIENCE = 120


@pytest.fixture
def preset(tiny_config: Config, tmp_path: Path) -> Path:
    tree = config_tree(tiny_config)
    tree["train"] |= {"steps": 4, "save_every": 2, "validate_every": 4, "validation_images": 1, "workers": 1}
    path = tmp_path / "preset.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of some size in bytes."""
    with ExitStack() as stack:
        yield lambda size: stack.enter_context(mounted(tmp_path / f"disk-{size}", size)).folder


def enter(arguments: list[str], errors: Path, prepare: Enter | None) -> None:
    with errors.open("wb") as file:
        os.dup2(file.fileno(), 2)
        if prepare is not None:
            prepare()
        main(arguments)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., tuple[int | None, str]]:
    """Run `cores` in a process of its own; returns exit code and stderr."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cores_core.train.trainer"])

    def run(*arguments: object, prepare: Enter | None = None) -> tuple[int | None, str]:
        errors = tmp_path / "stderr"
        process = context.Process(target=enter, args=(list(map(str, arguments)), errors, prepare))
        process.start()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
        return process.exitcode, errors.read_text(encoding="utf-8")

    return run


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def test_256_open_files_are_enough(start, preset, partworld_root, tmp_path):
    common = ("train", "--preset", preset, "--data-root", partworld_root, "--output", tmp_path / "run")
    code, errors = start(*common, "--set", "train.workers=2", prepare=few_files)
    assert code == 0, errors


def fingerprints(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_disk_that_is_full_at_any_file_of_a_checkpoint_keeps_the_older_one(
    start, preset, partworld_root, small_disk, tmp_path
):
    common = ("train", "--preset", preset, "--data-root", partworld_root, "--device", "cpu", "--set", "train.workers=0")
    whole = tmp_path / "whole"
    code, errors = start(*common, "--output", whole)
    assert code == 0, errors
    first, _ = sorted((whole / "checkpoints").iterdir())
    used = sum(path.stat().st_size for path in first.rglob("*") if path.is_file())
    for share in (0.1, 0.5, 0.9):
        disk = small_disk(int(used * (1 + share)) + (64 << 10))
        code, errors = start(*common, "--output", disk / "run")
        assert code == 1, errors
        assert "Traceback" not in errors, errors
        assert "free some disk space" in errors, errors
        (kept,) = (disk / "run/checkpoints").iterdir()
        assert kept.name == first.name
        load_checkpoint(kept)


def save_rows(root: Path, count: int, mask: Any) -> None:
    """Users' own data: `count` rows about as many images."""
    folder = root / "custom/mine"
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        Image.fromarray(noise_image(20, 30, seed=number)).save(folder / f"{number}.png")
        rows.append(json.dumps({"image": f"{number}.png", "questions": ["What steers?"], "mask": mask}))
    for split in ("train", "val"):
        (folder / f"{split}.jsonl").write_text("\n".join(rows))


@pytest.mark.parametrize(
    ("count", "mask", "batch"),
    [(1, [[2, 2, 9, 2, 9, 9]], 4), (3, None, 2)],
    ids=["one image in batches of four", "all masks empty"],
)
def test_a_training_on_odd_data_runs_to_its_end(start, cli, preset, tmp_path, count, mask, batch):
    save_rows(tmp_path, count, mask)
    assert cli("prepare-data", "custom/mine", "--data-root", tmp_path).code == 0
    settings = ("data=[custom/mine]", f"train.global_batch_size={batch}", "train.workers=0")
    options = [part for setting in settings for part in ("--set", setting)]
    common = ("train", "--preset", preset, "--data-root", tmp_path, "--device", "cpu", *options)
    code, errors = start(*common, "--output", tmp_path / "run")
    assert code == 0, errors
    rows = read_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite([row["loss"], row["bce"], row["dice"]]).all() for row in rows)


def test_too_little_shared_memory_is_one_error(preset, partworld_root, tmp_path):
    common = ("train", "--preset", preset, "--data-root", partworld_root, "--output", tmp_path / "run")
    command = [sys.executable, "-m", "cores_cli.app", *map(str, common), "--device", "cpu"]
    mount = 'mount -t tmpfs -o size=128k tmpfs /dev/shm && exec "$@"'
    private = ["unshare", "--mount", "sh", "-c", mount, "sh", *command]
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("not allowed to mount a file system")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(private, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "shared memory" in done.stderr
    assert "train.workers" in done.stderr


TERMINALS = {
    "dumb": {"TERM": "dumb"},
    "no colour": {"NO_COLOR": "1"},
    "narrow": {"COLUMNS": "40"},
    "C": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "none": {},
}


@pytest.mark.parametrize("name", TERMINALS)
def test_text_is_plain_on_any_terminal(name):
    environment = {key: value for key, value in os.environ.items() if key != "TERM"} | TERMINALS[name]
    command = [sys.executable, "-m", "cores_cli.app", "prepare-data", "--list"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert b"\x1b[" not in done.stdout
    assert b"cores prepare-data" in done.stdout


def test_an_output_that_is_closed_ends_a_command_quietly(tmp_path):
    command = f"{sys.executable} -m cores_cli.app config show cores-7b --docs | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
