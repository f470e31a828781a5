"""Intervals hold what they promise, draws are paired, and odd cases have a rule."""

import numpy as np
import pytest

from cores_core.statistics import Floats, Ratio, bootstrap, interval_of, mean_of

DATA_SETS, DATA_SETS_AT_ONCE, MOST_ITEMS = 1000, 25, 4


@pytest.mark.parametrize("images", [50, 100, 200])
def test_the_interval_covers_the_truth_in_about_95_of_100_data_sets(images: int) -> None:
    rng = np.random.default_rng(0)
    of_each = [str(image) for image in range(images) for _ in range(MOST_ITEMS)]
    expected = {name: ratio.value for name, ratio in draw_data_set(rng, 1_000_000).items()}
    covered = {"giou": 0, "ciou": 0}
    for batch in range(DATA_SETS // DATA_SETS_AT_ONCE):
        data_sets = [draw_data_set(rng, images) for _ in range(DATA_SETS_AT_ONCE)]
        ratios = {f"{name} {n}": ratio for n, data_set in enumerate(data_sets) for name, ratio in data_set.items()}
        for key, samples in bootstrap(ratios, of_each, seed=batch).items():
            name, interval = key.split()[0], interval_of(samples, images)
            assert interval is not None
            covered[name] += interval.low <= expected[name] <= interval.high
    assert {name: count for name, count in covered.items() if not 0.93 <= count / DATA_SETS <= 0.97} == {}


def draw_data_set(rng: np.random.Generator, images: int) -> dict[str, Ratio]:
    """gIoU and cIoU of one to four items an image, alike in size and in luck; large targets are somewhat easier."""
    shape = (images, MOST_ITEMS)
    luck, image_luck, image_size = rng.normal(size=shape), rng.normal(size=(images, 1)), rng.normal(size=(images, 1))
    ious = 1 / (1 + np.exp(-0.8 - 1.5 * image_luck - 1.5 * luck))
    unions = np.exp(-3 + 0.8 * image_size + 0.6 * rng.normal(size=shape) + 0.2 * image_luck).clip(max=1)
    asked = rng.random(shape) < [1, 0.6, 0.6, 0.6]
    ious, unions, asked = ious.ravel(), unions.ravel(), asked.ravel()
    return {"giou": mean_of(ious, asked), "ciou": Ratio((ious * unions * asked)[None], (unions * asked)[None])}


def test_items_of_one_image_are_drawn_together() -> None:
    values = np.random.default_rng(0).random(40).repeat(5)
    together = interval_of(bootstrap({"a": mean_of(values)}, [str(n // 5) for n in range(200)])["a"], 40)
    alone = interval_of(bootstrap({"a": mean_of(values)}, [str(n) for n in range(200)])["a"], 200)
    assert together is not None
    assert alone is not None
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(np.sqrt(5), rel=0.1)


def test_all_scores_of_a_draw_come_from_the_same_images() -> None:
    values, images = np.random.default_rng(0).random(30), [str(n // 2) for n in range(30)]
    samples = bootstrap({"a": mean_of(values), "b": mean_of(values + 0.25)}, images, draws=300)
    assert samples["b"] - samples["a"] == pytest.approx(np.full(300, 0.25))
    assert np.ptp(samples["a"]) > 0.1


def test_draws_are_the_same_whatever_else_is_scored_and_others_with_another_seed() -> None:
    a, b, images = mean_of([0.1, 0.5, 0.9]), mean_of([1.0, 0.0, 0.0]), ["x", "y", "z"]
    together, alone = bootstrap({"b": b, "a": a}, images, draws=250), bootstrap({"a": a}, images, draws=250)
    assert np.array_equal(together["a"], alone["a"])
    assert not np.array_equal(alone["a"], bootstrap({"a": a}, images, draws=250, seed=1)["a"])


def test_the_order_of_items_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    over, under = rng.integers(0, 50, (1, 60)), rng.integers(50, 90, (1, 60))
    images = [f"{n % 13}" for n in range(60)]
    order = rng.permutation(60)
    one = bootstrap({"a": Ratio(over.astype(float), under.astype(float))}, images, draws=100)["a"]
    shuffled = Ratio(over[:, order].astype(float), under[:, order].astype(float))
    other = bootstrap({"a": shuffled}, [images[n] for n in order], draws=100)["a"]
    assert np.array_equal(one, other)


def test_a_score_of_rows_is_the_mean_of_those_that_have_items() -> None:
    over = np.array([[1.0, 0.0, 0.0], [0.0, 0.2, 0.6], [0.0, 0.0, 0.0]])
    under = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert Ratio(over, under).value == pytest.approx((1.0 + 0.4) / 2)


def test_a_draw_without_a_category_is_the_mean_of_the_others() -> None:
    over, under = np.array([[1.0, 0.0], [0.0, 0.5]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    samples = bootstrap({"miou": Ratio(over, under)}, ["x", "y"], draws=200)["miou"]
    assert set(samples) == {1.0, 0.5, 0.75}  # twice x, twice y, each once


def test_a_quotient_of_sums_is_no_mean_of_quotients() -> None:
    assert Ratio(np.array([[1.0, 6.0]]), np.array([[2.0, 8.0]])).value == 0.7


def test_nothing_to_score_is_none() -> None:
    nothing = mean_of([0.5, 0.5], counted=np.array([False, False]))
    assert nothing.value is None
    assert interval_of(bootstrap({"a": nothing}, ["x", "y"], draws=20)["a"], 2) is None
    assert mean_of([]).value is None
    assert interval_of(bootstrap({"a": mean_of([])}, [], draws=20)["a"], 0) is None


def test_draws_with_nothing_to_score_are_left_out() -> None:
    rare = mean_of([0.5, 0.9, 0.9], counted=np.array([True, False, False]))
    samples = bootstrap({"a": rare}, ["x", "y", "z"], draws=200)["a"]
    assert 20 < np.isnan(samples).sum() < 100  # (2 / 3)^3 of them
    assert interval_of(samples, 2) is not None
    assert set(samples[~np.isnan(samples)]) == {0.5}


def test_a_single_image_has_an_interval_of_no_width() -> None:
    interval = interval_of(bootstrap({"a": mean_of([0.2, 0.4])}, ["x", "x"], draws=20)["a"], 1)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((0.3, 0.3))


def test_the_interval_leaves_as_much_out_below_as_above() -> None:
    samples: Floats = np.arange(1001) / 1000
    interval = interval_of(np.random.default_rng(0).permutation(samples), images=10**9)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((0.025, 0.975))
