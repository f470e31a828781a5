"""Damaged files of predictions, and of finished evaluations: scores, or one error."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.limits import check_text, survives
from fuzz.mutations import damaged_json, dump_json
from helpers import mask
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cores_core.evaluate.compare import compare
from cores_core.evaluate.foreign import score_predictions
from cores_core.evaluate.results import Evaluation, load_evaluation, save_evaluation
from cores_core.evaluate.targets import Target
from cores_core.inputs import list_requests
from cores_core.masks import encode_rle

TAIL = mask("....", ".##.", ".##.")
EMPTY = mask("....", "....", "....")
TARGETS = tuple(
    Target(f"custom/val/{number}.0.0", f"photos/{number}.jpg", "Fish", "What steers?", True, encode_rle(found), None)
    for number, found in enumerate((TAIL, EMPTY, TAIL))
)
ROWS = [
    {"id": "custom/val/0.0.0", "mask": encode_rle(TAIL), "answer": "the tail", "seconds": 0.1},
    {"image": "1.jpg", "question": "What steers?", "mask": []},
    {"image": "/a/photos/2.jpg", "question": "What steers?", "mask": "tail.png"},
]
COCO = {
    "categories": [{"id": 1, "name": "What steers?"}],
    "images": [{"id": 1, "file_name": "0.jpg", "height": 3, "width": 4}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": encode_rle(TAIL), "score": 0.5}],
}
REQUESTS = [
    {"image": "a.png", "questions": ["What steers?"], "phrases": ["the tail"]},
    {"image": "../b.png", "question": "What steers?"},
]


def dump_rows(rows: Any) -> bytes:
    """A JSONL file; a value that is no list is one row."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in (rows if isinstance(rows, list) else [rows]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a mask image and a finished evaluation."""
    folder = tmp_path_factory.mktemp("predictions")
    Image.fromarray(TAIL.astype(np.uint8) * 255).save(folder / "tail.png")
    (folder / "rows.jsonl").write_bytes(dump_rows(ROWS))
    items, _ = score_predictions(TARGETS, folder / "rows.jsonl")
    save_evaluation(Evaluation(tuple(items), {"benchmark": "custom", "seed": 0, "data": {}}), folder)
    return folder


@given(data=damaged_json(ROWS, dump_rows), strict=st.booleans())
def test_damaged_rows_are_scored_or_named(folder: Path, data: bytes, strict: bool) -> None:
    path = folder / "predictions.jsonl"
    path.write_bytes(data)

    def score() -> None:
        _, report = score_predictions(TARGETS, path, strict=strict)
        for problem in report.problems:
            check_text(problem.reason)

    survives(score)


@given(data=damaged_json(COCO))
def test_damaged_coco_predictions_are_scored_or_named(folder: Path, data: bytes) -> None:
    path = folder / "predictions.json"
    path.write_bytes(data)
    survives(lambda: score_predictions(TARGETS, path))


@given(data=damaged_json(REQUESTS, dump_rows))
def test_damaged_questions_are_read_or_refused(folder: Path, data: bytes) -> None:
    path = folder / "questions.jsonl"
    path.write_bytes(data)
    survives(lambda: list(list_requests([str(path)], [])))


@pytest.mark.parametrize("name", ["items.jsonl", "results.json"])
@given(data=st.data())
def test_a_damaged_evaluation_is_compared_or_refused(folder: Path, name: str, data: st.DataObject) -> None:
    path = folder / name
    whole = path.read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()] if name == "items.jsonl" else json.loads(whole)
    undamaged = load_evaluation(folder)

    def read() -> None:
        found = load_evaluation(folder)
        json.dumps(found.to_json())
        compare({"a": undamaged, "b": found}, draws=10)

    try:
        path.write_bytes(data.draw(damaged_json(rows, dump_rows if name == "items.jsonl" else dump_json)))
        survives(read)
    finally:
        path.write_bytes(whole)
