"""Post-processing of a mask: small regions, holes, scores, and its division into objects."""

import numpy as np
import pytest

from cores_core.errors import ConfigError
from cores_core.instances import MaskCleaning, clean_mask, mask_score, split_instances


def logits_of(pixels: np.ndarray) -> np.ndarray:
    return np.where(pixels, 2.0, -2.0).astype(np.float32)


TWO = np.zeros((12, 20), dtype=bool)
TWO[1:4, 1:4] = True
TWO[5:11, 8:18] = True
TWO[7, 10] = False  # a hole
TWO[11, 19] = True  # touches nothing but a corner's neighbour


def test_regions_are_told_apart_the_largest_first() -> None:
    parts = split_instances(TWO, logits_of(TWO))
    assert [int(part.mask.sum()) for part in parts] == [59, 9, 1]
    assert np.array_equal(np.any([part.mask for part in parts], axis=0), TWO)
    assert all(part.score == pytest.approx(1 / (1 + np.exp(-2.0))) for part in parts)


def test_corners_connect() -> None:
    diagonal = np.eye(4, dtype=bool)
    assert len(split_instances(diagonal, logits_of(diagonal))) == 1


def test_an_empty_mask_has_no_regions() -> None:
    empty = np.zeros((3, 4), dtype=bool)
    assert split_instances(empty, logits_of(empty)) == []
    assert mask_score(empty, logits_of(empty)) == 0


def test_small_regions_go() -> None:
    cleaned = clean_mask(TWO, logits_of(TWO), MaskCleaning(min_area=9))
    assert int(cleaned.sum()) == 59 + 9
    assert not clean_mask(TWO, logits_of(TWO), MaskCleaning(min_area=100)).any()


def test_holes_are_filled_and_the_outside_is_not() -> None:
    cleaned = clean_mask(TWO, logits_of(TWO), MaskCleaning(max_hole=5))
    assert cleaned[7, 10]
    assert int(cleaned.sum()) == int(TWO.sum()) + 1
    frame = np.ones((5, 5), dtype=bool)
    frame[0, 2] = False  # open to the border: no hole
    assert np.array_equal(clean_mask(frame, logits_of(frame), MaskCleaning(max_hole=9)), frame)


def test_a_low_score_empties_the_mask() -> None:
    assert clean_mask(TWO, logits_of(TWO), MaskCleaning(min_score=0.8)).any()
    assert not clean_mask(TWO, logits_of(TWO), MaskCleaning(min_score=0.9)).any()


def test_nothing_changes_by_default() -> None:
    assert not MaskCleaning().changes
    assert np.array_equal(clean_mask(TWO, logits_of(TWO), MaskCleaning()), TWO)


@pytest.mark.parametrize("values", [{"min_area": -1}, {"max_hole": -1}, {"min_score": 1.5}, {"min_score": -0.1}])
def test_nonsense_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        MaskCleaning(**values)
