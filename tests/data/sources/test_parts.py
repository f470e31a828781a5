"""A part data set becomes records: one region for each category of an image, small ones left out and counted."""

import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import damage_json
from helpers import noise_image
from PIL import ExifTags, Image
from shares import read_whole

from cores_core.data.questions.bank import load_bank
from cores_core.data.sources.parts import QUERIES, read_parts
from cores_core.data.sources.vlparts import read_paco, read_pascal_part
from cores_core.data.store import Record, save_store
from cores_core.errors import DataError
from cores_core.masks import decode_rle, encode_rle
from cores_core.sample import BoolMask

NAMES = {0: "Fish Tail", 1: "Car Side Mirror", 2: "Fish"}
LEFT, RIGHT, DOT = (np.zeros((20, 30), dtype=bool) for _ in range(3))
LEFT[:, :10] = True
RIGHT[:, 20:] = True
DOT[3, 4:6] = True  # 2 of 600 pixels
NONE = np.zeros((20, 30), dtype=bool)
SQUARE = [0, 0, 10, 0, 10, 20, 0, 20]  # the pixels of LEFT
JUNK = (
    None,
    True,
    -1,
    0,
    1,
    2,
    10**30,
    1e308,
    0.5,
    "",
    "a",
    "\0",
    "../x",
    "/",
    "Car Wing",
    [],
    [[]],
    [1, 2],
    {},
    {"size": 1},
)


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
    records, rejected = _read(tmp_path, smallest=0.004)
    assert [[region.category for region in record.regions] for record in records] == [["Car Side Mirror"]]
    assert len(_read(tmp_path)[0][0].regions) == 2
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


def test_a_file_name_without_a_folder_begins_with_its_synset(tmp_path: Path) -> None:
    _write(tmp_path, parts=[(1, 1, RIGHT)], whole=[])
    _save_image(tmp_path / "parts/val/n02101006/n02101006_134.JPEG")
    _change(tmp_path, lambda tree: tree["images"][0].update(file_name="n02101006_134.JPEG"))
    (record,), _ = _read(tmp_path)
    assert record.image == "parts/val/n02101006/n02101006_134.JPEG"


def test_without_whole_objects_there_are_the_parts(tmp_path: Path) -> None:
    _write(tmp_path, parts=[(1, 0, LEFT)], whole=[(1, 2, LEFT)])
    (tmp_path / "parts/val_whole.json").unlink()
    (record,), rejected = _read(tmp_path)
    assert [region.category for region in record.regions] == ["Fish Tail"]
    assert rejected == {"image without a region": 1}


def test_whole_objects_are_found_by_file_name_for_their_ids_may_differ(tmp_path: Path) -> None:
    _write(tmp_path, parts=[(1, 0, LEFT), (2, 0, RIGHT)], whole=[(1, 2, LEFT), (2, 2, RIGHT)])
    _change(tmp_path, lambda tree: tree["images"][0].update(file_name="n2/2.JPEG"), "val_whole.json")
    _change(tmp_path, lambda tree: tree["images"][1].update(file_name="n3/3.JPEG"), "val_whole.json")
    (first, second), rejected = _read(tmp_path)
    assert [region.kind for region in first.regions] == ["part"]
    assert np.array_equal(decode_rle(second.regions[1].mask), LEFT)
    assert rejected == {"objects of an image without parts": 1}


def test_all_polygons_count_but_those_of_one_or_two_points(tmp_path: Path) -> None:
    _write(tmp_path, parts=[(1, 0, NONE)], whole=[])
    moved = [20 + number if index % 2 == 0 else number for index, number in enumerate(SQUARE)]
    _change(tmp_path, lambda tree: tree["annotations"][0].update(segmentation=[[5, 5], SQUARE, [1, 2, 3, 4], moved]))
    (record,), _ = _read(tmp_path)
    assert np.array_equal(decode_rle(record.regions[0].mask), LEFT | RIGHT)


def test_all_real_categories_are_in_the_bank(tmp_path: Path, shared: Path) -> None:
    categories = json.loads((shared / "samples/parts/category_lists.json").read_text())["partimagenet"]
    _write(tmp_path, parts=[(1, entry["id"], LEFT) for entry in categories], whole=[])
    _change(tmp_path, lambda tree: tree.update(categories=categories))
    (record,), _ = _read(tmp_path)
    assert [region.category for region in record.regions] == [entry["name"] for entry in categories]
    assert all(len(region.queries) == sum(QUERIES["val"]) for region in record.regions)


@pytest.mark.parametrize("name", ["Car Mirror", "Boat Side Mirror", "Carbody", "Camel Head", "Mirror"])
def test_a_category_that_the_bank_does_not_know_is_named(tmp_path: Path, name: str) -> None:
    _write(tmp_path, parts=[(1, 0, LEFT), (1, 1, RIGHT)], whole=[])
    _change(tmp_path, lambda tree: tree["categories"][0].update(name=name))
    (record,), rejected = _read(tmp_path)
    assert [region.category for region in record.regions] == ["Car Side Mirror"]
    assert rejected[f"the question bank has no entry for `{name}`"] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"category_id": 77}, "unknown category id"),
        ({"image_id": 77}, "unknown image id"),
        ({"id": 1}, "duplicate id"),
        ({"id": None}, "a value is missing or of another type"),
        ({"image_id": [1]}, "a value is missing or of another type"),
        ({"category_id": -1}, "a number is negative"),
        ({"segmentation": None}, "not a segmentation"),
        ({"segmentation": [[1, 2], [1, 2, 3, 4]]}, "it has no polygon of three points"),
        ({"segmentation": [[0, 0, 10**9, 0, 9, 9]]}, "a polygon lies far outside its image"),
        ({"segmentation": encode_rle(RIGHT.T)}, "mask of another size than its image"),
        ({"segmentation": {"size": [20, 30], "counts": None}}, "not a segmentation"),
        ({"segmentation": {"size": [20, 30], "counts": [1, 2]}}, "the runs of its mask do not fill its image"),
        ({"segmentation": encode_rle(NONE)}, "empty mask"),
    ],
)
def test_one_bad_annotation_is_left_out_and_the_rest_stays(tmp_path: Path, change: Any, reason: str) -> None:
    _write(tmp_path, parts=[(1, 0, LEFT), (1, 0, RIGHT), (2, 0, LEFT)], whole=[])
    _change(tmp_path, lambda tree: tree["annotations"][1].update(change))
    records, rejected = _read(tmp_path)
    assert [region.source for record in records for region in record.regions] == ["1", "3"]
    assert rejected == {reason: 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"file_name": "n1/lost.JPEG"}, "image is missing"),
        ({"file_name": "n1"}, "image is missing"),
        ({"file_name": "n1/text.JPEG"}, "image cannot be read"),
        ({"file_name": "n1/sideways.JPEG"}, "image of another size than its annotations"),
        ({"height": 21}, "image of another size than its annotations"),
    ],
)
def test_an_image_that_cannot_be_used_is_left_out(tmp_path: Path, change: Any, reason: str) -> None:
    _write(tmp_path, parts=[(1, 0, LEFT), (2, 0, LEFT)], whole=[])
    (tmp_path / "parts/val/n1/text.JPEG").write_text("no image")
    _save_image(tmp_path / "parts/val/n1/sideways.JPEG", orientation=6)
    _change(tmp_path, lambda tree: tree["images"][0].update(change))
    (record,), rejected = _read(tmp_path)
    assert record.image == "parts/val/n2/2.JPEG"
    assert rejected == {reason: 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"file_name": "../../val/n1/1.JPEG"}, "image outside of its folder"),
        ({"file_name": "/n1/1.JPEG"}, "image outside of its folder"),
        ({"file_name": "n2/2.JPEG"}, "duplicate file name"),
        ({"id": 2}, "duplicate id"),
        ({"id": "1"}, "a value is missing or of another type"),
        ({"width": 30.5}, "a value is missing or of another type"),
    ],
)
def test_an_image_of_another_form_takes_its_annotations_along(tmp_path: Path, change: Any, reason: str) -> None:
    _write(tmp_path, parts=[(1, 0, LEFT), (2, 0, LEFT)], whole=[])
    _change(tmp_path, lambda tree: tree["images"].reverse())
    _change(tmp_path, lambda tree: tree["images"][1].update(change))
    (record,), rejected = _read(tmp_path)
    assert record.image == "parts/val/n2/2.JPEG"
    assert rejected == {reason: 1, "unknown image id": 1}


def test_a_sideways_image_has_its_upright_size(tmp_path: Path) -> None:
    _write(tmp_path, parts=[(1, 0, LEFT.T)], whole=[])
    _save_image(tmp_path / "parts/val/n1/1.JPEG", orientation=6)
    _change(tmp_path, lambda tree: tree["images"][0].update(height=30, width=20))
    (record,), _ = _read(tmp_path)
    assert record.size_hw == (30, 20)


@pytest.mark.parametrize("change", [{"id": 0}, {"name": " "}, {"name": "\ud800"}, {"name": None}])
def test_a_bad_category_takes_its_annotations_along(tmp_path: Path, change: Any) -> None:
    _write(tmp_path, parts=[(1, 0, LEFT), (1, 1, RIGHT)], whole=[])
    _change(tmp_path, lambda tree: tree["categories"][1].update(change))
    (record,), rejected = _read(tmp_path)
    assert [region.category for region in record.regions] == ["Fish Tail"]
    assert rejected["unknown category id"] == 1


@pytest.mark.parametrize(
    ("reader", "folder", "file", "images"),
    [
        (read_parts, "parts", "val.json", "parts/val"),
        (read_parts, "parts", "val_whole.json", "parts/val"),
        (read_paco, "vlpart/paco", "annotations/paco_lvis_v1_val.json", "coco"),
        (read_pascal_part, "vlpart/pascal_part", "val.json", "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages"),
    ],
)
def test_damaged_files_never_crash(tmp_path: Path, reader: Any, folder: str, file: str, images: str) -> None:
    rng = random.Random(file)
    _write(tmp_path, parts=[(1, 0, LEFT), (1, 1, RIGHT), (2, 0, LEFT)], whole=[(1, 2, LEFT)])
    _change(tmp_path, lambda tree: tree["annotations"][0].update(segmentation=[[5, 5], SQUARE]))
    _change(tmp_path, lambda tree: tree["annotations"][1].update(segmentation={"size": [20, 30], "counts": [400, 200]}))
    for name in ("n1/1.JPEG", "n2/2.JPEG"):
        _save_image(tmp_path / images / name)
    source = tmp_path / "parts" / ("val_whole.json" if "whole" in file else "val.json")
    good, path = source.read_text(), tmp_path / folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    outcomes = {"records": 0, "error": 0}
    for _ in range(300):
        path.write_text(damage_json(good, rng, JUNK))
        try:
            records, _ = read_whole(partial(reader, tmp_path / folder, tmp_path, "val"))
            save_store(records, tmp_path / "val.arrow")
            outcomes["records"] += bool(records)
        except DataError:
            outcomes["error"] += 1
            continue
        assert {tuple(region.mask["size"]) for record in records for region in record.regions} <= {(20, 30)}
    assert min(outcomes.values()) > 30


def _read(root: Path, split: Any = "val", smallest: float = 0.0) -> tuple[list[Record], dict[str, int]]:
    folder = root / "parts"
    records, left_out = read_whole(lambda told, share: read_parts(folder, root, split, told, share, smallest))
    return records, dict(left_out.counts)


def _change(root: Path, change: Callable[[Any], Any], name: str = "val.json") -> None:
    path = root / "parts" / name
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def _save_image(path: Path, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(noise_image(20, 30)).save(path, format="JPEG", exif=exif)


def _write(
    root: Path,
    parts: Sequence[tuple[int, int, BoolMask]],
    whole: Sequence[tuple[int, int, BoolMask]],
    split: str = "val",
) -> None:
    """Two images, with (image id, category id, mask) annotations."""
    for i in (1, 2):
        _save_image(root / f"parts/{split}/n{i}/{i}.JPEG")
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
