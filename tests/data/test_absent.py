"""Questions about what an image does not show."""

from pathlib import Path

import numpy as np
import pytest

from cores_core.data.absent import draw_absent
from cores_core.data.store import Record, Region, Store, save_store, store_path
from cores_core.masks import encode_rle
from cores_core.sample import Query

MASK = encode_rle(np.ones((4, 6), dtype=bool))


def test_what_is_drawn_is_not_in_the_image(partworld_root: Path) -> None:
    store = Store(partworld_root, "partworld", "train")
    for record in store:
        own = {region.category for region in record.regions}
        for seed in range(20):
            absent = draw_absent(store, record, np.random.default_rng(seed), ("part",))
            assert absent is None or (absent.kind == "part" and absent.category not in own)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([("fish", "Which one swims?")], None),
        ([("bird", "Which one flies?")], "Which one flies?"),
        ([("", "Which one swims?")], None),
        ([("", "Which one sinks?")], "Which one sinks?"),
    ],
    ids=["same category", "other category", "same text without category", "other text without category"],
)
def test_categories_decide_and_texts_where_there_are_none(
    tmp_path: Path, others: list[tuple[str, str]], expected: str | None
) -> None:
    store = _save(tmp_path, [[("fish", "Which one swims?")], others])
    found = [draw_absent(store, store[0], np.random.default_rng(seed)) for seed in range(20)]
    assert {None if region is None else region.queries[0].text for region in found} - {None} == {expected} - {None}


def _save(root: Path, images: list[list[tuple[str, str]]]) -> Store:
    records = [
        Record(
            image=f"{number}.png",
            size_hw=(4, 6),
            regions=tuple(
                Region(mask=MASK, ignore=None, category=category, kind="object", queries=(Query(text),), source="")
                for category, text in regions
            ),
        )
        for number, regions in enumerate(images)
    ]
    save_store(records, store_path(root, "mine", "train"))
    return Store(root, "mine", "train")
