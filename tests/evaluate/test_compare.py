"""Comparisons are paired, fair about what they leave out, and can be looked at."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from evaluation_items import make_item
from helpers import noise_image

from cores_core.errors import DataError
from cores_core.evaluate.compare import CELL, GAP, Comparison, Difference, choose_items, compare, render_sheet
from cores_core.evaluate.items import Item
from cores_core.evaluate.results import Evaluation
from cores_core.masks import encode_rle
from cores_core.metrics import measure_overlap
from cores_core.sample import BoolMask, RgbImage

SIDE, IMAGES = 20, 40
ABOUT = {"protocol": "teacher_forced", "context": "fixed", "data": {"partworld/test": "aaaa"}}


def square(side: int) -> BoolMask:
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    inside[:side, :side] = True
    return inside


def item(key: str, image: str, predicted: BoolMask, target: BoolMask) -> Item:
    return make_item(f"partworld/test/{key}", image, predicted, target)


def evaluation(bonus: int = 0, seed: int = 0, **about: Any) -> Evaluation:
    """Three items in each of 40 images, hard or easy by image and `seed`; a bonus brings all nearer to the target."""
    ease = np.random.default_rng(seed).integers(2, 11, size=IMAGES)
    sizes = [
        (image, number, min(int(ease[image]) + number + bonus, 14)) for image in range(IMAGES) for number in range(3)
    ]
    items = [item(f"{i}.{n}.0", f"{i}.png", square(size), target=square(14)) for i, n, size in sizes]
    return Evaluation(tuple(items), ABOUT | about)


def difference(comparison: Comparison, name: str, score: str = "giou") -> Difference:
    found = comparison.differences[score][name]
    assert found is not None
    assert found.interval is not None
    return found


def test_the_same_twice_differs_by_nothing() -> None:
    comparison = compare({"a": evaluation(), "b": evaluation()})
    assert (comparison.names, comparison.count, comparison.images) == (("a", "b"), 120, 40)
    assert comparison.warnings == ()
    for score in ("giou", "ciou", "miou", "precision_0.5", "giou_long"):
        found = difference(comparison, "b", score)
        assert found.interval is not None
        assert (found.value, found.interval.low, found.interval.high, found.better) == (0, 0, 0, 0)


def test_a_clearly_better_one_is_above_nothing_and_the_other_way_round_below() -> None:
    forth = compare({"worse": evaluation(), "better": evaluation(bonus=1)})
    back = compare({"better": evaluation(bonus=1), "worse": evaluation()})
    for score in ("giou", "ciou", "miou"):
        gain, loss = difference(forth, "better", score), difference(back, "worse", score)
        assert gain.interval is not None
        assert loss.interval is not None
        assert 0 < gain.interval.low < gain.value < gain.interval.high
        assert (gain.value, gain.better, loss.better) == (-loss.value, 1, 0)
        assert (loss.interval.low, loss.interval.high) == pytest.approx((-gain.interval.high, -gain.interval.low))


def test_values_are_those_of_the_evaluations() -> None:
    evaluations = {"a": evaluation(), "b": evaluation(bonus=1)}
    comparison = compare(evaluations)
    for score in ("giou", "ciou", "ciou_large", "miou", "t_acc"):
        for name, of_one in evaluations.items():
            assert comparison.values[score][name] == pytest.approx(of_one.scores.values[score], abs=1e-12)


def test_a_paired_interval_is_narrower_than_two_that_know_nothing_of_each_other() -> None:
    evaluations = {"a": evaluation(), "b": evaluation(bonus=1)}
    paired = difference(compare(evaluations), "b").interval
    alone = [of_one.scores.intervals["giou"] for of_one in evaluations.values()]
    unpaired = np.sqrt(sum((interval.high - interval.low) ** 2 for interval in alone if interval is not None))
    assert paired is not None
    assert paired.high - paired.low < 0.3 * unpaired


def test_with_luck_alone_between_them_the_interval_holds_nothing() -> None:
    found = difference(compare({"a": evaluation(seed=1), "b": evaluation(seed=2)}), "b")
    assert found.interval is not None
    assert found.better is not None
    assert found.interval.low < 0 < found.interval.high
    assert 0.05 < found.better < 0.95


def test_all_are_compared_with_the_first() -> None:
    comparison = compare({"a": evaluation(), "b": evaluation(bonus=1), "c": evaluation(bonus=2)})
    assert list(comparison.differences["giou"]) == ["b", "c"]
    assert difference(comparison, "c").value > difference(comparison, "b").value > 0


def test_the_order_of_items_does_not_matter() -> None:
    a, b = evaluation(), evaluation(bonus=1, seed=3)
    order = np.random.default_rng(0).permutation(len(b.items))
    mixed = Evaluation(tuple(b.items[n] for n in order), b.about)
    backwards = Evaluation(a.items[::-1], a.about)
    assert compare({"a": a, "b": b}) == compare({"a": backwards, "b": mixed})
    chosen, again = choose_items({"a": a, "b": b}, 9, seed=1), choose_items({"a": backwards, "b": mixed}, 9, seed=1)
    assert chosen == again


def test_another_seed_draws_others() -> None:
    evaluations = {"a": evaluation(), "b": evaluation(seed=1)}
    one, other = difference(compare(evaluations, seed=0), "b"), difference(compare(evaluations, seed=1), "b")
    assert one.value == other.value
    assert one.interval != other.interval


def test_without_draws_there_is_no_interval() -> None:
    found = compare({"a": evaluation(), "b": evaluation(bonus=1)}, draws=0).differences["giou"]["b"]
    assert found is not None
    assert (found.interval, found.better) == (None, None)
    assert found.value > 0


def test_items_that_not_all_have_are_left_out_and_counted() -> None:
    whole, bonus = evaluation(), evaluation(bonus=1)
    comparison = compare({"a": replace(whole, items=whole.items[:-6]), "b": replace(bonus, items=bonus.items[1:])})
    assert dict(comparison.left_out) == {"a": 1, "b": 6}
    assert comparison.count == 113
    assert [sentence.split(" are ")[0] for sentence in comparison.warnings] == ["1 items of a", "6 items of b"]
    cut = {"a": replace(whole, items=whole.items[1:-6]), "b": replace(bonus, items=bonus.items[1:-6])}
    assert comparison.differences == compare(cut).differences


@pytest.mark.parametrize(
    ("evaluations", "message"),
    [
        ({"a": evaluation()}, "needs two evaluations"),
        ({}, "needs two evaluations"),
        ({"a": evaluation(), "b": Evaluation((), ABOUT)}, "no common items in: a, b"),
    ],
    ids=["one alone", "none", "nothing in common"],
)
def test_what_cannot_be_compared_is_refused(evaluations: dict[str, Evaluation], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        compare(evaluations)
    assert caught.value.hint


@pytest.mark.parametrize("field", ["target", "ignore"])
def test_other_targets_under_the_same_ids_are_refused(field: str) -> None:
    whole = evaluation()
    other = replace(whole.items[5], **{field: encode_rle(square(3))})
    changed = replace(whole, items=(*whole.items[:5], other, *whole.items[6:]))
    for call in (compare, lambda both: choose_items(both, 3)):
        with pytest.raises(DataError, match=r"not the same data: partworld/test/1\.2\.0"):
            call({"a": whole, "b": changed})


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ({"protocol": "generate"}, "Protocols differ: a: teacher_forced, b: generate."),
        ({"context": "none"}, "Contexts differ: a: fixed, b: none."),
        (
            {"data": {"partworld/test": "bbbb"}},
            "The data of partworld/test differ: a: fingerprint aaaa, b: fingerprint bbbb.",
        ),
    ],
)
def test_settings_that_differ_are_named(about: dict[str, Any], sentence: str) -> None:
    assert compare({"a": evaluation(), "b": evaluation(**about)}).warnings == (sentence,)


def test_questions_that_were_asked_in_other_words_are_counted() -> None:
    whole = evaluation()
    reworded = replace(whole, items=(replace(whole.items[0], question="the tail"), *whole.items[1:]))
    assert compare({"a": whole, "b": reworded}).warnings == ("1 items were asked with different texts.",)


def test_a_score_that_one_of_both_has_not_has_no_difference() -> None:
    whole = evaluation()
    coarse = replace(whole, items=tuple(replace(one, coarse_overlap=one.overlap) for one in whole.items))
    comparison = compare({"a": coarse, "b": whole})
    assert comparison.values["coarse_giou"] == {"a": comparison.values["giou"]["a"], "b": None}
    assert comparison.differences["coarse_giou"]["b"] is None
    assert comparison.differences["n_acc"]["b"] is None


def test_a_comparison_is_plain_json() -> None:
    comparison = compare({"a": evaluation(), "b": evaluation(bonus=1)})
    tree = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert tree["values"]["giou"]["a"] == comparison.values["giou"]["a"]
    assert tree["differences"]["giou"]["b"]["interval"]["low"] == difference(comparison, "b").interval.low  # type: ignore[union-attr]
    assert tree["differences"]["n_acc"]["b"] is None


def few(sizes: Sequence[int], images: Sequence[str] | None = None) -> Evaluation:
    names = images or [f"{n}.png" for n in range(len(sizes))]
    return Evaluation(
        tuple(item(f"{n}.0.0", names[n], square(size), square(14)) for n, size in enumerate(sizes)), ABOUT
    )


def test_the_largest_gains_and_losses_are_chosen_and_the_rest_at_random() -> None:
    chosen = choose_items({"a": few([10] * 20), "b": few([12, 14, 13, 10, 8, 5, 9, *[10] * 13])}, count=6)
    assert [(choice.why, choice.items[0].id.split("/")[-1]) for choice in chosen[:4]] == [
        ("largest gain", "1.0.0"),
        ("largest gain", "2.0.0"),
        ("largest loss", "5.0.0"),
        ("largest loss", "4.0.0"),
    ]
    assert [choice.why for choice in chosen[4:]] == ["random", "random"]
    assert len({choice.items[0].id for choice in chosen}) == 6
    assert all(choice.items[0].id == choice.items[1].id for choice in chosen)


def test_with_several_the_one_that_differs_most_decides() -> None:
    chosen = choose_items({"a": few([10] * 4), "b": few([10, 11, 10, 10]), "c": few([10, 10, 14, 3])}, count=3)
    assert [choice.items[0].id[-5:] for choice in chosen[:2]] == ["2.0.0", "3.0.0"]


def test_what_does_not_differ_is_chosen_at_random_and_the_seed_decides() -> None:
    same = {"a": few([10] * 30), "b": few([10] * 30)}
    one, again, other = (choose_items(same, 5, seed) for seed in (0, 0, 1))
    assert {choice.why for choice in one} == {"random"}
    assert one == again
    assert one != other


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (2, 2), (3, 3), (50, 4)])
def test_as_many_are_chosen_as_asked_for_or_as_there_are(count: int, expected: int) -> None:
    assert len(choose_items({"a": few([10, 9, 8, 3]), "b": few([9, 10, 11, 3])}, count)) == expected


def picture(_: str) -> RgbImage:
    return noise_image(SIDE, SIDE)


def cells(sheet: RgbImage, columns: int) -> list[RgbImage]:
    """The columns of a sheet, without the room between them."""
    return [sheet[:, GAP + n * (CELL + GAP) : (n + 1) * (CELL + GAP)] for n in range(columns)]


def test_a_sheet_is_as_wide_as_its_columns_and_grows_by_rows() -> None:
    both = {"a": few([10, 9, 8]), "b": few([9, 10, 11])}
    one, three = render_sheet(both, picture, 1), render_sheet(both, picture, 3)
    assert one.shape[1] == three.shape[1] == 4 * (CELL + GAP) + GAP
    assert three.shape[0] - one.shape[0] > 2 * CELL
    assert render_sheet(both | {"c": few([3, 3, 3])}, picture, 1).shape[1] == 5 * (CELL + GAP) + GAP
    assert one.dtype == np.uint8


def test_a_sheet_differs_in_the_columns_of_masks_that_differ_and_nowhere_else() -> None:
    one = render_sheet({"a": few([10]), "b": few([10])}, picture, 1)
    other = render_sheet({"a": few([10]), "b": few([9])}, picture, 1)
    same = [np.array_equal(*pair) for pair in zip(cells(one, 4), cells(other, 4), strict=True)]
    assert same[:2] == [True, True]
    assert not same[3]
    shown = slice(-CELL // 2, None)
    assert not np.array_equal(cells(one, 4)[0][shown], cells(one, 4)[1][shown])


def test_two_that_answer_alike_look_alike_below_their_heads() -> None:
    sheet = render_sheet({"a": few([10]), "b": few([10])}, picture, 1)
    image, truth, a, b = cells(sheet, 4)
    middle = slice(-CELL, -CELL // 4)
    assert np.array_equal(a[middle], b[middle])
    assert not np.array_equal(truth[middle], a[middle])
    assert not np.array_equal(image[middle], truth[middle])


@pytest.mark.parametrize("shown", [None, noise_image(SIDE + 1, SIDE)], ids=["gone", "of another size"])
def test_an_image_that_is_gone_leaves_a_grey_cell_with_a_note(shown: RgbImage | None) -> None:
    both = {"a": few([10]), "b": few([9])}
    there, gone = render_sheet(both, picture, 1), render_sheet(both, lambda _: shown, 1)
    image = cells(gone, 4)[0]
    grey = image[-CELL : -CELL // 2]
    assert (grey == grey[0, 0]).all()
    below, was_below = image[-24:], cells(there, 4)[0][-24:]
    assert (was_below == was_below[0, 0]).all()
    assert below.max() > 150
    masks = cells(gone, 4)
    assert not np.array_equal(masks[1][-CELL:], masks[2][-CELL:])


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 500), (500, 3), (700, 900)])
def test_any_size_and_any_text_fit_into_their_cells(size_hw: tuple[int, int]) -> None:
    target = np.ones(size_hw, dtype=bool)
    odd = replace(item("0.0.0", "x", target, target), question="\u4e2d\x00 Où – " + "W" * 999, category="")
    empty = replace(odd, mask=encode_rle(target & False), overlap=measure_overlap(target & False, target))
    both = {"a" * 300: Evaluation((odd,), {}), "": Evaluation((empty,), {})}
    sheet = render_sheet(both, lambda _: noise_image(*size_hw), 1)
    assert sheet.shape[1] == 4 * (CELL + GAP) + GAP
    assert (sheet[:, -GAP:] == sheet[0, 0]).all()


def test_the_same_again_is_the_same_sheet() -> None:
    both = {"a": few([10, 9, 8, 7]), "b": few([9, 10, 11, 7])}
    assert np.array_equal(render_sheet(both, picture, 3, seed=2), render_sheet(both, picture, 3, seed=2))
