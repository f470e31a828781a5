"""A split is read in pieces: its bytes do not depend on their number, and an interrupted call is resumed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from helpers import noise_image
from PIL import Image

from cores_core.data import prepare
from cores_core.data.pieces import Job, Tally, read_in_pieces
from cores_core.data.prepare import load_reports, prepare_dataset, prepare_split
from cores_core.data.registry import LABEL_MAP_PIECES, find_dataset
from cores_core.data.sources.reading import WHOLE, Rejections, Share
from cores_core.data.store import ROWS_PER_BATCH, Store, save_store, store_path
from cores_core.errors import DataError

SCRIPT = """
import resource
import sys
from pathlib import Path

from cores_core.data.prepare import prepare_split

if __name__ == "__main__":
    if len(sys.argv) > 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
    prepare_split("ade20k", "train", Path(sys.argv[1]), int(sys.argv[2]), lambda done: None)
"""
LABELS, IMAGES = "ade20k/annotations/training", "ade20k/images/training"
COUNT = 194
NO_IMAGE, NO_PNG = "007", "150"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with label maps, of which one has no image and one cannot be read. Do not change it."""
    root = tmp_path_factory.mktemp("scenes")
    (root / LABELS).mkdir(parents=True)
    (root / IMAGES).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        label = np.kron(rng.integers(0, 12, (15, 20), dtype=np.uint8), np.ones((20, 20), dtype=np.uint8))
        Image.fromarray(label).save(root / LABELS / f"{number:03}.png")
        Image.new("RGB", (400, 300)).save(root / IMAGES / f"{number:03}.jpg")
    (root / IMAGES / f"{NO_IMAGE}.jpg").unlink()
    (root / LABELS / f"{NO_PNG}.png").write_bytes(b"no PNG")
    return root


@pytest.fixture
def root(scenes: Path, tmp_path: Path) -> Path:
    """The same scenes, to take away from; the files themselves are shared."""
    return Path(shutil.copytree(scenes, tmp_path / "data", copy_function=os.link))


@pytest.fixture(scope="module")
def undisturbed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The store of the scenes as one reading writes it."""
    return read_whole(scenes, "ade20k", tmp_path_factory.mktemp("whole") / "train.arrow")[0]


def read_whole(root: Path, name: str, path: Path) -> tuple[bytes, Tally]:
    spec, rejected = find_dataset(name, root), Rejections()
    records = list(spec.read(root, spec.disk_name("train"), rejected, WHOLE))
    save_store(records, path)
    regions = sum(len(record.regions) for record in records)
    return path.read_bytes(), Tally(len(records), regions, tuple(sorted(rejected.items)), ())


@pytest.mark.parametrize("length", [0, 1, 2, 5, 6, 7, 100])
def test_shares_in_order_are_the_whole_and_of_even_size(length: int) -> None:
    entries = list(range(length))
    for count in (1, 2, 3, 7):
        shares = [Share(index, count).of(entries) for index in range(count)]
        assert [entry for share in shares for entry in share] == entries
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_store_does_not_depend_on_the_workers(root: Path, undisturbed: bytes, workers: int) -> None:
    told: list[int] = []
    report = prepare_split("ade20k", "train", root, workers, told.append)
    assert store_path(root, "ade20k", "train").read_bytes() == undisturbed
    assert report.images == sum(told) == len(Store(root, "ade20k", "train")) == COUNT - 2
    assert sorted(report.left_out) == [
        (f"{LABELS}/{NO_PNG}.png", "label cannot be read"),
        (f"{IMAGES}/{NO_IMAGE}.jpg", "image is missing"),
    ]
    assert [path.name for path in (root / "prepared/ade20k").iterdir()] == ["train.arrow"]


@pytest.mark.parametrize("count", [1, 3, 7])
def test_neither_on_the_number_of_pieces(tmp_path: Path, count: int) -> None:
    write_own(tmp_path, 2 * ROWS_PER_BATCH + 77)
    expected, tally = read_whole(tmp_path, "custom/mine", tmp_path / "whole.arrow")
    found = read_in_pieces(Job("custom/mine", "train", tmp_path, "key", count), 1, lambda done: None)
    assert store_path(tmp_path, "custom/mine", "train").read_bytes() == expected
    assert (found.images, found.regions, tuple(sorted(found.left_out))) == (tally.images, tally.regions, tally.left_out)
    assert tally.images > 2 * ROWS_PER_BATCH
    assert len(tally.left_out) > 10


def test_a_set_without_a_number_of_pieces_has_one_for_each_worker(tmp_path: Path) -> None:
    write_own(tmp_path, 40)
    expected, _ = read_whole(tmp_path, "custom/mine", tmp_path / "whole.arrow")
    outcomes = prepare_dataset("custom/mine", tmp_path, 2, lambda split, done: None)
    assert store_path(tmp_path, "custom/mine", "train").read_bytes() == expected
    assert outcomes == load_reports("custom/mine", tmp_path)


@pytest.mark.parametrize(("large", "expected"), [(100, 0), (10**6, 2)])
def test_a_large_file_is_parsed_by_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int, expected: int
) -> None:
    write_own(tmp_path, 40)
    monkeypatch.setattr(prepare, "LARGE_FILE", large)
    children: list[int] = []
    prepare_split("custom/mine", "train", tmp_path, 2, lambda done: children.append(len(active_children())))
    assert max(children) == expected


def test_nothing_to_read_gives_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / "custom/mine").mkdir(parents=True)
    (tmp_path / "custom/mine/train.jsonl").write_text("")
    assert read_in_pieces(Job("custom/mine", "train", tmp_path, "key", 3), 1, lambda done: None) == Tally(0, 0, (), ())
    assert len(Store(tmp_path, "custom/mine", "train")) == 0


def test_killed_at_any_moment_it_goes_on_with_the_pieces_it_has(root: Path, undisturbed: bytes) -> None:
    rng = random.Random(0)
    goal, finished = store_path(root, "ade20k", "train"), set()
    for workers, more, kill in ((2, rng.randint(1, 6), os.killpg), (1, rng.randint(1, 6), os.killpg), (2, 3, os.kill)):
        process = start(root, workers)
        wait_for_pieces(root, len(finished) + more, process)
        time.sleep(rng.random() * 0.03)
        kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)  # until the last process that it started is gone
        assert not goal.exists()
        finished = whole_pieces(root)
        assert len(finished) < LABEL_MAP_PIECES
        for index in finished:
            remove_images(root, index)  # nobody looks at them again
    told: list[int] = []
    report = prepare_split("ade20k", "train", root, 1, told.append)
    assert goal.read_bytes() == undisturbed
    kept = sum(len({*names_of(root, index)} - {NO_IMAGE, NO_PNG}) for index in finished)
    assert told[0] == kept > 0
    assert report.images == sum(told)
    assert len(report.left_out) == 2
    assert [path.name for path in goal.parent.iterdir()] == ["train.arrow"]


def test_an_interrupt_stops_the_workers_and_keeps_what_is_finished(root: Path, undisturbed: bytes) -> None:
    def interrupt(done: int) -> None:
        if whole_pieces(root):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_split("ade20k", "train", root, 2, interrupt)
    assert active_children() == []
    finished = whole_pieces(root)
    assert 0 < len(finished) < LABEL_MAP_PIECES
    assert {path.suffix for path in pieces_folder(root).iterdir()} == {".arrow", ".json"}
    told: list[int] = []
    prepare_split("ade20k", "train", root, 2, told.append)
    assert store_path(root, "ade20k", "train").read_bytes() == undisturbed
    assert told[0] > 0


def test_an_interrupt_does_not_wait_for_the_pieces_that_are_being_read(root: Path) -> None:
    def interrupt(done: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_in_pieces(Job("ade20k", "train", root, "key", count=2), 2, interrupt)
    assert not pieces_folder(root).exists()


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_ctrl_c_in_a_terminal_reaches_all_and_only_the_parent_tells(root: Path, seconds: float) -> None:
    process = start(root, 2)
    while not pieces_folder(root).exists():
        assert process.poll() is None
        time.sleep(0.001)
    time.sleep(seconds)  # workers begin, import, read
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert errors.count("\nKeyboardInterrupt\n") == 1
    assert not store_path(root, "ade20k", "train").exists()


def test_a_worker_that_dies_is_one_error_and_the_call_can_be_repeated(root: Path, undisturbed: bytes) -> None:
    def kill_a_worker(done: int) -> None:
        if whole_pieces(root):
            os.kill(active_children()[0].pid or 0, signal.SIGKILL)

    with pytest.raises(DataError, match="died while reading ade20k train") as caught:
        prepare_split("ade20k", "train", root, 2, kill_a_worker)
    assert "run the command again" in (caught.value.hint or "")
    assert active_children() == []
    assert whole_pieces(root)
    prepare_split("ade20k", "train", root, 1, lambda done: None)
    assert store_path(root, "ade20k", "train").read_bytes() == undisturbed


@pytest.mark.parametrize(("suffix", "is_cut"), [(".arrow", True), (".arrow", False), (".json", True)])
def test_a_piece_that_is_damaged_is_read_anew(root: Path, undisturbed: bytes, suffix: str, is_cut: bool) -> None:
    interrupt_after(root, pieces=4)
    first, *others = sorted(whole_pieces(root))
    assert len(others) >= 2
    for index in others:
        remove_images(root, index)
    path = next(pieces_folder(root).glob(f"*-{first}-of-*{suffix}"))
    content, middle = path.read_bytes(), path.stat().st_size // 2
    path.write_bytes(content[:middle] if is_cut else content[:middle] + b"\0\1\2" + content[middle + 3 :])
    prepare_split("ade20k", "train", root, 1, lambda done: None)
    assert store_path(root, "ade20k", "train").read_bytes() == undisturbed


def test_pieces_of_other_annotations_or_another_number_are_removed(root: Path) -> None:
    interrupt_after(root, pieces=3)
    (root / LABELS / "000.png").unlink()
    told: list[int] = []
    report = prepare_split("ade20k", "train", root, 1, told.append)
    assert told[0] == 0
    assert report.images == sum(told) == COUNT - 3
    assert (f"{LABELS}/000.png", "label is missing") in report.left_out
    shutil.rmtree(root / "prepared")
    interrupt_after(root, pieces=3)
    key = next(pieces_folder(root).iterdir()).name.partition("-")[0]
    told.clear()
    read_in_pieces(Job("ade20k", "train", root, key, count=5), 1, told.append)
    assert told[0] == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_annotation_file_is_one_error_and_leaves_nothing(tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "PartImageNet"
    (folder / "val").mkdir(parents=True)
    (folder / "val.json").write_text('{"images": [')
    outcomes = prepare_dataset("partimagenet", tmp_path, workers, lambda split, done: None)
    assert isinstance(outcomes["val"], DataError)
    assert "not valid JSON" in outcomes["val"].message
    assert not (tmp_path / "prepared").exists()
    assert active_children() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_error(root: Path, workers: int) -> None:
    """A limit for the size of files stands in for it: whoever writes gets the same kind of error."""
    _, errors = start(root, workers, 8192).communicate(timeout=20)
    assert "cores_core.errors.DataError: cannot prepare ade20k train: [Errno" in errors.splitlines()[-1]
    assert not store_path(root, "ade20k", "train").exists()
    assert not pieces_folder(root).exists()


def start(root: Path, *arguments: object) -> "subprocess.Popen[str]":
    """Prepare the scenes in a process, and a process group, of its own."""
    script = root / "prepare.py"
    script.write_text(SCRIPT)
    command = [sys.executable, script, root, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, start_new_session=True, preexec_fn=heed_interrupts
    )


def heed_interrupts() -> None:
    """A job in the background of a shell ignores Ctrl-C, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_pieces(root: Path, count: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 20
    while len(whole_pieces(root)) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)


def interrupt_after(root: Path, pieces: int) -> None:
    def interrupt(done: int) -> None:
        if len(whole_pieces(root)) >= pieces:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_split("ade20k", "train", root, 1, interrupt)


def pieces_folder(root: Path) -> Path:
    return root / "prepared/ade20k/.train.pieces"


def whole_pieces(root: Path) -> set[int]:
    """The indices of the pieces that are there."""
    return {int(path.name.split("-")[1]) for path in pieces_folder(root).glob("[!.]*.json")}


def names_of(root: Path, index: int) -> list[str]:
    names = sorted(path.stem for path in (root / LABELS).iterdir())
    return list(Share(index, LABEL_MAP_PIECES).of(names))


def remove_images(root: Path, index: int) -> None:
    for name in names_of(root, index):
        (root / IMAGES / f"{name}.jpg").unlink(missing_ok=True)


def write_own(root: Path, count: int) -> None:
    """Custom data: images with two lines each, some lines invalid, some with ignored pixels."""
    folder = root / "custom/mine"
    folder.mkdir(parents=True)
    values = np.ones((3, 4), dtype=np.uint8)
    values[0] = 255
    Image.fromarray(values).save(folder / "mask.png")
    Image.fromarray(noise_image(3, 4)).save(folder / "0.png")
    lines = []
    for number in range(count):
        if number:
            os.link(folder / "0.png", folder / f"{number}.png")
        mask = "mask.png" if number % 300 > 250 else [[0, 0, 3, 0, 3, 2]]
        row = {"image": f"{number}.png", "questions": ["What?"] * (number % 40 != 7), "mask": mask}
        lines += [json.dumps(row), "{" if number % 50 == 9 else json.dumps(row | {"phrases": ["a thing"]})]
    (folder / "train.jsonl").write_text("\n".join(lines))
