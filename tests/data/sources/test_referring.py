"""Refs become regions: found by image id, merged by their annotations, with all sentences; damage is counted."""

import copy
import json
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shares import read_whole

from cores_core.data.sources.reading import Rejections
from cores_core.data.sources.referring import REFERRING_FILES, held_out_images, read_referring
from cores_core.data.store import Record, save_store
from cores_core.errors import DataError
from cores_core.masks import Rle, decode_rle, encode_rle, rle_area
from cores_core.sample import Query

Tree = dict[str, Any]

SIZE_HW = (20, 30)
LEFT, RIGHT, LOW = (np.zeros(SIZE_HW, dtype=bool) for _ in range(3))
LEFT[:, :10] = True
RIGHT[:, 20:] = True
LOW[15:, :] = True
LEFT_POLYGON = [0, 0, 10, 0, 10, 20, 0, 20]
RIGHT_POLYGON = [20, 0, 30, 0, 30, 20, 20, 20]


def test_refs_of_one_annotation_are_one_region_with_every_sentence_once(tmp_path: Path) -> None:
    refs = [_ref(1, 11, ["left  thing", "the cup"]), _ref(2, 12, ["right"]), _ref(3, 11, ["the cup", "cup"])]
    (record,), rejected = _read(_write(tmp_path, refs))
    assert (record.image, record.size_hw) == ("refer_seg/images/mscoco/images/train2014/COCO_1.jpg", SIZE_HW)
    left, right = record.regions
    assert left.queries == tuple(Query(text, is_sentence=False) for text in ("left thing", "the cup", "cup"))
    assert [query.text for query in right.queries] == ["right"]
    assert (left.category, left.kind, left.ignore) == ("cup", "object", None)
    assert (left.source, right.source) == ("refs 1,3; annotations 11", "refs 2; annotations 12")
    assert np.array_equal(decode_rle(left.mask), LEFT)
    assert rejected == {}


def test_only_refs_of_the_split_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    refs = [_ref(1, 21, split="val", image=2), _ref(2, 11), _ref(3, 12, split="val"), _ref(4, 22, split="val", image=2)]
    records, _ = _read(_write(tmp_path, refs), "val")
    assert [(Path(record.image).name, len(record.regions)) for record in records] == [
        ("COCO_2.jpg", 2),
        ("COCO_1.jpg", 1),
    ]


@pytest.mark.parametrize(
    ("split", "expected"), [("train", "1"), ("testA", "2,4"), ("testB", "3,4"), ("testAB", "4"), ("test", "2,3,4")]
)
def test_a_ref_of_several_test_splits_is_in_each(tmp_path: Path, split: str, expected: str) -> None:
    stored = ["train", "testA", "testB", "testAB"]
    refs = [_ref(number, 11, split=name) for number, name in enumerate(stored, start=1)]
    ((record,), _) = _read(_write(tmp_path, refs), split)
    assert record.regions[0].source == f"refs {expected}; annotations 11"


@pytest.mark.parametrize(
    "segmentation",
    [
        [LEFT_POLYGON, RIGHT_POLYGON],
        encode_rle(LEFT | RIGHT),
        {"size": list(SIZE_HW), "counts": [0, 200, 200, 200]},
        [encode_rle(LEFT), encode_rle(RIGHT)],
        [LEFT_POLYGON, [1, 1, 2, 2], RIGHT_POLYGON],
    ],
    ids=["polygons", "RLE", "uncompressed RLE", "list of RLEs as in refCLEF", "a polygon of two points among others"],
)
def test_every_form_of_a_mask_is_read_whole(tmp_path: Path, segmentation: Any) -> None:
    root = _write(tmp_path, [_ref(1, 11)], lambda tree: tree["annotations"][0].update(segmentation=segmentation))
    ((record,), _) = _read(root)
    assert np.array_equal(decode_rle(record.regions[0].mask), LEFT | RIGHT)


@pytest.mark.parametrize("suffix", [".json", ".p"])
def test_a_ref_of_grefcoco_has_several_targets_or_none(tmp_path: Path, suffix: str) -> None:
    refs = [
        _ref(1, [12, 11], ["both", "all"], no_target=False, category_id=[5, 5]),
        _ref(2, [-1], ["a dog"], no_target=True, category_id=[-1]),
        _ref(3, [], ["a cat"]),
        _ref(4, [11, 12], ["the two"]),
        _ref(5, [11, 13], ["cup and plate"]),
        _ref(6, [11], ["left"]),
    ]
    root = _write(tmp_path, refs, name="grefcoco", refs_name=f"grefs(unc){suffix}")
    ((record,), rejected) = _read(root, name="grefcoco")
    both, nothing, mixed, left = record.regions
    assert [query.text for query in both.queries] == ["both", "all", "the two"]
    assert np.array_equal(decode_rle(both.mask), LEFT | RIGHT)
    assert (both.category, both.source) == ("cup", "refs 1,4; annotations 11,12")
    assert [query.text for query in nothing.queries] == ["a dog", "a cat"]
    assert (rle_area(nothing.mask), nothing.mask["size"]) == (0, list(SIZE_HW))
    assert (nothing.category, nothing.source) == ("", "refs 2,3; annotations none")
    assert (mixed.category, left.category) == ("", "cup")
    assert rejected == {}


def test_a_crowd_is_a_mask_alone_and_is_left_out_beside_others(tmp_path: Path) -> None:
    def make_crowd(tree: Tree) -> None:
        tree["annotations"][2].update(iscrowd=1, segmentation={"size": list(SIZE_HW), "counts": [0, 600]})

    root = _write(tmp_path, [_ref(1, [11, 13]), _ref(2, [13])], make_crowd)
    ((record,), _) = _read(root)
    assert [rle_area(region.mask) for region in record.regions] == [200, 600]


def test_images_that_are_held_out_are_left_out_and_counted(tmp_path: Path) -> None:
    root = _write(tmp_path, [_ref(1, 11), _ref(2, 21, image=2)])
    _write(tmp_path, [_ref(7, 11, split="testB"), _ref(8, 21, image=2)], name="refcoco+")
    held_out = held_out_images(root / "refer_seg/refcoco+", REFERRING_FILES["refcoco+"])
    assert held_out == {1}
    rejected = Rejections()
    files = replace(REFERRING_FILES["refcoco"], exclude=held_out)
    (record,) = read_referring(root / "refer_seg/refcoco", root, "train", rejected, files)
    assert Path(record.image).name == "COCO_2.jpg"
    assert rejected.items == [("image 1", "image is held out for evaluation")]


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    root = _write(tmp_path, [_ref(1, 11), _ref(2, 21, image=2), _ref(3, 12)])
    assert _read(root) == _read(root)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda refs, tree: refs[0].update(ann_id=99), "unknown annotation id"),
        (lambda refs, tree: refs[0].update(ann_id=21), "annotation of another image"),
        (lambda refs, tree: refs[0].update(ann_id=[11, 99]), "unknown annotation id"),
        (lambda refs, tree: refs[0].update(ann_id=[11, -1]), "malformed ref"),
        (lambda refs, tree: refs[0].update(ann_id="11"), "malformed ref"),
        (lambda refs, tree: refs[0].update(ann_id=None), "malformed ref"),
        (lambda refs, tree: refs[0].update(image_id=99), "unknown image id"),
        (lambda refs, tree: refs[0].update(image_id=10**30), "malformed ref"),
        (lambda refs, tree: refs[0].pop("ref_id"), "malformed ref"),
        (lambda refs, tree: refs[0].update(split=3), "malformed ref"),
        (lambda refs, tree: refs[0].update(sentences="a"), "malformed ref"),
        (lambda refs, tree: refs[0].update(sentences=[]), "ref without a sentence"),
        (lambda refs, tree: refs[0].update(sentences=[{"sent": " "}]), "empty sentence"),
        (lambda refs, tree: refs[0].update(sentences=[{"sent": "\ud83d"}]), "malformed ref"),
        (lambda refs, tree: refs.insert(0, None), "malformed ref"),
        (lambda refs, tree: tree["annotations"][0].update(segmentation=[]), "empty mask"),
        (lambda refs, tree: tree["annotations"][0].pop("segmentation"), "empty mask"),
        (lambda refs, tree: tree["annotations"][0].update(segmentation=[[1, 1, 1, 1, 1, 1]]), "empty mask"),
        (
            lambda refs, tree: tree["annotations"][0].update(segmentation=[[1, 1, 2, 2]]),
            "it has no polygon of three points",
        ),
        (lambda refs, tree: tree["annotations"][0].update(segmentation=7), "not a segmentation"),
        (lambda refs, tree: tree["annotations"][0].update(segmentation=[encode_rle(LEFT), 7]), "not a segmentation"),
        (
            lambda refs, tree: tree["annotations"][0].update(segmentation=encode_rle(LEFT[:5])),
            "mask of another size than its image",
        ),
        (lambda refs, tree: tree["annotations"].append(tree["annotations"][0]), "duplicate id"),
        (lambda refs, tree: tree["images"].append(dict(tree["images"][0])), "duplicate id"),
        (lambda refs, tree: tree["images"][0].update(file_name="gone.jpg"), "image is missing"),
        (
            lambda refs, tree: tree["images"][0].update(file_name="../train2014/COCO_1.jpg"),
            "not a file name of an image",
        ),
        (lambda refs, tree: tree["images"][0].update(file_name="/etc/hostname"), "not a file name of an image"),
        (lambda refs, tree: tree["images"][0].update(file_name=5), "not a file name of an image"),
        (lambda refs, tree: tree["images"][0].update(file_name=""), "image cannot be read"),
        (lambda refs, tree: tree["images"][0].update(height=21), "image of another size than annotated"),
        (lambda refs, tree: tree["images"].insert(0, 3), None),
        (lambda refs, tree: tree["annotations"].insert(0, [3]), None),
        (lambda refs, tree: tree["categories"].insert(0, {"id": []}), None),
    ],
)
def test_one_bad_item_is_counted_and_the_rest_goes_on(
    tmp_path: Path, damage: Callable[[list[Tree], Tree], None], reason: str | None
) -> None:
    refs = [_ref(1, 11), _ref(2, 21, image=2)]
    records, rejected = _read(_write(tmp_path, refs, lambda tree: damage(refs, tree)))
    assert "COCO_2.jpg" in [Path(record.image).name for record in records]
    assert set(rejected) - {"image without a region"} == ({reason} if reason else set())
    assert (len(records) == 2) == (reason in (None, "duplicate id") or len(refs) == 3)


def test_an_empty_sentence_among_others_costs_only_itself(tmp_path: Path) -> None:
    ((record,), rejected) = _read(_write(tmp_path, [_ref(1, 11, ["", "cup", " "])]))
    assert [query.text for query in record.regions[0].queries] == ["cup"]
    assert rejected == {"empty sentence": 2}


def test_an_unknown_category_is_no_reason_to_lose_a_ref(tmp_path: Path) -> None:
    ((record,), _) = _read(_write(tmp_path, [_ref(1, 11)], lambda tree: tree.update(categories=[])))
    assert record.regions[0].category == ""


@pytest.mark.parametrize("name", ["refs(unc).p", "instances.json"])
@pytest.mark.parametrize("data", [None, b"", b"{}", b"[1, 2", b"\x80\x02]q\x00.", b"[" + b"9" * 5000 + b"]"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, data: bytes | None) -> None:
    path = _write(tmp_path, [_ref(1, 11)]) / "refer_seg/refcoco" / name
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        _read(tmp_path)
    assert str(path) in caught.value.message


def test_a_split_without_refs_and_a_missing_folder_of_images_are_said(tmp_path: Path) -> None:
    root = _write(tmp_path, [_ref(1, 11)])
    with pytest.raises(DataError, match=r"no usable ref of split `val` in: .*refs\(unc\)\.p"):
        _read(root, "val")
    (root / "refer_seg/images/mscoco/images/train2014").rename(root / "elsewhere")
    with pytest.raises(DataError, match=r"no such folder of images: .*train2014"):
        _read(root)


@pytest.mark.parametrize(
    ("name", "split", "images", "regions", "sentences"),
    [("refcoco", "testA", 1, 2, 6), ("refcoco+", "testB", 1, 2, 5), ("refcocog", "val", 1, 2, 4)],
)
def test_real_refs_are_read(
    tmp_path: Path, shared: Path, name: str, split: str, images: int, regions: int, sentences: int
) -> None:
    folder = shared / "samples/refcoco/refer_layout" / name
    tree = json.loads((folder / "instances.json").read_text())
    for image in tree["images"]:
        _save_image(tmp_path, image["file_name"], (image["height"], image["width"]))
    rejected = Rejections()
    records = list(read_referring(folder, tmp_path, split, rejected, REFERRING_FILES[name]))
    assert rejected.items == []
    assert (len(records), sum(len(record.regions) for record in records)) == (images, regions)
    assert sum(len(region.queries) for record in records for region in record.regions) == sentences
    areas = {str(annotation["id"]): annotation["area"] for annotation in tree["annotations"]}
    for record in records:
        for region in record.regions:
            assert rle_area(region.mask) == pytest.approx(areas[region.source.rpartition(" ")[2]], rel=0.02)


@pytest.mark.parametrize("suffix", [".json", ".p"])
def test_random_damage_gives_records_or_one_error(tmp_path: Path, suffix: str) -> None:
    refs = [_ref(1, [11, 12]), _ref(2, 21, image=2), _ref(3, [-1]), _ref(4, 13, split="val")]
    root = _write(tmp_path, refs, name="grefcoco", refs_name=f"grefs(unc){suffix}")
    folder = root / "refer_seg/grefcoco"
    tree = json.loads((folder / "instances.json").read_text())
    rng = random.Random(suffix)
    outcomes = {"records": 0, "error": 0}
    for _ in range(400):
        damaged_refs, damaged_tree = copy.deepcopy(refs), copy.deepcopy(tree)
        for _ in range(rng.randint(1, 3)):
            _damage(rng, rng.choice([damaged_refs, damaged_tree]))
        _save_refs(folder / f"grefs(unc){suffix}", damaged_refs)
        text = json.dumps(damaged_tree)
        (folder / "instances.json").write_text(text[: rng.randrange(len(text))] if rng.random() < 0.1 else text)
        try:
            records, _ = _read(root, name="grefcoco")
            save_store(records, tmp_path / "store.arrow")
            outcomes["records"] += 1
        except DataError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 20


def _damage(rng: random.Random, tree: Any) -> None:
    """Remove, repeat, swap or replace one value somewhere in a tree."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(tree[key], dict | list) and rng.random() < 0.8:
            tree = tree[key]
            continue
        odd = [None, True, -1, 0, 2**63, 10**40, 1e308, float("nan"), "", "\ud800", "x" * 5000, "a\0b", [], {}, [[]]]
        match rng.randrange(4):
            case 0:
                del tree[key]
            case 1:
                tree[key] = rng.choice(odd)
            case 2:
                tree[key] = copy.deepcopy(tree[rng.choice(keys)])
            case _:
                tree[key] = [copy.deepcopy(tree[key]), rng.choice(odd)]
        return


def _read(root: Path, split: str = "train", name: str = "refcoco") -> tuple[list[Record], dict[str, int]]:
    folder, files = root / "refer_seg" / name, REFERRING_FILES[name]
    records, left_out = read_whole(lambda rejected, share: read_referring(folder, root, split, rejected, files, share))
    return records, dict(left_out.counts)


def _ref(
    number: int, annotation: Any, texts: Any = ("cup",), split: str = "train", image: int = 1, **more: Any
) -> Tree:
    sentences = [
        {"sent_id": 10 * number + i, "sent": text, "raw": f"{text}!", "tokens": text.split()}
        for i, text in enumerate(texts)
    ]
    return {
        "ref_id": number,
        "ann_id": annotation,
        "image_id": image,
        "split": split,
        "file_name": f"COCO_{image}_{number}.jpg",
        "category_id": 5,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": sentences,
        **more,
    }


def _write(
    root: Path,
    refs: list[Tree],
    change: Callable[[Tree], None] = lambda tree: None,
    name: str = "refcoco",
    refs_name: str = "refs(unc).p",
) -> Path:
    """Two images: annotations 11 (left), 12 (right), 13 (low, a plate) of the first, 21 and 22 of the second."""
    folder = root / "refer_seg" / name
    folder.mkdir(parents=True)
    masks: list[tuple[int, int, int, list[Any] | Rle]] = [
        (11, 1, 5, [LEFT_POLYGON]),
        (12, 1, 5, [RIGHT_POLYGON]),
        (13, 1, 6, encode_rle(LOW)),
        (21, 2, 5, [LEFT_POLYGON]),
        (22, 2, 5, [RIGHT_POLYGON]),
    ]
    tree = {
        "images": [{"id": i, "file_name": f"COCO_{i}.jpg", "height": 20, "width": 30} for i in (1, 2)],
        "categories": [{"id": 5, "name": "cup"}, {"id": 6, "name": "plate"}],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "iscrowd": 0, "segmentation": segmentation}
            for number, image, category, segmentation in masks
        ],
    }
    for image in (1, 2):
        _save_image(root, f"COCO_{image}.jpg", SIZE_HW)
    change(tree)
    (folder / "instances.json").write_text(json.dumps(tree))
    _save_refs(folder / refs_name, refs)
    return root


def _save_refs(path: Path, refs: list[Tree]) -> None:
    path.write_bytes(json.dumps(refs).encode() if path.suffix == ".json" else pickle.dumps(refs, protocol=2))


def _save_image(root: Path, name: str, size_hw: tuple[int, int]) -> None:
    path = root / "refer_seg/images/mscoco/images/train2014" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size_hw[::-1]).save(path)
