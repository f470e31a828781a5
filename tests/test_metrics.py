"""The rules of gIoU, cIoU and the size bands, by eye and against the release."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import mask

from cores_core.metrics import MaskIoU, Overlap, measure_overlap
from cores_core.sample import BoolMask


def test_ignored_pixels_count_nowhere() -> None:
    overlap = measure_overlap(
        predicted=mask("####", "...."), target=mask("##..", "...."), ignore=mask("..##", "....")
    )  # fmt: skip
    assert (overlap.intersection, overlap.union, overlap.iou) == (2, 2, 1.0)


def test_a_target_under_ignore_does_not_count_either() -> None:
    overlap = measure_overlap(predicted=mask("#..."), target=mask("####"), ignore=mask("..##"))
    assert (overlap.intersection, overlap.union) == (1, 2)


def test_empty_on_empty_is_one() -> None:
    assert measure_overlap(mask("...."), mask("....")).iou == 1.0


def test_all_ignored_is_one() -> None:
    assert measure_overlap(mask("##.."), mask(".##."), ignore=mask("####")).iou == 1.0


def test_any_prediction_on_an_empty_target_is_zero() -> None:
    assert measure_overlap(mask("#..."), mask("....")).iou == 0.0


def test_giou_is_the_mean_and_ciou_the_quotient_of_sums() -> None:
    score = MaskIoU()
    score.update(predicted=mask("##", ".."), target=mask("#.", ".."))  # 1 of 2
    score.update(predicted=mask("####", "##.."), target=mask("####", "####"))  # 6 of 8
    assert score.count == 2
    assert score.giou == (1 / 2 + 6 / 8) / 2
    assert score.ciou == (1 + 6) / (2 + 8)


def test_nothing_scored_is_none_and_not_a_number() -> None:
    score = MaskIoU()
    assert (score.giou, score.ciou, score.miou) == (None, None, None)
    assert dict(score.ciou_by_band) == {"small": None, "medium": None, "large": None}


@pytest.mark.parametrize(
    ("pixels", "band"), [(0, "small"), (27, "small"), (28, "medium"), (115, "medium"), (116, "large"), (1000, "large")]
)
def test_bands_are_by_share_of_the_image_and_their_edges_are_medium(pixels: int, band: str) -> None:
    target = np.arange(1000).reshape(25, 40) < pixels
    assert measure_overlap(target, target).band == band


def test_the_band_looks_at_the_whole_target_even_where_it_is_ignored() -> None:
    target, ignore = np.arange(1000).reshape(25, 40) < 200, np.arange(1000).reshape(25, 40) < 190
    assert measure_overlap(target, target, ignore).band == "large"


def test_each_band_has_its_own_ciou() -> None:
    score = MaskIoU()
    score.add(_overlap(intersection=1, union=2, share=0.01))
    score.add(_overlap(intersection=3, union=6, share=0.05))
    score.add(_overlap(intersection=0, union=4, share=0.1))
    assert dict(score.ciou_by_band) == {"small": 0.5, "medium": 0.3, "large": None}


def test_miou_is_the_mean_over_categories_of_their_mean() -> None:
    score = MaskIoU()
    for category, intersection in [("Fish Tail", 0), ("Fish Tail", 4), ("Car Tier", 1)]:
        score.add(_overlap(intersection, union=4, share=0.5), category)
    assert score.iou_by_category == {"Car Tier": 0.25, "Fish Tail": 0.5}
    assert score.miou == 0.375


def test_sums_are_exact_past_the_precision_of_float32() -> None:
    score = MaskIoU()
    for _ in range(3):
        score.add(_overlap(intersection=2**24 + 1, union=2**25, share=0.5))
    assert score.ciou == (2**24 + 1) / 2**25


@pytest.mark.parametrize("images", [31, 13])
def test_scores_equal_the_release(shared: Path, images: int) -> None:
    golden = json.loads((shared / "golden/metrics/expected_cores.json").read_text())
    expected = golden[f"train_ds.validate/{'all' if images == 31 else 'first13'}"]
    masks, score = np.load(shared / "golden/metrics/masks.npz"), MaskIoU()
    for image in range(images):
        for predicted, label in zip(masks[f"pred_{image:02}"], masks[f"gt_{image:02}"], strict=True):
            score.add(_measure_label(predicted, label))
    assert score.giou == pytest.approx(expected["giou"], abs=1e-5)  # the release divides by count + 1e-5
    assert score.ciou == pytest.approx(expected["ciou"], abs=1e-6)
    for band, key in [("small", "s"), ("medium", "m"), ("large", "l")]:
        assert score.ciou_by_band[band] == pytest.approx(expected[f"ciou_{key}"], abs=1e-6)
        of_band = [overlap for overlap in score.overlaps if overlap.band == band]
        assert sum(overlap.intersection for overlap in of_band) == expected[f"intersection_{band}"]["sum"][1]
        assert sum(overlap.union for overlap in of_band) == expected[f"union_{band}"]["sum"][1]


def test_each_mask_scores_as_in_the_release(shared: Path) -> None:
    golden = json.loads((shared / "golden/metrics/expected_cores.json").read_text())["per_pair"]
    masks = np.load(shared / "golden/metrics/masks.npz")
    assert len(golden) == 39
    for pair in golden:
        image, number = pair["image"], pair["mask"]
        overlap = _measure_label(masks[f"pred_{image:02}"][number], masks[f"gt_{image:02}"][number])
        assert [overlap.intersection, overlap.union] == [pair["inter"][1], pair["union"][1]], pair
        assert overlap.iou == pytest.approx(pair["acc_iou"][1], abs=1e-6)
        assert overlap.share == pytest.approx(pair["ratio"], abs=1e-9)
        assert overlap.band[0] == pair["band"]


def _measure_label(predicted: BoolMask, label: BoolMask) -> Overlap:
    """1 is the target and 255 is ignored; a pixel of any other value (2) is neither, so a prediction there is wrong."""
    return measure_overlap(predicted == 1, target=label == 1, ignore=label == 255)


def _overlap(intersection: int, union: int, share: float) -> Overlap:
    """A target that is covered in part, and nothing else predicted."""
    return Overlap(intersection, predicted=intersection, target=union, share=share)
