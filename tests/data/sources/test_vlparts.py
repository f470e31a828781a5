"""PACO-LVIS and PASCAL-Part become records: "dog:head" is asked for in two ways, and "dog" is an object.

How they take damaged files is tested with the other reader of this form, in test_parts.py.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import noise_image
from PIL import Image
from shares import read_whole

from cores_core.data.sources.vlparts import read_paco, read_pascal_part
from cores_core.data.store import Record
from cores_core.errors import DataError
from cores_core.masks import decode_rle, encode_rle
from cores_core.sample import BoolMask, Query

LEFT, RIGHT, DOT, NONE = (np.zeros((20, 30), dtype=bool) for _ in range(4))
LEFT[:, :10] = True
RIGHT[:, 20:] = True
DOT[3, 4] = True


@pytest.mark.parametrize(
    ("name", "category", "phrases"),
    [
        ("dog:head", "dog head", ["head of the dog", "dog head"]),
        ("bus:license plate", "bus license plate", ["license plate of the bus", "bus license plate"]),
        ("potted plant:pot", "potted plant pot", ["pot of the potted plant", "potted plant pot"]),
        ("car_(automobile):antenna", "car antenna", ["antenna of the car", "car antenna"]),
        ("trash_can:inner_body", "trash can inner body", ["inner body of the trash can", "trash can inner body"]),
        ("pipe:colied_tube", "pipe colied tube", ["coiled tube of the pipe", "pipe coiled tube"]),
    ],
)
def test_a_part_is_asked_for_in_two_ways(tmp_path: Path, name: str, category: str, phrases: list[str]) -> None:
    _write_paco(tmp_path, {2000: name}, [(0, 2000, LEFT)])
    ((region,), _) = _read_regions(tmp_path)
    assert (region.category, region.kind, region.source) == (category, "part", "0")
    assert region.queries == tuple(Query(phrase, is_sentence=False) for phrase in phrases)


@pytest.mark.parametrize(
    ("name", "category"),
    [("dog", "dog"), ("pan_(for_cooking)", "pan"), ("cellular_telephone", "cellular telephone")],
)
def test_a_name_without_a_colon_is_an_object(tmp_path: Path, name: str, category: str) -> None:
    _write_paco(tmp_path, {23: name}, [(7, 23, LEFT)])
    ((region,), _) = _read_regions(tmp_path)
    assert (region.category, region.kind, region.queries) == (category, "object", (Query(category, False),))


def test_instances_of_a_category_in_one_image_are_one_region(tmp_path: Path) -> None:
    _write_paco(tmp_path, {378: "dog", 2195: "dog:head"}, [(5, 2195, LEFT), (6, 378, LEFT), (9, 2195, RIGHT)])
    (regions, rejected) = _read_regions(tmp_path)
    assert [(region.category, region.source) for region in regions] == [("dog head", "5,9"), ("dog", "6")]
    assert np.array_equal(decode_rle(regions[0].mask), LEFT | RIGHT)
    assert rejected == {}


def test_paco_takes_its_images_from_coco(tmp_path: Path) -> None:
    _write_paco(tmp_path, {378: "dog"}, [(1, 378, LEFT)])
    (record,), _ = _read(read_paco, tmp_path, "vlpart/paco")
    assert (record.image, record.size_hw) == ("coco/train2017/1.jpg", (20, 30))


def test_pascal_part_takes_its_images_from_voc(tmp_path: Path) -> None:
    folder = tmp_path / "vlpart/pascal_part"
    _save_image(folder / "VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg")
    _write(folder / "val.json", {49: "dog:head"}, [(0, 49, LEFT)], file_name="2008_000002.jpg")
    (record,), _ = _read(read_pascal_part, tmp_path, "vlpart/pascal_part")
    assert record.image == "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg"
    assert record.regions[0].category == "dog head"


def test_pixels_decide_what_is_empty_for_a_told_area_may_be_0(tmp_path: Path) -> None:
    _write_paco(tmp_path, {1: "dog:eye", 2: "dog:nose"}, [(0, 1, DOT), (1, 2, NONE)])
    (regions, rejected) = _read_regions(tmp_path)
    assert [region.category for region in regions] == ["dog eye"]
    assert rejected == {"empty mask": 1, "category without a mask": 1}


@pytest.mark.parametrize("name", [":", "dog:", ":head", "dog:head:ear", "_(animal)", "_:_"])
def test_a_category_of_another_form_is_named(tmp_path: Path, name: str) -> None:
    _write_paco(tmp_path, {1: "dog", 2: name}, [(0, 1, LEFT), (1, 2, LEFT)])
    (regions, rejected) = _read_regions(tmp_path)
    assert [region.category for region in regions] == ["dog"]
    assert rejected == {f"malformed category: `{name}`": 1}


def test_an_image_without_a_file_or_a_region_is_left_out(tmp_path: Path) -> None:
    _write_paco(tmp_path, {378: "dog"}, [])
    assert _read(read_paco, tmp_path, "vlpart/paco") == ([], {"image without a region": 1})
    (tmp_path / "coco/train2017/1.jpg").unlink()
    assert _read(read_paco, tmp_path, "vlpart/paco") == ([], {"image is missing": 1})


@pytest.mark.parametrize(("kind", "parts", "objects"), [("paco_lvis", 456, 75), ("pascal_part_vlpart", 93, 0)])
def test_all_real_categories_have_a_name_of_their_own(
    tmp_path: Path, shared: Path, kind: str, parts: int, objects: int
) -> None:
    listed = json.loads((shared / "samples/parts/category_lists.json").read_text())[kind]
    names = {entry["id"]: entry["name"] for entry in listed}
    _write_paco(tmp_path, names, [(index, number, LEFT) for index, number in enumerate(names)])
    (regions, rejected) = _read_regions(tmp_path)
    assert rejected == {}
    assert [region.kind for region in regions].count("part") == parts
    assert len({region.category for region in regions}) == len(regions) == parts + objects
    texts = [query.text for region in regions for query in region.queries]
    assert len(set(texts)) == len(texts) == 2 * parts + objects
    assert not [text for text in texts if set(text) & set("_():") or text != " ".join(text.split())]


@pytest.mark.parametrize(
    ("reader", "name"), [(read_paco, r"annotations/paco_lvis_v1_val\.json"), (read_pascal_part, r"val\.json")]
)
def test_a_missing_annotation_file_is_named(tmp_path: Path, reader: Any, name: str) -> None:
    with pytest.raises(DataError, match=name):
        _read(reader, tmp_path, "vlpart")


def _read(reader: Any, root: Path, folder: str) -> tuple[list[Record], dict[str, int]]:
    records, left_out = read_whole(partial(reader, root / folder, root, "val"))
    return records, dict(left_out.counts)


def _read_regions(root: Path) -> tuple[Any, dict[str, int]]:
    (record,), rejected = _read(read_paco, root, "vlpart/paco")
    return record.regions, rejected


def _write_paco(root: Path, names: dict[int, str], annotations: list[tuple[int, int, BoolMask]]) -> None:
    _save_image(root / "coco/train2017/1.jpg")
    path = root / "vlpart/paco/annotations/paco_lvis_v1_val.json"
    _write(path, names, annotations, file_name="train2017/1.jpg")


def _write(path: Path, names: dict[int, str], annotations: list[tuple[int, int, BoolMask]], file_name: str) -> None:
    """One image, with (annotation id, category id, mask)."""
    tree = {
        "images": [{"id": 2008000002, "file_name": file_name, "height": 20, "width": 30}],
        "categories": [{"id": number, "name": name} for number, name in names.items()],
        "annotations": [
            {
                "id": number,
                "image_id": 2008000002,
                "category_id": category,
                "segmentation": encode_rle(mask),
                "area": 0.0,
            }
            for number, category, mask in annotations
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))


def _save_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise_image(20, 30)).save(path, format="JPEG")
