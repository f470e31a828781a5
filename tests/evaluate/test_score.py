"""Scoring as a library, against numpy, in a process without torch; and outputs of other systems."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cores_core.errors import DataError
from cores_core.evaluate.adapters import convert_lisa, convert_sa2va, score_counts
from cores_core.evaluate.foreign import score_predictions
from cores_core.evaluate.score import score_masks
from cores_core.evaluate.scores import score_items
from cores_core.evaluate.targets import Target
from cores_core.masks import encode_rle
from cores_core.sample import BoolMask

RNG = np.random.default_rng(0)
TRUTH = [RNG.random((30, 40)) < share for share in (0.1, 0.4, 0.7)]
FOUND = [truth ^ (RNG.random((30, 40)) < 0.1) for truth in TRUTH]


def test_scores_are_those_of_numpy() -> None:
    empty = np.zeros((5, 6), dtype=bool)
    scores = score_masks([*FOUND, empty], [*TRUTH, empty])
    both, either = ([f(a, b).sum() for a, b in zip(FOUND, TRUTH, strict=True)] for f in (np.logical_and, np.logical_or))
    assert scores.values["giou"] == pytest.approx(np.mean([*np.divide(both, either), 1.0]))
    assert scores.values["ciou"] == pytest.approx(sum(both) / sum(either))
    assert scores.intervals["giou"] is not None
    assert scores.count == 4


def test_ignored_pixels_are_excluded_and_numbers_are_masks() -> None:
    ignored = [FOUND[0] != TRUTH[0]]
    assert score_masks([FOUND[0].astype(int) * 255], [TRUTH[0]], ignored, draws=0).values["giou"] == 1.0


@pytest.mark.parametrize(
    ("predicted", "message"), [([], "lists of different lengths: 0, 1"), ([TRUTH[0].T], r"of size \(40, 30\)")]
)
def test_wrong_arguments_are_one_error(predicted: list[BoolMask], message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_masks(predicted, TRUTH[:1])


def test_scoring_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, cores_core.evaluate.score, cores_core.evaluate.adapters; print(sorted(sys.modules))"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'cores_core.evaluate.score'" in names
    assert not [name for name in ("torch", "transformers", "segment_anything", "deepspeed") if f"'{name}'" in names]


def target(number: int, image: str) -> Target:
    return Target(f"reasonseg/val/{number}.0.0", image, "", "Which?", True, encode_rle(TRUTH[number]), None)


TARGETS = [target(0, "reason_seg/ReasonSeg/val/1.2_a.jpg"), target(1, "reason_seg/ReasonSeg/val/b.jpg")]


def score(rows: list[dict[str, object]], folder: Path) -> dict[str, float | None]:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    items, _ = score_predictions(TARGETS, path, strict=True)
    return dict(score_items(items, draws=0).values)


def test_masks_of_lisa_are_rows(tmp_path: Path) -> None:
    folder = tmp_path / "vis_output"
    folder.mkdir()
    blocks = np.zeros((30, 40), dtype=bool)
    blocks[8:16, 8:24] = True
    for name, mask in (("1_mask_0", blocks), ("1_mask_1", np.roll(blocks, 8, axis=0)), ("b_mask_0", blocks)):
        Image.fromarray(mask.astype(np.uint8) * 100).save(folder / f"{name}.jpg", quality=95)
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(folder / "b_masked_img_0.jpg")
    rows = list(convert_lisa(folder, TARGETS))
    assert [row["id"] for row in rows] == [target.id for target in TARGETS]
    assert rows[1]["instances"] == [{"mask": encode_rle(blocks)}]
    union = blocks | np.roll(blocks, 8, axis=0)
    ious = [(m & t).sum() / (m | t).sum() for m, t in ((union, TRUTH[0]), (blocks, TRUTH[1]))]
    assert score(rows, tmp_path)["giou"] == pytest.approx(np.mean(ious))


def test_lisa_needs_one_question_an_image(tmp_path: Path) -> None:
    Image.fromarray(TRUTH[0].astype(np.uint8) * 100).save(tmp_path / "b_mask_0.jpg")
    with pytest.raises(DataError, match="2 questions about b"):
        list(convert_lisa(tmp_path, [TARGETS[1], TARGETS[1]]))
    with pytest.raises(DataError, match="no mask of LISA"):
        list(convert_lisa(tmp_path / "nothing", TARGETS))


def test_masks_of_sa2va_are_rows(tmp_path: Path) -> None:
    entries = [
        {"image_path": "images/b.jpg", "prediction_masks": [[[FOUND[1].tolist()]]]},
        {"image_path": "images/1.2_a.jpg", "prediction_masks": [[[encode_rle(FOUND[0])]]]},
        {"image_path": "images/other.jpg", "prediction_masks": [None]},
    ]
    (tmp_path / "results.json").write_text(json.dumps(entries))
    rows = list(convert_sa2va(tmp_path / "results.json", TARGETS))
    ious = [(f & t).sum() / (f | t).sum() for f, t in zip(FOUND[:2], TRUTH[:2], strict=True)]
    assert score(rows, tmp_path)["giou"] == pytest.approx(np.mean(ious))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "not a list"),
        ([{"img_id": 1}], "no `image_path`"),
        ([{"image_path": "b.jpg", "prediction_masks": [None, None]}], "2 texts, b.jpg 1 questions"),
    ],
)
def test_other_layouts_than_sa2vas_are_one_error(tree: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=message):
        list(convert_sa2va(tmp_path / "results.json", TARGETS))


def test_counts_of_vision_reasoner_are_scored_by_both_rules_for_empty_targets(tmp_path: Path) -> None:
    rows = [{"image_id": "a", "ann_id": "0", "think": "", "intersection": i, "union": u, "bbox_iou": 0.0} for i, u in
            ((30, 60), (10, 40), (0, 0))]  # fmt: skip
    (tmp_path / "output_0.json").write_text(json.dumps(rows[:2]))
    (tmp_path / "output_1.json").write_text(json.dumps(rows[2:]))
    found = score_counts(tmp_path)
    assert (found.count, found.empty) == (3, 1)
    assert found.giou_empty_0 == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert found.giou == pytest.approx((0.5 + 0.25 + 1) / 3)
    assert found.ciou == pytest.approx(0.4)
    with pytest.raises(DataError, match="no output_"):
        score_counts(tmp_path / "nothing")
