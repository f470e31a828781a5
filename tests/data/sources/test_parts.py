"""A part data set becomes records: one region for each category of an image, small ones left out and counted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cores_core.data.questions.bank import load_bank
from cores_core.data.sources.parts import QUERIES, read_parts
from cores_core.data.sources.reading import Rejections
from cores_core.data.store import Record
from cores_core.errors import DataError
from cores_core.masks import decode_rle, encode_rle
from cores_core.sample import BoolMask

NAMES = {0: "Fish Tail", 1: "Car Side Mirror", 2: "Fish"}
LEFT, RIGHT, DOT = (np.zeros((20, 30), dtype=bool) for _ in range(3))
LEFT[:, :10] = True
RIGHT[:, 20:] = True
DOT[3, 4:6] = True  # 2 of 600 pixels


def test_instances_of_a_category_in_one_image_are_one_region(tmp_path: Path) -> None:
    _write(tmp_path, parts=[(1, 0, LEFT), (1, 0, RIGHT), (1, 1, RIGHT)], whole=[(1, 2, LEFT | RIGHT)])
    (record,), _ = _read(tmp_path)
    assert [(region.category, region.kind) for region in record.regions] == [
        ("Fish Tail", "part"),
        ("Car Side Mirror", "part"),
        ("Fish", "object"),
    ]
    assert np.array_equal(decode_rle(record.regions[0].mask), LEFT | RIGHT)
    assert record.regions[0].source == "1,2"
    assert (record.image, record.size_hw) == ("parts/val/n1/1.JPEG", (20, 30))


def test_queries_come_from_the_bank_of_the_split(tmp_path: Path) -> None:
    _write(tmp_path, parts=[(1, 1, RIGHT)], whole=[])
    _write(tmp_path, parts=[(1, 1, RIGHT)], whole=[], split="train")
    entry = load_bank()["car"]
    for split in ("val", "train"):
        (record,), _ = _read(tmp_path, split)
        queries = record.regions[0].queries
        assert [query.is_sentence for query in queries] == [True] * QUERIES[split][0] + [False] * QUERIES[split][1]
        wordings = entry.parts["side mirror"].questions[split]
        rendered = {text.replace("{object}", name) for text in wordings for name in entry.names}
        assert {query.text for query in queries if query.is_sentence} <= rendered


def test_what_is_too_small_is_left_out_and_counted(tmp_path: Path) -> None:
    _write(tmp_path, parts=[(1, 0, DOT), (1, 1, RIGHT), (2, 0, DOT)], whole=[])
    records, rejected = _read(tmp_path)
    assert [[region.category for region in record.regions] for record in records] == [["Car Side Mirror"]]
    assert rejected == {"part smaller than 0.4% of its image": 2, "image without a region": 1}


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    _write(tmp_path, parts=[(1, 0, LEFT), (2, 1, RIGHT)], whole=[(1, 2, LEFT)])
    assert _read(tmp_path) == _read(tmp_path)


def test_a_missing_annotation_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"val\.json"):
        _read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"categories": [], "annotations": [{"id": 1}], "images": []}'])
def test_a_file_of_another_form_is_named(tmp_path: Path, text: str) -> None:
    _write(tmp_path, parts=[], whole=[])
    (tmp_path / "parts/val.json").write_text(text)
    with pytest.raises(DataError, match=r"val\.json"):
        _read(tmp_path)


def _read(root: Path, split: Any = "val") -> tuple[list[Record], dict[str, int]]:
    rejected = Rejections()
    return list(read_parts(root / "parts", root, split, rejected)), rejected.counts


def _write(
    root: Path,
    parts: Sequence[tuple[int, int, BoolMask]],
    whole: Sequence[tuple[int, int, BoolMask]],
    split: str = "val",
) -> None:
    """Two images, with (image id, category id, mask) annotations."""
    (root / "parts").mkdir(exist_ok=True)
    for name, annotations in ((f"{split}.json", parts), (f"{split}_whole.json", whole)):
        tree = {
            "images": [{"id": i, "file_name": f"n{i}/{i}.JPEG", "height": 20, "width": 30} for i in (1, 2)],
            "categories": [{"id": number, "name": name} for number, name in NAMES.items()],
            "annotations": [
                {"id": number, "image_id": image, "category_id": category, "segmentation": encode_rle(mask)}
                for number, (image, category, mask) in enumerate(annotations, start=1)
            ],
        }
        (root / "parts" / name).write_text(json.dumps(tree))
