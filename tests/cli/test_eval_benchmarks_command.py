"""MUSE from its own layout: prepared, asked, scored with instances; predictions of other systems in their layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import noise_image
from PIL import Image
from pycocotools import mask as coco

SQUARES = [[1, 1, 11, 1, 11, 11, 1, 11], [20, 2, 38, 2, 38, 19, 20, 19]]
SIZE_HW = (30, 40)


@pytest.fixture
def muse(tmp_path: Path) -> Path:
    """A data root with two questions of MUSE about an image."""
    answers = [[{"segmentation": [square]} for square in SQUARES], [{"segmentation": [SQUARES[0]]}]]
    entry = {"file_name": "a.jpg", "questions": ["Which are squares?", "Which is on the left?"], "answers": answers}
    (tmp_path / "muse_val.json").write_text(json.dumps([entry]))
    (tmp_path / "coco/train2014").mkdir(parents=True)
    Image.fromarray(noise_image(*SIZE_HW)).save(tmp_path / "coco/train2014/a.jpg")
    return tmp_path


def test_muse_is_previewed_asked_and_scored_with_instances(cli, muse, model_folder):
    assert cli("prepare-data", "muse", "--data-root", muse, "--preview", 1).code == 0
    assert (muse / "prepared/muse/val.preview.png").is_file()
    options = ("--data-root", muse, "--model", model_folder, "--protocol", "teacher_forced", "--output", muse / "out")
    outcome = cli("eval", "muse", *options, "--instances")
    assert outcome.code == 0
    assert "AP50:95" in outcome.stdout
    results = json.loads((muse / "out/results.json").read_text())
    rows = [json.loads(line) for line in (muse / "out/items.jsonl").read_text().splitlines()]
    masks = [(coco.decode(row["mask"]), coco.decode(row["target"])) for row in rows]
    both, either = [(a & b).sum() for a, b in masks], [(a | b).sum() for a, b in masks]
    assert results["giou"] == pytest.approx(np.mean(np.divide(both, either)))
    assert results["ciou"] == pytest.approx(sum(both) / sum(either))
    assert [len(row["target_instances"]) for row in rows] == [2, 1]
    for row, (mask, _) in zip(rows, masks, strict=True):
        found = [coco.decode(instance["mask"]) for instance in row["instances"]]
        assert np.array_equal(np.sum([np.zeros(SIZE_HW, int), *found], axis=0), mask)
    again = cli("eval", "muse", *options[:-1], muse / "without")
    assert again.code == 0
    assert "AP50" not in again.stdout


def test_results_of_sa2va_are_scored(cli, muse):
    assert cli("prepare-data", "muse", "--data-root", muse).code == 0
    masks = [[coco.decode(rle).tolist()] for rle in coco.frPyObjects(SQUARES, *SIZE_HW)]
    (muse / "results.json").write_text(json.dumps([{"image_path": "x/a.jpg", "prediction_masks": [masks, masks[:1]]}]))
    options = ("--benchmark", "muse", "--layout", "sa2va", "--data-root", muse, "--output", muse / "out")
    outcome = cli("eval", "score", muse / "results.json", *options)
    assert outcome.code == 0
    results = json.loads((muse / "out/results.json").read_text())
    assert (results["giou"], results["ciou"], results["ap"]) == (1.0, 1.0, 1.0)


def test_another_layout_than_stated_is_one_error(cli, muse):
    assert cli("prepare-data", "muse", "--data-root", muse).code == 0
    outcome = cli("eval", "score", muse, "--benchmark", "muse", "--layout", "lisa", "--data-root", muse)
    assert outcome.code == 1
    assert "no mask of LISA" in outcome.stderr
