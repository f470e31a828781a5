"""Whenever saving a checkpoint fails or is killed, an older one is whole, and no unfinished one is taken for one."""

import hashlib
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from disks import Disk, mounted

from cores_core.errors import CheckpointError
from cores_core.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from cores_core.train.start import newest_checkpoint

KILLS = 50
PATIENCE = 60
MEGABYTE = 1 << 20


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """A checkpoint as of a training: with an optimizer and tensors of its losses."""
    moments = {"moments": torch.ones(2000), "step": checkpoint.about["step"]}
    save_checkpoint(folder, checkpoint, optimizer=moments, objective={"prototypes": torch.ones(2000)})


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def versions(checkpoint: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    """Two checkpoints of the same sizes that differ in their weights."""
    other = deepcopy(checkpoint.model)
    for weight in other.parameters():
        weight.data += 1
    return replace(checkpoint, about={"step": 1}), replace(checkpoint, model=other, about={"step": 2})


def save_for_ever(folder: Path, versions: tuple[Checkpoint, Checkpoint], number: int, saved: Connection) -> None:
    while True:
        save(folder, versions[number % 2])
        saved.send(number)
        number += 1


def test_a_save_that_is_killed_50_times_leaves_one_of_its_versions(
    versions: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    """Every other process is killed in its first save or soon after, and the others in their second one."""
    output, generator, duration = tmp_path / "run", random.Random(0), 0.05
    folder, context = output / "checkpoints/step-000001", get_context("fork")
    whole = []
    for version in reversed(versions):
        save(folder, version)
        whole.insert(0, digests(folder))
    unfinished, found = 0, []
    for number in range(KILLS):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=save_for_ever, args=(folder, versions, number // 2, sender))
        began = time.monotonic()
        child.start()
        if number % 2:
            assert receiver.poll(PATIENCE)
            duration = time.monotonic() - began
        time.sleep(generator.uniform(0, duration))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        found.append(whole.index(digests(folder)))
        assert newest_checkpoint(output) == folder
        beside = [path for path in folder.parent.iterdir() if path != folder]
        unfinished += len(beside)
        for path in beside:
            shutil.rmtree(path)
    assert unfinished > KILLS / 5
    assert set(found) == {0, 1}
    assert load_checkpoint(folder).about["step"] == found[-1] + 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", 100 * MEGABYTE) as made:
        yield made


def test_a_disk_that_is_full_at_any_file_keeps_the_older_checkpoint(
    versions: tuple[Checkpoint, Checkpoint], disk: Disk
) -> None:
    output = disk.folder / "run"
    older, newer = (output / f"checkpoints/step-{number:06}" for number in (1, 2))
    save(newer, versions[1])
    files = sorted((path for path in newer.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
    pages = [-(-path.stat().st_size // os.sysconf("SC_PAGE_SIZE")) for path in files]
    assert files[-1].name == "checkpoint.json"
    newer.rename(older)
    before = digests(older)
    for number, path in enumerate(files):
        room = sum(pages) + sum(pages[: number + 1]) - 1
        disk.resize(room * os.sysconf("SC_PAGE_SIZE"))
        with pytest.raises(CheckpointError, match=f"cannot write: {newer}") as caught:
            save(newer, versions[0])
        assert "free some disk space" in str(caught.value.hint), path
        assert digests(older) == before
        assert list(older.parent.iterdir()) == [older]
        assert newest_checkpoint(output) == older
    assert load_checkpoint(older).about["step"] == 2
    disk.resize((2 * sum(pages)) * os.sysconf("SC_PAGE_SIZE"))
    save(newer, versions[0])
    assert newest_checkpoint(output) == newer
