"""AP of instances against a computation of a few lines, and predictions with instances on MUSE."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import mask, noise_image
from PIL import Image

from cores_core.data.prepare import prepare_dataset
from cores_core.data.store import Store
from cores_core.errors import DataError
from cores_core.evaluate.benchmarks import BENCHMARKS
from cores_core.evaluate.foreign import score_predictions
from cores_core.evaluate.instances import score_instances
from cores_core.evaluate.items import Item, ScoredMask, item_row, parse_item
from cores_core.evaluate.scores import score_items
from cores_core.evaluate.targets import Target, list_targets
from cores_core.masks import encode_rle
from cores_core.metrics import measure_overlap
from cores_core.sample import BoolMask

LEFT, RIGHT = mask("####....", "####...."), mask("....####", "....####")
NEAR_LEFT = mask("###.....", "####....")  # IoU 7/8
HALF_RIGHT = mask("....##..", "....####")  # IoU 6/8
NOTHING = mask("........", "........")


def item(number: int, predicted: list[tuple[BoolMask, float]] | None, truth: list[BoolMask]) -> Item:
    union = np.any([NOTHING, *truth], axis=0)
    found = np.any([NOTHING, *(part for part, _ in predicted or [])], axis=0)
    return Item(
        f"a/b/{number}.0.0", f"{number}.png", "", "Which?", True, "", True, measure_overlap(found, union), None,
        encode_rle(found), None, encode_rle(union), None, 0.0,
        None if predicted is None else tuple(ScoredMask(encode_rle(part), score) for part, score in predicted),
        tuple(map(encode_rle, truth)),
    )  # fmt: skip


ITEMS = [
    item(0, [(NEAR_LEFT, 0.9), (HALF_RIGHT, 0.8)], [LEFT, RIGHT]),
    item(1, [(RIGHT, 0.7)], []),
    item(2, [(RIGHT, 0.6), (LEFT, 0.5)], [RIGHT]),
    item(3, [], [LEFT]),
]


def expected_ap(items: list[Item], threshold: float) -> float:
    """Average precision with 101 recalls; each prediction matches its best target that is still free."""
    from pycocotools import mask as coco

    found = sorted(
        ((p.score, number, p.mask) for number, i in enumerate(items) for p in i.instances or ()), key=lambda f: -f[0]
    )
    free = {number: list(i.target_instances) for number, i in enumerate(items)}
    count, hits = sum(map(len, free.values())), []
    for _, number, rle in found:
        ious = coco.iou([rle], free[number], [0] * len(free[number])) if free[number] else np.zeros((1, 0))
        best = int(ious[0].argmax()) if ious.size else -1
        hits.append(best >= 0 and ious[0, best] >= threshold)
        if hits[-1]:
            free[number].pop(best)
    recall = np.cumsum(hits) / count
    precision = np.maximum.accumulate((np.cumsum(hits) / np.arange(1, len(hits) + 1))[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.mean([precision[place] if place < len(precision) else 0 for place in places]))


def test_ap_is_that_of_an_independent_computation() -> None:
    found = score_instances(ITEMS)
    assert found["ap_50"] == pytest.approx(expected_ap(ITEMS, 0.5), abs=1e-9)
    assert found["ap"] == pytest.approx(np.mean([expected_ap(ITEMS, t) for t in np.linspace(0.5, 0.95, 10)]), abs=1e-9)
    assert 0 < found["ap"] < found["ap_50"] < 1


def test_without_instances_there_is_no_ap(capsys: pytest.CaptureFixture[str]) -> None:
    assert score_instances([item(0, None, [LEFT])]) == {"ap_50": None, "ap": None}
    assert score_instances([item(0, [(LEFT, 1.0)], [])]) == {"ap_50": None, "ap": None}
    assert score_instances([]) == {"ap_50": None, "ap": None}
    assert score_items(ITEMS, draws=0).values["ap_50"] is not None
    assert capsys.readouterr().out == ""


def test_rows_keep_instances() -> None:
    row = json.loads(json.dumps(item_row(ITEMS[0])))
    assert parse_item(row) == ITEMS[0]
    older = {name: value for name, value in row.items() if name not in ("instances", "target_instances")}
    assert parse_item(older).instances is None


@pytest.mark.parametrize(
    "damage",
    [
        {"instances": [{"score": 0.5}]},
        {"instances": [{"mask": {"size": [9, 9], "counts": "k0"}, "score": 0.5}]},
        {"instances": [{"mask": None, "score": 0.5}]},
        {"target_instances": ["not a mask"]},
    ],
    ids=["no mask", "another size", "null", "text"],
)
def test_damaged_instances_are_one_error(damage: dict) -> None:
    with pytest.raises(DataError):
        parse_item(json.loads(json.dumps(item_row(ITEMS[0]))) | damage)


@pytest.fixture
def targets(tmp_path: Path) -> list[Target]:
    """A question of MUSE about two squares."""
    squares = [[1, 1, 5, 1, 5, 5, 1, 5], [10, 2, 18, 2, 18, 9, 10, 9]]
    answer = [{"segmentation": [square]} for square in squares]
    entry = {"file_name": "a.jpg", "questions": ["Which are squares?"], "answers": [answer]}
    (tmp_path / "muse_val.json").write_text(json.dumps([entry]))
    (tmp_path / "coco/train2014").mkdir(parents=True)
    Image.fromarray(noise_image(12, 20)).save(tmp_path / "coco/train2014/a.jpg")
    prepare_dataset("muse", tmp_path, 1, lambda *_: None)
    return list_targets(Store(tmp_path, "muse", "val"), 0, BENCHMARKS["muse"])


def test_a_row_of_instances_is_scored_by_them_and_by_their_union(targets: list[Target], tmp_path: Path) -> None:
    first, second = targets[0].instances
    row = {"id": targets[0].id, "instances": [{"mask": first, "score": 0.4}, {"mask": second, "score": 0.9}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    items, report = score_predictions(targets, tmp_path / "rows.jsonl")
    scores = score_items(items, draws=0).values
    assert (scores["giou"], scores["ap_50"], scores["ap"]) == (1.0, 1.0, 1.0)
    assert report.problems == ()


@pytest.mark.parametrize("given", [3, [{"score": 1}], [{"mask": [], "score": float("nan")}]])
def test_malformed_instances_are_left_out(targets: list[Target], tmp_path: Path, given: object) -> None:
    rows = [{"id": targets[0].id, "instances": given}, {"id": targets[0].id, "mask": []}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, report = score_predictions(targets, tmp_path / "rows.jsonl")
    assert [problem.line for problem in report.problems] == [1]
