"""ReasonSeg: an image with a LabelMe file becomes a record with one region; answers in words are read apart."""

import json
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import damage_json
from helpers import mask, noise_image
from PIL import ExifTags, Image
from shares import read_whole

from cores_core.data.sources.reading import Rejections
from cores_core.data.sources.reasonseg import read_explanations, read_reasonseg
from cores_core.data.store import Record, save_store
from cores_core.errors import DataError
from cores_core.masks import decode_rle, rle_area
from cores_core.sample import Query

TARGET = [[1, 0], [2, 0], [2.9, 2.9], [1, 2]]
DRAWN = mask(".##..", ".##..", ".##..", ".....")
JUNK: tuple[Any, ...] = (None, True, -1, 10**30, 1e308, 0.5, "", " ", "\0", "\ud800", "ignore", [], [[]], [1, 2], {})


def test_an_image_is_a_record_with_one_region(tmp_path: Path) -> None:
    _write(tmp_path, "a", text=["What floats?", "the boat", "What floats?"])
    (record,), rejected = _read(tmp_path)
    assert (record.image, record.size_hw) == ("reason_seg/ReasonSeg/val/a.jpg", (4, 5))
    (region,) = record.regions
    assert (region.category, region.kind, region.ignore, region.source) == ("", "object", None, "val/a.json")
    assert region.queries == (Query("What floats?"), Query("the boat"))
    assert np.array_equal(decode_rle(region.mask), DRAWN)
    assert not rejected


def test_the_file_says_whether_its_texts_are_sentences(tmp_path: Path) -> None:
    _write(tmp_path, "a", text=[" the boat "], is_sentence=False)
    (record,), _ = _read(tmp_path)
    assert record.regions[0].queries == (Query("the boat", is_sentence=False),)


def test_ignored_pixels_are_kept_apart(tmp_path: Path) -> None:
    _write(tmp_path, "a", shapes=[_shape("target", TARGET), _shape("ignore", [[1, 1]])])
    (record,), _ = _read(tmp_path)
    (region,) = record.regions
    assert np.array_equal(decode_rle(region.mask), mask(".##..", "..#..", ".##..", "....."))
    assert region.ignore is not None
    assert np.array_equal(decode_rle(region.ignore), mask(".....", ".#...", ".....", "....."))


@pytest.mark.parametrize("shapes", [[], [{"label": "flag", "points": [[0, 0], [4, 3]]}]])
def test_an_image_without_a_target_is_kept(tmp_path: Path, shapes: list[Any]) -> None:
    _write(tmp_path, "a", shapes=shapes)
    (record,), rejected = _read(tmp_path)
    assert rle_area(record.regions[0].mask) == 0
    assert record.regions[0].queries
    assert not rejected


def test_names_may_hold_dots_and_come_in_their_order(tmp_path: Path) -> None:
    for name in ("b.rf.2", "b.rf.1", "a"):
        _write(tmp_path, name, text=[name])
    records, rejected = _read(tmp_path)
    assert [record.regions[0].queries[0].text for record in records] == ["a", "b.rf.1", "b.rf.2"]
    assert [Path(record.image).name for record in records] == ["a.jpg", "b.rf.1.jpg", "b.rf.2.jpg"]
    assert not rejected


def test_the_first_files_are_in_cp1252(tmp_path: Path) -> None:
    path = _write(tmp_path, "a", text=["the café"])
    path.write_bytes(path.read_text(encoding="utf-8").encode("cp1252"))
    (record,), _ = _read(tmp_path)
    assert record.regions[0].queries[0].text == "the café"


def test_shapes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    path = _write(tmp_path, "a")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(noise_image(5, 4)).save(path.with_suffix(".jpg"), exif=exif)
    (record,), _ = _read(tmp_path)
    assert record.size_hw == (4, 5)
    assert np.array_equal(decode_rle(record.regions[0].mask), DRAWN)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shapes": None}, "shapes are not a list"),
        ({"shapes": [{"label": "target", "points": TARGET}, {"label": "target"}]}, "shape without a label or points"),
        ({"shapes": [{"label": "target", "points": [[1, 2], [3]]}]}, "points are not pairs of numbers"),
        ({"shapes": [{"label": "target", "points": [[1e300, 2]]}]}, "a point lies far outside its image"),
        ({"text": "What?"}, "a value is missing or of another type"),
        ({"text": ["What?", 1]}, "a value is missing or of another type"),
        ({"is_sentence": 1}, "a value is missing or of another type"),
        ({"is_sentence": None}, "a value is missing or of another type"),
        ({"text": []}, "annotation without a text"),
        ({"text": ["", " \n"]}, "annotation without a text"),
        ({"text": ["\ud800"]}, "a text is not Unicode"),
    ],
)
def test_one_bad_annotation_is_left_out_and_the_rest_stays(tmp_path: Path, change: Any, reason: str) -> None:
    _write(tmp_path, "a", **change)
    _write(tmp_path, "b")
    (record,), rejected = _read(tmp_path)
    assert record.image.endswith("/b.jpg")
    assert rejected == {reason: 1}


def test_an_empty_text_among_others_is_left_out(tmp_path: Path) -> None:
    _write(tmp_path, "a", text=["", "What?"])
    (record,), rejected = _read(tmp_path)
    assert record.regions[0].queries == (Query("What?"),)
    assert rejected == {"empty text": 1}


def test_files_that_miss_their_fellow_are_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d", "e"):
        _write(tmp_path, name)
    folder = tmp_path / "reason_seg/ReasonSeg/val"
    (folder / "a.jpg").unlink()
    (folder / "b.json").unlink()
    (folder / "c.jpg").write_text("no image")
    (folder / "d.json").write_text("{")
    shutil.copy(folder / "e.jpg", folder / "e.png")
    rejected = Rejections()
    (record,) = read_reasonseg(tmp_path / "reason_seg/ReasonSeg", tmp_path, "val", rejected)
    assert record.image.endswith("/e.jpg")
    assert dict(rejected.items) == {
        "val/a.json": "image is missing",
        "val/b.jpg": "annotation is missing",
        "val/c.json": "image cannot be read",
        "val/d.json": "annotation cannot be read",
        "val/e.png": "another image has this name",
    }


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder.*val"):
        _read(tmp_path)
    (tmp_path / "reason_seg/ReasonSeg/val").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no annotation.*val"):
        _read(tmp_path)


def test_the_real_files_are_read(tmp_path: Path, shared: Path) -> None:
    samples = shared / "samples/ReasonSeg"
    published = json.loads((samples / "golden_masks.json").read_text())["opencv-4.8.1.78"]
    for name, expected in published.items():
        annotation = samples / name
        if annotation.exists():
            path = tmp_path / "reason_seg/ReasonSeg" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(annotation, path)
            if annotation.with_suffix(".jpg").exists():
                shutil.copy(annotation.with_suffix(".jpg"), path.with_suffix(".jpg"))
            else:
                Image.new("L", (expected["w"], expected["h"])).save(path.with_suffix(".jpg"))
    for split in ("train", "val", "test"):
        records, rejected = _read(tmp_path, split)
        assert not rejected
        assert len(records) == len(list((samples / split).glob("*.json")))
        for record in records:
            (region,) = record.regions
            expected = published[region.source]
            assert record.size_hw == (expected["h"], expected["w"])
            assert rle_area(region.mask) == expected["target"]
            assert (rle_area(region.ignore) if region.ignore else 0) == expected["ignore"]
            given = json.loads((samples / region.source).read_text())["text"]
            assert [query.text for query in region.queries] == list(dict.fromkeys(given))
            assert {query.is_sentence for query in region.queries} == {expected["is_sentence"]}


def test_the_real_explanations_are_read(shared: Path) -> None:
    explanations = read_explanations(shared / "samples/ReasonSeg", rejected := Rejections())
    assert not rejected.items
    assert len(explanations) == 24
    ((query, answer),) = explanations["10619389843_339d3c9434_o.jpg"]
    assert query.startswith("When eating a bowl of soup, what kitchen tool")
    assert answer.startswith("When eating a bowl of soup, a spoon")


def test_an_image_may_have_several_explanations_and_bad_ones_are_left_out(tmp_path: Path) -> None:
    good = [{"query": f"{i}?", "outputs": f"{i}.", "image": "a.jpg", "json": "a.json"} for i in (1, 2, 1)]
    bad = [None, {"query": "?", "outputs": ".", "image": 3}, {"query": " ", "outputs": ".", "image": "a.jpg"}]
    _write_explanations(tmp_path, [*good, *bad])
    rejected = Rejections()
    assert read_explanations(tmp_path, rejected) == {"a.jpg": (("1?", "1."), ("2?", "2."))}
    assert rejected.counts == {"a value is missing or of another type": 2, "empty text": 1}
    assert read_explanations(tmp_path) == read_explanations(tmp_path, rejected)


@pytest.mark.parametrize("text", [None, "", "{}", "null"])
def test_explanations_of_another_form_are_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        _write_explanations(tmp_path, [])
        (tmp_path / "explanatory/train.json").write_text(text)
    with pytest.raises(DataError, match=r"train\.json"):
        read_explanations(tmp_path)


def test_damaged_files_never_crash(tmp_path: Path) -> None:
    rng = random.Random(0)
    path = _write(tmp_path, "a", shapes=[_shape("target", TARGET), _shape("ignore", [[1, 1]])])
    good = path.read_text()
    outcomes = {"record": 0, "rejected": 0}
    for _ in range(400):
        path.write_text(damage_json(good, rng, JUNK))
        records, rejected = _read(tmp_path)
        save_store(records, tmp_path / "val.arrow")
        assert len(records) + sum(count for reason, count in rejected.items() if reason != "empty text") == 1
        outcomes["record" if records else "rejected"] += 1
    assert min(outcomes.values()) > 60


def test_damaged_explanations_never_crash(tmp_path: Path) -> None:
    rng = random.Random(1)
    _write_explanations(tmp_path, [{"query": f"{i}?", "outputs": ".", "image": "a.jpg"} for i in range(4)])
    path = tmp_path / "explanatory/train.json"
    good = path.read_text()
    outcomes = {"some": 0, "error": 0}
    for _ in range(300):
        path.write_text(damage_json(good, rng, JUNK))
        try:
            outcomes["some"] += bool(read_explanations(tmp_path))
        except DataError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 30


def _read(root: Path, split: str = "val") -> tuple[list[Record], dict[str, int]]:
    records, left_out = read_whole(partial(read_reasonseg, root / "reason_seg/ReasonSeg", root, split))
    return records, dict(left_out.counts)


def _shape(label: str, points: list[Any]) -> dict[str, Any]:
    return {"label": label, "labels": [label], "shape_type": "polygon", "points": points, "group_id": None, "flags": {}}


def _write(root: Path, name: str, **changes: Any) -> Path:
    """An image of 4 x 5 pixels with its annotation, whose path is returned."""
    path = root / "reason_seg/ReasonSeg/val" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise_image(4, 5)).save(path.parent / f"{name}.jpg")
    tree = {"text": ["What?"], "is_sentence": True, "shapes": [_shape("target", TARGET)]} | changes
    try:
        path.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
    except UnicodeEncodeError:
        path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def _write_explanations(folder: Path, entries: list[Any]) -> None:
    (folder / "explanatory").mkdir(parents=True, exist_ok=True)
    (folder / "explanatory/train.json").write_text(json.dumps(entries))
