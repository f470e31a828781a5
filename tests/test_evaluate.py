"""Scoring a store: one row a query, sums that agree with the rows, and files that say how they came about."""

import json
from pathlib import Path

import numpy as np
import pytest

from cores_core.data.store import Store
from cores_core.evaluate import EvalResult, evaluate_store, save_evaluation
from cores_core.masks import decode_rle
from cores_core.metrics import measure_overlap
from cores_core.model.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def store(partworld_root: Path) -> Store:
    return Store(partworld_root, "partworld", "val")


@pytest.fixture(scope="module")
def result(checkpoint: Checkpoint, store: Store) -> EvalResult:
    return evaluate_store(checkpoint, store, "given")


def test_every_part_is_asked_about_once_with_its_first_query(result: EvalResult, store: Store) -> None:
    expected = [
        (record.image, region.category, region.queries[0].text)
        for record in store
        for region in record.regions
        if region.kind == "part"
    ]
    assert [(item.image, item.category, item.question) for item in result.items] == expected


def test_a_row_scores_the_mask_it_holds(result: EvalResult, store: Store) -> None:
    targets = {
        (record.image, region.category): decode_rle(region.mask) for record in store for region in record.regions
    }
    for item in result.items:
        target = targets[item.image, item.category]
        assert item.iou == measure_overlap(decode_rle(item.mask), target).iou
        assert item.coarse_iou == measure_overlap(decode_rle(item.coarse_mask), target).iou


def test_the_sums_agree_with_the_rows(result: EvalResult) -> None:
    summary = result.summary()
    assert summary["count"] == len(result.items)
    assert summary["giou"] == pytest.approx(np.mean([item.iou for item in result.items]))
    assert summary["coarse_giou"] == pytest.approx(np.mean([item.coarse_iou for item in result.items]))
    assert summary["well_formed"] == 1.0
    assert set(summary["categories"]) == {item.category for item in result.items}


def test_objects_can_be_asked_about_instead(checkpoint: Checkpoint, store: Store) -> None:
    result = evaluate_store(checkpoint, store, "given", kinds=("object",))
    assert {item.category for item in result.items} == {
        region.category for record in store for region in record.regions if region.kind == "object"
    }


def test_a_limit_counts_images_and_so_does_the_progress(checkpoint: Checkpoint, store: Store) -> None:
    done: list[int] = []
    result = evaluate_store(checkpoint, store, "given", limit=2, progress=done.append)
    assert {item.image for item in result.items} == {store[0].image, store[1].image}
    assert sum(done) == 2


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(checkpoint: Checkpoint, store: Store, training: bool) -> None:
    checkpoint.model.train(training)
    try:
        evaluate_store(checkpoint, store, "given", limit=1)
        assert checkpoint.model.training == training
    finally:
        checkpoint.model.eval()


def test_results_and_items_are_saved_whole(result: EvalResult, tmp_path: Path) -> None:
    save_evaluation(result, tmp_path / "scores", about={"protocol": "given", "seed": 0})
    saved = json.loads((tmp_path / "scores/results.json").read_text())
    assert saved == {**result.summary(), "protocol": "given", "seed": 0}
    rows = [json.loads(line) for line in (tmp_path / "scores/items.jsonl").read_text().splitlines()]
    assert [row["iou"] for row in rows] == [item.iou for item in result.items]
    assert np.array_equal(decode_rle(rows[0]["mask"]), decode_rle(result.items[0].mask))
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == ["items.jsonl", "results.json"]


def test_nothing_to_score_is_null_and_not_an_error(checkpoint: Checkpoint, store: Store) -> None:
    result = evaluate_store(checkpoint, store, "given", limit=0)
    assert result.summary()["giou"] is None
    assert result.summary()["count"] == 0
    json.dumps(result.summary(), allow_nan=False)
