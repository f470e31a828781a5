"""What training sees is a pure function of the seed and the position."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cores_core.config import MixtureConfig
from cores_core.data.mixture import Mixture, SampleOptions, draw_queries, share_out
from cores_core.data.store import Record, Region, Store, save_store, store_path
from cores_core.errors import DataError
from cores_core.images import load_image
from cores_core.masks import decode_rle, encode_rle
from cores_core.prompts import REJECTION, PromptFormat
from cores_core.sample import Query, RgbImage, Sample

PROMPT = PromptFormat()


@pytest.fixture(scope="module")
def store(partworld_root: Path) -> Store:
    return Store(partworld_root, "partworld", "train")


def test_the_same_position_is_always_the_same_sample(store: Store) -> None:
    first, second = _mix(store), _mix(store)
    forwards = [_describe(first[position]) for position in range(14)]
    backwards = [_describe(second[position]) for position in reversed(range(14))]
    assert forwards == backwards[::-1]


def test_a_resumed_run_sees_what_the_uninterrupted_one_would_have_seen(store: Store) -> None:
    whole = [_describe(sample) for sample in map(_mix(store).__getitem__, range(15))]
    assert [_describe(sample) for sample in map(_mix(store).__getitem__, range(8, 15))] == whole[8:]


def test_every_epoch_shows_each_image_once_in_another_order(store: Store) -> None:
    mixture = _mix(store)
    assert mixture.images == len(store) == 6
    epochs = [[mixture[6 * epoch + place].image.tobytes() for place in range(6)] for epoch in range(3)]
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_an_image_is_asked_other_questions_in_another_epoch(store: Store) -> None:
    mixture = _mix(store)
    asked = [
        {sample.image.tobytes(): sample.turns for sample in map(mixture.__getitem__, range(6 * epoch, 6 * epoch + 6))}
        for epoch in range(2)
    ]
    assert sum(asked[0][image] != asked[1][image] for image in asked[0]) >= 5


def test_a_share_of_the_questions_is_about_what_is_not_in_the_image(store: Store) -> None:
    prompt = PromptFormat(rejects=True)
    mixture = Mixture([store], prompt, SampleOptions(queries=6, no_target=0.5), seed=0)
    samples = [mixture[position] for position in range(30)]
    for sample in samples:
        assert [turn.answer for turn in sample.turns] == [
            prompt.answer if turn.segments else REJECTION for turn in sample.turns
        ]
        assert len(sample.masks) == len(sample.categories) == sum(turn.segments for turn in sample.turns)
    turns = [turn for sample in samples for turn in sample.turns]
    assert 0.3 < sum(not turn.segments for turn in turns) / len(turns) < 0.6  # some images find no absent category


def test_without_rejections_such_a_question_has_an_empty_mask(store: Store) -> None:
    mixture = Mixture([store], PROMPT, SampleOptions(queries=6, no_target=0.5, random_flip=True), seed=0)
    empty = shown = 0
    for sample in map(mixture.__getitem__, range(30)):
        assert all(turn.answer == PROMPT.answer and turn.segments for turn in sample.turns)
        (record,) = [r for r in store if _same_pixels(load_image(store.image_path(r)), sample.image)]
        present = {region.category for region in record.regions}
        for mask, category, ignore in zip(sample.masks, sample.categories, sample.ignores, strict=True):
            assert mask.shape == sample.image.shape[:2]
            assert mask.any() == (category in present)
            assert mask.any() or ignore is None
            empty, shown = empty + (not mask.any()), shown + mask.any()
    assert 0.3 < empty / (empty + shown) < 0.6


@pytest.mark.parametrize("rejects", [False, True])
def test_an_expression_without_a_target_is_rejected_by_models_that_reject(tmp_path: Path, rejects: bool) -> None:
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "a.png")
    region = Region("", "object", encode_rle(np.zeros((4, 6), bool)), None, (Query("a dog", False),), "")
    save_store([Record("a.png", (4, 6), (region,))], store_path(tmp_path, "grefcoco", "train"))
    prompt = PromptFormat(rejects=rejects)
    stores = [Store(tmp_path, "grefcoco", "train")]
    (turn,) = Mixture(stores, prompt, SampleOptions(queries=1), seed=0)[0].turns
    assert turn.answer == (REJECTION if rejects else prompt.answer)


def test_another_seed_is_another_stream(store: Store) -> None:
    streams = [[_describe(_mix(store, seed=seed)[position]) for position in range(6)] for seed in (0, 1)]
    assert streams[0] != streams[1]


def test_a_sample_holds_the_masks_and_names_of_what_is_asked(store: Store) -> None:
    sample = _mix(store, queries=50)[0]
    (record,) = [r for r in store if np.array_equal(load_image(store.image_path(r)), sample.image)]
    assert len(sample.turns) == len(sample.masks) == len(sample.ignores) == len(record.regions)
    expected = {region.category: region for region in record.regions}
    assert sorted(sample.categories) == sorted(expected)
    for turn, mask, category in zip(sample.turns, sample.masks, sample.categories, strict=True):
        assert np.array_equal(mask, decode_rle(expected[category].mask))
        assert any(query.text in turn.question for query in expected[category].queries)
        assert turn.answer == PROMPT.answer


def test_samples_hold_annotations_only_on_request(store: Store) -> None:
    assert _mix(store)[0].annotations == ()
    mixture = Mixture([store], PROMPT, SampleOptions(queries=1, with_annotations=True), seed=0)
    sample = mixture[0]
    assert len(sample.turns) == 1
    assert {entry.kind for entry in sample.annotations} == {"part", "object"}
    asked = next(entry for entry in sample.annotations if entry.category == sample.categories[0])
    assert np.array_equal(asked.mask, sample.masks[0])


def test_large_images_are_shrunk_with_their_masks(store: Store) -> None:
    large, small = _mix(store, queries=50)[0], Mixture([store], PROMPT, SampleOptions(50, max_image_size=64), 0)[0]
    assert max(small.image.shape[:2]) == 64
    assert small.categories == large.categories
    for mask, original in zip(small.masks, large.masks, strict=True):
        assert mask.shape == small.image.shape[:2]
        assert mask.mean() == pytest.approx(original.mean(), rel=0.25, abs=0.005)
    same = Mixture([store], PROMPT, SampleOptions(50, max_image_size=10_000), 0)[0]
    assert _describe(same) == _describe(large)


def test_about_half_of_the_images_are_mirrored_with_their_masks(store: Store) -> None:
    plain, mirror = _mix(store, queries=50), Mixture([store], PROMPT, SampleOptions(50, random_flip=True), 0)
    turned = 0
    for position in range(24):
        before, after = plain[position], mirror[position]
        assert before.turns == after.turns
        flipped = not np.array_equal(before.image, after.image)
        turned += flipped
        step = -1 if flipped else 1
        assert np.array_equal(after.image, before.image[:, ::step])
        assert all(np.array_equal(b, a[:, ::step]) for a, b in zip(before.masks, after.masks, strict=True))
    assert 6 <= turned <= 18


def test_images_kept_in_memory_are_the_same_and_need_no_file(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(store.data_root, root)
    mixture = Mixture([Store(root, "partworld", "train")], PROMPT, SampleOptions(2, keep=True), 0)
    first = [_describe(mixture[position]) for position in range(6)]
    shutil.rmtree(root / "partworld")
    assert [_describe(mixture[position]) for position in range(6)] == first
    assert first == [_describe(_mix(store)[position]) for position in range(6)]


def test_fewer_queries_can_be_drawn(store: Store) -> None:
    assert len(_mix(store, queries=3).draw(0, queries=1).turns) == 1


def test_several_stores_are_mixed_evenly(store: Store, partworld_root: Path) -> None:
    other = Store(partworld_root, "partworld", "val")
    mixture = Mixture([store, other], PROMPT, SampleOptions(queries=1), seed=0)
    assert mixture.images == 9
    shown = {mixture[position].image.tobytes() for position in range(9)}
    stored = {load_image(s.image_path(record)).tobytes() for s in (store, other) for record in s}
    assert shown == stored


def test_drawn_regions_differ_and_are_no_more_than_wanted() -> None:
    record = _record(regions=5)
    for count, expected in ((1, 1), (3, 3), (5, 5), (9, 5)):
        drawn = draw_queries(record, count, np.random.default_rng(0))
        assert len({number for number, _ in drawn}) == len(drawn) == expected
        assert all(query in record.regions[number].queries for number, query in drawn)


def test_every_region_and_every_query_gets_its_turn() -> None:
    record, rng = _record(regions=3), np.random.default_rng(0)
    drawn = {(number, query.text) for _ in range(200) for number, query in draw_queries(record, 1, rng)}
    assert drawn == {(number, query.text) for number in range(3) for query in record.regions[number].queries}


def test_no_images_at_all_is_an_error(tmp_path: Path) -> None:
    save_store([], store_path(tmp_path, "nothing", "train"))
    with pytest.raises(DataError, match="empty"):
        Mixture([Store(tmp_path, "nothing", "train")], PROMPT, SampleOptions(queries=1), seed=0)


def test_stores_are_drawn_from_as_their_weights_say(store: Store, partworld_root: Path) -> None:
    stores = [store, Store(partworld_root, "partworld", "val")]
    mixtures = [Mixture(stores, PROMPT, SampleOptions(queries=1, keep=True), 0, weights=[3, 1]) for _ in range(2)]
    known = {load_image(store.image_path(record)).tobytes() for record in store}
    first = [mixtures[0][position].image.tobytes() in known for position in range(200)]
    backwards = [mixtures[1][position].image.tobytes() in known for position in reversed(range(200))]
    assert first == backwards[::-1]
    assert 130 <= sum(first) <= 170  # 150 of 200


def test_an_empty_store_with_a_weight_is_refused(store: Store, tmp_path: Path) -> None:
    save_store([], store_path(tmp_path, "nothing", "train"))
    with pytest.raises(DataError, match="empty"):
        Mixture([store, Store(tmp_path, "nothing", "train")], PROMPT, SampleOptions(queries=1), 0, weights=[1, 1])


@pytest.mark.parametrize(
    ("groups", "weights"),
    [
        (["referring"], None),
        (["semantic", "parts", "referring"], [4.5, 4.5, 3.0]),
        (["reasoning", "referring", "reasoning"], [0.5, 3.0, 0.5]),
    ],
)
def test_sets_share_the_weight_of_their_group(groups: list[str], weights: list[float] | None) -> None:
    assert share_out(groups, MixtureConfig()) == weights
    assert share_out(groups, MixtureConfig(even=True)) is None


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="weight"):
        share_out(["custom", "rendered"], MixtureConfig(custom=0, rendered=0))


def _mix(store: Store, seed: int = 0, queries: int = 2) -> Mixture:
    return Mixture([store], PROMPT, SampleOptions(queries), seed)


def _describe(sample: Sample) -> tuple[object, ...]:
    return sample.image.tobytes(), sample.turns, tuple(mask.tobytes() for mask in sample.masks)


def _record(regions: int) -> Record:
    rle = encode_rle(np.ones((2, 2), dtype=bool))
    queries = tuple(Query(f"question {number}?") for number in range(3))
    return Record(
        image="a.jpg",
        size_hw=(2, 2),
        regions=tuple(Region(f"Thing {number}", "part", rle, None, queries, "") for number in range(regions)),
    )


def _same_pixels(image: RgbImage, shown: RgbImage) -> bool:
    """Whether an image is shown, mirrored or not."""
    return any(np.array_equal(image, other) for other in (shown, shown[:, ::-1]))
