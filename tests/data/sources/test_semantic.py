"""Label files become records: one region for each class that an image shows, and what has no class counts nowhere."""

import json
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import noise_image
from numpy.typing import NDArray
from PIL import ExifTags, Image
from shares import read_whole

from cores_core.data.sources.reading import Rejections, Share
from cores_core.data.sources.semantic import read_ade20k, read_cocostuff, read_mapillary
from cores_core.data.sources.semantic_classes import ADE20K_CLASSES, COCOSTUFF_CLASSES
from cores_core.data.store import Record, Region, save_store
from cores_core.errors import DataError
from cores_core.masks import decode_rle
from cores_core.sample import Query

MAPILLARY_NAMES = ("Bird", "Lane Marking - Arrow (Left)", "Car", "Unlabeled")
JUNK: tuple[Any, ...] = (None, True, -1, 10**30, 1e308, "", " ", "\0", "\ud800", "Car", [], [1], {}, {"readable": 1})


@dataclass(frozen=True)
class Family:
    """One of the data sets: its reader, its folders, a value of a class, the class, and the value of no class."""

    read: Callable[[Path, Path, str, Rejections, Share], Iterator[Record]]
    folder: str
    labels: str
    images: str
    split: str
    value: int
    name: str
    void: int


COCOSTUFF = Family(read_cocostuff, "cocostuff", "cocostuff/{}", "coco/{}", "train2017", 0, "person", 255)
ADE20K = Family(read_ade20k, "ade20k", "ade20k/annotations/{}", "ade20k/images/{}", "training", 1, "wall", 0)
MAPILLARY = Family(
    read_mapillary, "mapillary", "mapillary/{}/v2.0/labels", "mapillary/{}/images", "training", 2, "car", 3
)
each_family = pytest.mark.parametrize("family", [COCOSTUFF, ADE20K, MAPILLARY], ids=lambda family: family.folder)


@each_family
def test_a_class_is_one_region_and_pixels_without_a_class_count_nowhere(tmp_path: Path, family: Family) -> None:
    label = np.full((4, 6), family.void, dtype=np.uint8)
    label[0, :2] = label[3, 4:] = family.value
    _write(tmp_path, family, {"a": label})
    (record,), rejected = _read(tmp_path, family)
    assert (record.image, record.size_hw) == (f"{family.images}/a.jpg".format(family.split), (4, 6))
    (region,) = record.regions
    assert (region.category, region.kind, region.source) == (family.name, "object", str(family.value))
    assert region.queries == (Query(family.name, is_sentence=False),)
    assert region.ignore is not None
    assert np.array_equal(decode_rle(region.mask), label == family.value)
    assert np.array_equal(decode_rle(region.ignore), label == family.void)
    assert rejected == {}


@each_family
def test_without_such_pixels_nothing_is_ignored(tmp_path: Path, family: Family) -> None:
    _write(tmp_path, family, {"a": _full(family.value)})
    (record,), _ = _read(tmp_path, family)
    assert record.regions[0].ignore is None


@each_family
def test_255_has_no_class_anywhere(tmp_path: Path, family: Family) -> None:
    label = _full(family.value)
    label[2, :] = 255
    _write(tmp_path, family, {"a": label})
    (record,), _ = _read(tmp_path, family)
    assert record.regions[0].ignore is not None
    assert np.array_equal(decode_rle(record.regions[0].ignore), label == 255)


@pytest.mark.parametrize(
    ("family", "split"), [(COCOSTUFF, "val2017"), (ADE20K, "validation"), (MAPILLARY, "validation")]
)
def test_validation_is_read_from_its_own_folders(tmp_path: Path, family: Family, split: str) -> None:
    _write(tmp_path, family, {"a": _full(family.value)})
    _write(tmp_path, family, {"b": _full(family.value)}, split=split)
    (record,), _ = _read(tmp_path, family, split)
    assert record.image == f"{family.images}/b.jpg".format(split)


@each_family
def test_images_come_in_alphabetical_order_and_twice_the_same(tmp_path: Path, family: Family) -> None:
    _write(tmp_path, family, {name: _full(family.value) for name in ("b", "-c", "a", "__d")})
    records, rejected = _read(tmp_path, family)
    assert [Path(record.image).stem for record in records] == ["-c", "__d", "a", "b"]
    assert (records, rejected) == _read(tmp_path, family)


def test_stuff_with_a_dash_is_background_that_nobody_asks_for(tmp_path: Path) -> None:
    label = _full(COCOSTUFF_CLASSES.index("person"))
    label[1] = COCOSTUFF_CLASSES.index("wall-brick")
    label[2] = COCOSTUFF_CLASSES.index("sky")
    _write(tmp_path, COCOSTUFF, {"a": label})
    (record,), _ = _read(tmp_path, COCOSTUFF)
    assert [(region.category, region.ignore) for region in record.regions] == [("person", None), ("sky", None)]
    assert np.flatnonzero(decode_rle(record.regions[0].mask).all(axis=1)).tolist() == [0, 3]


def test_every_class_has_its_value(tmp_path: Path) -> None:
    for family, count, start in ((COCOSTUFF, 182, 0), (ADE20K, 150, 1)):
        _write(tmp_path, family, {"a": np.arange(start, start + count, dtype=np.uint8).reshape(2, -1)})
    (stuff,), _ = _read(tmp_path, COCOSTUFF)
    (scene,), _ = _read(tmp_path, ADE20K)
    assert [_value(region) for region in stuff.regions] == [i for i, n in enumerate(COCOSTUFF_CLASSES) if "-" not in n]
    assert [(_value(region), region.category) for region in scene.regions] == list(enumerate(ADE20K_CLASSES, start=1))
    assert {region.source: region.category for region in stuff.regions}["156"] == "sky"


def test_mapillary_is_asked_by_its_readable_names_in_lower_case(tmp_path: Path) -> None:
    _write(tmp_path, MAPILLARY, {"a": np.array([[0, 1, 2, 3]], dtype=np.uint8)})
    (record,), _ = _read(tmp_path, MAPILLARY)
    assert [region.queries[0].text for region in record.regions] == ["bird", "lane marking - arrow (left)", "car"]


def test_two_classes_of_one_name_are_one_region(tmp_path: Path) -> None:
    label = np.array([[0, 1, 2, 3]], dtype=np.uint8)
    _write(tmp_path, MAPILLARY, {"a": label}, names=("Bird", "Car", "bird ", "Unlabeled"))
    (record,), _ = _read(tmp_path, MAPILLARY)
    assert [(region.category, region.source) for region in record.regions] == [("bird", "0,2"), ("car", "1")]
    assert decode_rle(record.regions[0].mask).tolist() == [[True, False, True, False]]


@each_family
def test_a_palette_is_read_by_its_indices(tmp_path: Path, family: Family) -> None:
    path = _write(tmp_path, family, {"a": _full(family.void)})
    label = Image.fromarray(_full(family.value))
    label.putpalette([(7 * i) % 256 for i in range(768)])
    label.save(path / "a.png")
    assert Image.open(path / "a.png").mode == "P"
    (record,), _ = _read(tmp_path, family)
    assert [region.category for region in record.regions] == [family.name]


@each_family
@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (Image.new("L", (4, 6), 1), "label of another size than its image"),
        (Image.new("RGB", (6, 4), (1, 1, 1)), "label does not have a single 8-bit channel"),
        (Image.new("LA", (6, 4), (1, 1)), "label does not have a single 8-bit channel"),
        (Image.new("I;16", (6, 4), 1), "label does not have a single 8-bit channel"),
        (Image.new("1", (6, 4), 1), "label does not have a single 8-bit channel"),
        (Image.new("L", (6, 4), 254), "label has an unknown class id"),
        (Image.new("L", (6, 4), 255), "label without a target class"),
    ],
)
def test_a_label_that_cannot_be_used_is_left_out_by_name(
    tmp_path: Path, family: Family, label: Image.Image, reason: str
) -> None:
    path = _write(tmp_path, family, {name: _full(family.value) for name in ("a", "bad", "c")})
    label.save(path / "bad.png")
    _expect_one_rejected(tmp_path, family, f"{family.labels}/bad.png", reason)


@each_family
def test_damaged_labels_are_left_out_by_name(tmp_path: Path, family: Family) -> None:
    path = _write(tmp_path, family, {name: _full(family.value) for name in ("a", "bad", "c")})
    good = (path / "bad.png").read_bytes()
    profile = b"\0\0\0\0iCCP" + struct.pack(">I", zlib.crc32(b"iCCP"))  # an empty one, with which Pillow is at a loss
    one_byte, no_end, no_profile = good[:45] + b"?" + good[46:], good[:-12], good[:-12] + profile + good[-12:]
    for damaged in (b"", b"no image", good[:50], one_byte, no_end, no_profile):
        (path / "bad.png").write_bytes(damaged)
        _expect_one_rejected(tmp_path, family, f"{family.labels}/bad.png", "label cannot be read")
    Image.fromarray(_full(family.value)).save(path / "bad.png", format="JPEG")  # its values would be smeared
    _expect_one_rejected(tmp_path, family, f"{family.labels}/bad.png", "label cannot be read")
    (path / "bad.png").unlink()
    (path / "bad.png").mkdir()
    _expect_one_rejected(tmp_path, family, f"{family.labels}/bad.png", "label cannot be read")


@each_family
def test_images_and_labels_without_each_other_are_left_out_by_name(tmp_path: Path, family: Family) -> None:
    path = _write(tmp_path, family, {name: _full(family.value) for name in ("a", "bad", "c")})
    image = tmp_path / family.images.format(family.split) / "bad.jpg"
    image.write_text("no image")
    _expect_one_rejected(tmp_path, family, f"{family.images}/bad.jpg", "image cannot be read")
    image.rename(image.with_name("._bad.jpg"))  # macOS' litter is no image
    _expect_one_rejected(tmp_path, family, f"{family.images}/bad.jpg", "image is missing")
    image.with_name("._bad.jpg").rename(image)
    (path / "bad.png").unlink()
    _expect_one_rejected(tmp_path, family, f"{family.labels}/bad.png", "label is missing")


@pytest.mark.parametrize(("family", "first_wrong"), [(COCOSTUFF, 182), (ADE20K, 151), (MAPILLARY, 4)])
def test_one_value_too_high_condemns_the_label(tmp_path: Path, family: Family, first_wrong: int) -> None:
    right, wrong = _full(family.value), _full(family.value)
    right[0, 0], wrong[0, 0] = first_wrong - 1, first_wrong
    _write(tmp_path, family, {"a": right, "bad": wrong, "c": right})
    _expect_one_rejected(tmp_path, family, f"{family.labels}/bad.png", "label has an unknown class id")


def test_a_sideways_image_has_its_upright_size(tmp_path: Path) -> None:
    _write(tmp_path, ADE20K, {"a": _full(1), "b": _full(1).T})
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for name in ("a", "b"):
        Image.fromarray(noise_image(4, 6)).save(tmp_path / f"ade20k/images/training/{name}.jpg", exif=exif)
    (record,), rejected = _read(tmp_path, ADE20K)
    assert (Path(record.image).stem, record.size_hw, record.regions[0].mask["size"]) == ("b", (6, 4), [6, 4])
    assert rejected == {"label of another size than its image": 1}


@each_family
def test_a_missing_folder_is_named(tmp_path: Path, family: Family) -> None:
    for folder in (family.labels, family.images):
        _write(tmp_path, family, {"a": _full(family.value)})
        shutil.rmtree(tmp_path / folder.format(family.split))
        with pytest.raises(DataError, match=f"no such folder: .*{folder.format(family.split)}"):
            _read(tmp_path, family)


@each_family
def test_a_folder_without_labels_is_named(tmp_path: Path, family: Family) -> None:
    (_write(tmp_path, family, {"a": _full(family.value)}) / "a.png").unlink()
    with pytest.raises(DataError, match=f"no label .* in: .*{family.labels.format(family.split)}"):
        _read(tmp_path, family)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"labels": []}',
        '{"labels": {}}',
        '{"labels": ["Car"]}',
        '{"labels": [{"name": "object--car"}]}',
        '{"labels": [{"readable": "Car"}, {"readable": " "}]}',
        '{"labels": [{"readable": "Car\\u0000"}]}',
        json.dumps({"labels": [{"readable": "Car"}] * 256}),
    ],
)
def test_a_list_of_classes_of_another_form_is_named(tmp_path: Path, text: str) -> None:
    _write(tmp_path, MAPILLARY, {"a": _full(2)})
    (tmp_path / "mapillary/config_v2.0.json").write_text(text)
    with pytest.raises(DataError, match=r"config_v2\.0\.json"):
        _read(tmp_path, MAPILLARY)


def test_a_missing_list_of_classes_is_named(tmp_path: Path) -> None:
    _write(tmp_path, MAPILLARY, {"a": _full(2)})
    (tmp_path / "mapillary/config_v2.0.json").unlink()
    with pytest.raises(DataError, match=r"config_v2\.0\.json"):
        _read(tmp_path, MAPILLARY)


def test_damaged_lists_of_classes_never_crash(tmp_path: Path) -> None:
    rng = random.Random(0)
    _write(tmp_path, MAPILLARY, {"a": np.array([[0, 1, 2, 3]], dtype=np.uint8)})
    path = tmp_path / "mapillary/config_v2.0.json"
    good = path.read_text()
    outcomes = {"records": 0, "error": 0}
    for _ in range(300):
        path.write_text(_damage_json(good, rng))
        try:
            records, _ = _read(tmp_path, MAPILLARY)
        except DataError:
            outcomes["error"] += 1
            continue
        save_store(records, tmp_path / "val.arrow")
        outcomes["records"] += bool(records)
    assert min(outcomes.values()) > 30


@each_family
def test_damaged_label_files_never_crash(tmp_path: Path, family: Family) -> None:
    rng = random.Random(family.folder)
    path = _write(tmp_path, family, {"a": _full(family.value), "b": _full(family.value)})
    label = Image.fromarray(_full(family.value))
    label.putpalette([1, 2, 3])
    profile = b"n\0\0" + zlib.compress(bytes(200))
    outcomes = {1: 0, 2: 0}
    for _ in range(300):
        label.save(path / "a.png", icc_profile=rng.choice([None, profile]))
        (path / "a.png").write_bytes(_damage_png((path / "a.png").read_bytes(), rng))
        records, rejected = _read(tmp_path, family)
        assert len(records) + sum(rejected.values()) == 2
        outcomes[len(records)] += 1
    assert min(outcomes.values()) > 30


def test_cocostuff_classes_are_those_of_the_release(shared: Path) -> None:
    lines = (shared / "samples/cocostuff/LISA_cocostuff_classes.txt").read_text().splitlines()
    assert [f"{value}: {name}" for value, name in enumerate(COCOSTUFF_CLASSES, start=1)] == lines[1:]
    official = (shared / "samples/cocostuff/labels.txt").read_text().replace("sky-other", "sky").splitlines()
    assert official[1:] == lines[1:]


def test_ade20k_classes_are_those_of_the_release_and_names_of_the_benchmark(shared: Path) -> None:
    assert list(ADE20K_CLASSES) == json.loads((shared / "samples/ade20k/LISA_ade20k_classes.json").read_text())
    rows = [row.split("\t") for row in (shared / "samples/ade20k/objectInfo150.txt").read_text().splitlines()[1:]]
    assert [int(row[0]) for row in rows] == list(range(1, 151))
    assert [
        name for name, row in zip(ADE20K_CLASSES, rows, strict=True) if name not in row[4].strip().split(", ")
    ] == []


def test_real_cocostuff_labels(shared: Path, tmp_path: Path) -> None:
    samples = shared / "samples/cocostuff/spade"
    for split in ("train", "val"):
        shutil.copytree(samples / f"{split}_label", tmp_path / f"cocostuff/{split}2017")
        shutil.copytree(samples / f"{split}_img", tmp_path / f"coco/{split}2017")
    training, rejected = _read(tmp_path, COCOSTUFF)
    validation, rejected_too = _read(tmp_path, COCOSTUFF, "val2017")
    assert (len(training), len(validation), rejected, rejected_too) == (13, 8, {}, {})
    shown = {Path(record.image).stem: [region.category for region in record.regions] for record in validation}
    assert shown["000000001818"] == ["zebra", "grass"]
    assert shown["000000001490"] == ["person", "surfboard", "sea", "sky", "tree"]
    for record in (*training, *validation):
        label = np.array(Image.open(tmp_path / record.image.replace("coco/", "cocostuff/").replace("jpg", "png")))
        asked = [value for value in np.unique(label) if value != 255 and "-" not in COCOSTUFF_CLASSES[value]]
        _expect_masks(record, label, asked, label == 255)


def test_real_ade20k_labels(shared: Path, tmp_path: Path) -> None:
    samples = shared / "samples/ade20k/sampleData"
    for kind in ("annotations", "images"):
        shutil.copytree(samples / kind, tmp_path / f"ade20k/{kind}/validation")
    records, rejected = _read(tmp_path, ADE20K, "validation")
    assert (len(records), rejected) == (3, {})
    assert [region.category for region in records[1].regions] == [
        *("wall", "building", "sky", "tree"),  # 1 2 3 5
        *("earth", "plant"),  # 14 18
    ]
    for record in records:
        label = np.array(Image.open(samples / f"annotations/{Path(record.image).stem}.png"))
        _expect_masks(record, label, [value for value in np.unique(label) if value], label == 0)


def test_a_real_mapillary_label(shared: Path, tmp_path: Path) -> None:
    samples = shared / "samples/mapillary"
    shutil.copytree(samples / "images", tmp_path / "mapillary/training/images")
    shutil.copytree(samples / "v2.0", tmp_path / "mapillary/training/v2.0/labels")
    shutil.copyfile(samples / "config_v2.0.derived.json", tmp_path / "mapillary/config_v2.0.json")
    (record,), rejected = _read(tmp_path, MAPILLARY)
    assert [region.category for region in record.regions] == ["building", "street light", "pole"]
    label = np.array(Image.open(samples / f"v2.0/{Path(record.image).stem}.png"))
    _expect_masks(record, label, [27, 84, 85], label == 123)
    assert rejected == {}


def _expect_masks(record: Record, label: NDArray[np.uint8], values: list[int], void: NDArray[np.bool_]) -> None:
    assert [_value(region) for region in record.regions] == values
    for region, value in zip(record.regions, values, strict=True):
        assert np.array_equal(decode_rle(region.mask), label == value)
        assert (region.ignore is None) == (not void.any())
        assert region.ignore is None or np.array_equal(decode_rle(region.ignore), void)


def _expect_one_rejected(root: Path, family: Family, item: str, reason: str) -> None:
    """Of the images a, bad and c, the second is left out as this item for this reason."""
    records, rejected = read_whole(partial(family.read, root / family.folder, root, family.split))
    assert [Path(record.image).stem for record in records] == ["a", "c"]
    assert rejected.items == [(item.format(family.split), reason)]


def _value(region: Region) -> int:
    return int(region.source)


def _damage_json(text: str, rng: random.Random) -> str:
    """Cut, garble, or change up to three values of a list of classes."""
    way = rng.randrange(5)
    place = rng.randrange(len(text))
    if way == 0:
        return text[:place]
    if way == 1:
        return (
            text[:place] + rng.choice(["9" * 5000, "[" * 5000, '"', "}", "-", "1e999", "\\u0000"]) + text[place + 1 :]
        )
    tree = json.loads(text)
    for _ in range(rng.randint(1, 3)):
        labels = tree["labels"]
        label = rng.randrange(len(labels))
        if way == 2:
            labels.pop(label) if len(labels) > 1 else labels.append({})
        elif way == 3:
            labels[label], labels[0] = labels[0], labels[label]
        elif isinstance(labels[label], dict) and rng.random() < 0.7:
            labels[label][rng.choice(["readable", "name", "color"])] = rng.choice(JUNK)
        else:
            labels[label] = rng.choice(JUNK)
    return json.dumps(tree)


def _damage_png(data: bytes, rng: random.Random) -> bytes:
    """Cut a PNG file or change bytes of its chunks, mostly with checksums that fit, so that the damage goes deep."""
    damaged, place = bytearray(data[:8]), 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, content = data[place + 4 : place + 8], bytearray(data[place + 8 : place + 8 + length])
        place += 12 + length
        if content and rng.random() < 0.3:
            content[rng.randrange(len(content))] = rng.randrange(256)
        if rng.random() < 0.1:
            content = content[: rng.randrange(len(content) + 1)]
        checksum = zlib.crc32(kind + content) ^ (rng.random() < 0.05)
        damaged += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    return bytes(damaged if rng.random() < 0.9 else damaged[: rng.randrange(len(damaged))])


def _full(value: int) -> NDArray[np.uint8]:
    return np.full((4, 6), value, dtype=np.uint8)


def _read(root: Path, family: Family, split: str | None = None) -> tuple[list[Record], dict[str, int]]:
    records, left_out = read_whole(partial(family.read, root / family.folder, root, split or family.split))
    return records, dict(left_out.counts)


def _write(
    root: Path,
    family: Family,
    labels: dict[str, NDArray[np.uint8]],
    split: str | None = None,
    names: tuple[str, ...] = MAPILLARY_NAMES,
) -> Path:
    """Labels by name, each with an image of its size; returns the folder of the labels."""
    folders = [root / folder.format(split or family.split) for folder in (family.labels, family.images)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for name, label in labels.items():
        Image.fromarray(label).save(folders[0] / f"{name}.png")
        Image.fromarray(noise_image(*label.shape)).save(folders[1] / f"{name}.jpg")
    if family is MAPILLARY:
        tree = {
            "labels": [{"color": [0, 0, 0], "readable": name, "name": f"object--{name.lower()}"} for name in names],
            "version": "2.0",
        }
        (root / "mapillary/config_v2.0.json").write_text(json.dumps(tree))
    return folders[0]
