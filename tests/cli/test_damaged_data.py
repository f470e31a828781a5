"""`cores prepare-data` on damaged data, through the real entry: damage by name, the rest prepared, nothing half."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers import noise_image
from PIL import Image

from cores_core.data.store import Store

BOX = [[1.0, 1.0, 20.0, 1.0, 20.0, 15.0, 1.0, 15.0]]
WHOLE = 6
"""Images; the last is never damaged."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """PartImageNet's val split, format-faithful, with six images of a part each."""
    folder = tmp_path / "PartImageNet"
    for number in range(WHOLE):
        path = folder / f"val/n01/n01_{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise_image(20, 30, seed=number)).save(path)
    save(tmp_path, tree())
    return tmp_path


def tree() -> dict[str, Any]:
    names = ["Fish Tail", "Fish Head"]
    return {
        "categories": [{"id": number, "name": name, "supercategory": "Fish"} for number, name in enumerate(names)],
        "images": [
            {"id": number, "file_name": f"n01_{number}.JPEG", "height": 20, "width": 30} for number in range(WHOLE)
        ],
        "annotations": [
            {"id": number, "image_id": number, "category_id": number % 2, "segmentation": BOX, "iscrowd": 0}
            for number in range(WHOLE)
        ],
    }


def save(root: Path, found: dict[str, Any]) -> None:
    (root / "PartImageNet/val.json").write_text(json.dumps(found))


def with_annotation(root: Path, **changes: Any) -> None:
    found = tree()
    found["annotations"][0] |= changes
    save(root, found)


def truncate(root: Path) -> None:
    path = root / "PartImageNet/val/n01/n01_0.JPEG"
    path.write_bytes(path.read_bytes()[:80])


def repeat_ids(root: Path) -> None:
    found = tree()
    found["annotations"][1]["id"] = 0
    save(root, found)


def test_whole_data_is_prepared(cli, root):
    assert cli("prepare-data", "partimagenet", "--data-root", root).code == 0
    assert len(Store(root, "partimagenet", "val")) == WHOLE


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "image cannot be read"),
        (lambda root: (root / "PartImageNet/val/n01/n01_0.JPEG").unlink(), "image is missing"),
        (lambda root: with_annotation(root, segmentation=[[1.0, 1.0, 20.0, 1.0]]), "points"),
        (
            lambda root: with_annotation(root, segmentation={"size": [9, 9], "counts": [81]}),
            "mask of another size than its image",
        ),
        (lambda root: with_annotation(root, category_id=77), "unknown category id"),
        (lambda root: with_annotation(root, image_id=77), "unknown image id"),
        (repeat_ids, "duplicate id"),
    ],
    ids=["truncated JPEG", "missing image", "two points", "RLE of another size", "category", "image id", "duplicate"],
)
def test_one_damage_is_named_and_the_rest_is_prepared(cli, root, damage, reason):
    damage(root)
    outcome = cli("prepare-data", "partimagenet", "--data-root", root)
    assert outcome.code == 0
    assert reason in outcome.stderr
    assert len(Store(root, "partimagenet", "val")) == WHOLE - 1
    report = json.loads((root / "prepared/partimagenet/report.json").read_text())
    assert any(reason in found for _, found in report["splits"]["val"]["left_out"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(tree())[:400], "not valid JSON"),
        ("[]", "not a COCO-style annotation file"),
        (json.dumps(tree() | {"categories": []}), "no category"),
    ],
    ids=["cut in half", "another form", "no category"],
)
def test_a_file_that_cannot_be_read_is_one_error(cli, root, text, message):
    (root / "PartImageNet/val.json").write_text(text)
    outcome = cli("prepare-data", "partimagenet", "--data-root", root)
    assert outcome.code == 1
    assert message in outcome.stderr
    assert "val.json" in outcome.stderr
    assert not (root / "prepared/partimagenet/val.arrow").exists()


def test_an_empty_split_is_prepared_and_said_to_be_empty(cli, root):
    save(root, tree() | {"images": [], "annotations": []})
    outcome = cli("prepare-data", "partimagenet", "--data-root", root)
    assert "0" in outcome.stdout
    assert len(Store(root, "partimagenet", "val")) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_one_error(cli, root):
    (root / "PartImageNet/val.json").chmod(0)
    outcome = cli("prepare-data", "partimagenet", "--data-root", root)
    assert outcome.code == 1
    assert "cannot read" in outcome.stderr


def test_a_store_of_another_version_is_named_with_what_mends_it(cli, root, model_folder):
    cli("prepare-data", "partimagenet", "--data-root", root)
    path = root / "prepared/partimagenet/val.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("image", pa.string())])):
        pass
    outcome = cli("eval", "parts", "--data-root", root, "--model", model_folder)
    assert outcome.code == 1
    assert "another version" in outcome.stderr
    assert "cores prepare-data partimagenet" in outcome.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_error_and_leaves_nothing_half_written(root, workers):
    command = [sys.executable, "-m", "cores_cli.app", "prepare-data", "partimagenet", "--workers", str(workers)]
    done = subprocess.run(
        [*command, "--data-root", str(root)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "partimagenet val" in done.stderr
    assert not (root / "prepared/partimagenet/val.arrow").exists()
