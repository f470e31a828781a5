"""Confidence against IoU, compared with an independent computation."""

from dataclasses import replace

import numpy as np
import pytest

from cores_core.evaluate.calibration import calibrate
from cores_core.evaluate.items import Item, item_row, parse_item
from cores_core.masks import encode_rle
from cores_core.metrics import Overlap

BLANK = encode_rle(np.zeros((1, 1), dtype=bool))


def _item(confidence: dict[str, float], iou: float) -> Item:
    overlap = Overlap(round(iou * 1000), predicted=round(iou * 1000), target=1000, share=0.5)
    return Item(
        *("a/b/0.0.0", "a.png", "", "?", True, "", True, overlap, None, BLANK, None, BLANK, None, 0.0),
        confidence=confidence,
    )


def test_the_error_is_the_mean_distance_of_confidence_and_iou_in_ten_bins() -> None:
    rng = np.random.default_rng(0)
    scores, ious = rng.permutation(200) / 200, rng.permutation(1001)[:200] / 1000
    (found,) = calibrate([_item({"score": float(s)}, float(iou)) for s, iou in zip(scores, ious, strict=True)])
    expected = 0.0
    for low in range(10):
        inside = [i for i in range(200) if low <= 10 * scores[i] < low + 1]
        expected += abs(sum(scores[i] for i in inside) - sum(ious[i] for i in inside)) / 200
    assert found.error == pytest.approx(expected)
    squares = sum(((scores < scores[i]).sum() - (ious < ious[i]).sum()) ** 2 for i in range(200))
    assert found.correlation == pytest.approx(1 - 6 * squares / (200 * (200**2 - 1)))  # Spearman's, without ties
    assert sum(one.count for one in found.bins) == 200


def test_the_highest_confidence_is_in_the_last_bin() -> None:
    (found,) = calibrate([_item({"score": 1.0}, 0.5)])
    (only,) = found.bins
    assert (only.low, only.high, only.count, found.error, found.correlation) == (0.9, 1.0, 1, 0.5, None)


def test_each_confidence_is_of_the_items_that_have_it() -> None:
    items = [_item({"score": 0.5, "answer_probability": 1.0}, 0.5), _item({"score": 0.7}, 0.9), _item({}, 1.0)]
    assert {one.name: sum(b.count for b in one.bins) for one in calibrate(items)} == {
        "score": 2,
        "answer_probability": 1,
    }


def test_rows_without_confidence_are_read() -> None:
    row = item_row(_item({"score": 0.5}, 0.5))
    assert parse_item(row).confidence == {"score": 0.5}
    del row["confidence"]
    assert parse_item(row) == replace(_item({}, 0.5))
