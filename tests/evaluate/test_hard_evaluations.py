"""Evaluations at their limits: one item, empty targets, thousands of items, and results that are damaged."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_items import make_item
from helpers import mask, noise_image

from cores_core.errors import DataError
from cores_core.evaluate.compare import compare
from cores_core.evaluate.items import ITEMS_FILE, Item
from cores_core.evaluate.report import render_report
from cores_core.evaluate.results import RESULTS_FILE, Evaluation, load_evaluation, save_evaluation
from cores_core.sample import BoolMask

TAIL, EMPTY = mask("........", "..####..", "..####..", "........"), np.zeros((4, 8), dtype=bool)
ABOUT = {"benchmark": "reasonpart", "protocol": "p", "model": "m", "data_root": "d", "data": {}, "warnings": []}


def item(number: int, predicted: BoolMask, target: BoolMask) -> Item:
    made = make_item(f"partworld/test/{number}.0.0", f"{number}.jpg", predicted, target)
    return replace(made, category=f"Fish {number % 40}", question="What steers?", answer="It is [SEG].")


@pytest.mark.parametrize(
    "items",
    [[item(0, TAIL, TAIL)], [item(0, EMPTY, EMPTY)], [item(n, TAIL, EMPTY) for n in range(3)]],
    ids=["one item", "one without a target", "all targets empty"],
)
def test_few_and_empty_items_are_scored_saved_compared_and_shown(tmp_path: Path, items: list[Item]) -> None:
    evaluation = Evaluation(tuple(items), ABOUT)
    save_evaluation(evaluation, tmp_path)
    text = (tmp_path / RESULTS_FILE).read_text()
    assert json.loads(text, parse_constant=pytest.fail)["count"] == len(items)  # no NaN
    found = load_evaluation(tmp_path)
    assert found.items == evaluation.items
    json.dumps(compare({"a": evaluation, "b": found}, draws=10).to_json(), allow_nan=False)
    assert "</html>" in render_report(evaluation, lambda name: noise_image(4, 8))


def test_a_report_of_5000_items_is_small_and_quick() -> None:
    items = tuple(item(number, TAIL if number % 3 else EMPTY, TAIL) for number in range(5000))
    started = time.process_time()
    page = render_report(Evaluation(items, ABOUT), lambda name: noise_image(4, 8))
    assert time.process_time() - started < 30
    assert len(page) < 5 << 20


DAMAGE = {
    "not UTF-8": lambda text: text.encode() + b"\xff\n",
    "a text in place of a count": lambda text: text.replace('"intersection": 8', '"intersection": "8"').encode(),
    "more than both masks": lambda text: text.replace('"intersection": 8', '"intersection": 9').encode(),
    "no number": lambda text: text.replace('"share": 0.25', '"share": NaN').encode(),
    "runs of another image": lambda text: text.replace('"size": [4, 8]', '"size": [4, 9]').encode(),
    "nested": lambda text: ("[" * 5000).encode(),
    "another type": lambda text: text.replace('"is_sentence": true', '"is_sentence": 1').encode(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_items_are_one_error(tmp_path: Path, kind: str) -> None:
    save_evaluation(Evaluation((item(0, TAIL, TAIL),), ABOUT), tmp_path)
    text = (tmp_path / ITEMS_FILE).read_text()
    damaged = DAMAGE[kind](text)
    assert damaged != text.encode()
    (tmp_path / ITEMS_FILE).write_bytes(damaged)
    with pytest.raises(DataError, match="damaged"):
        load_evaluation(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"data_root": 7}', '{"data": []}', "\ufeff"])
def test_damaged_results_are_one_error(tmp_path: Path, text: str) -> None:
    save_evaluation(Evaluation((item(0, TAIL, TAIL),), ABOUT), tmp_path)
    (tmp_path / RESULTS_FILE).write_text(text)
    with pytest.raises(DataError, match="no results"):
        load_evaluation(tmp_path)
