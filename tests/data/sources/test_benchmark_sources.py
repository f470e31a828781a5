"""MUSE, MMR, GSEval and InstructPart: made by hand in their layouts, read, and compared with numpy and pycocotools."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import noise_image
from PIL import Image
from pycocotools import mask as coco

from cores_core.data.prepare import prepare_dataset
from cores_core.data.registry import find_dataset
from cores_core.data.sources.reading import WHOLE, Rejections, Share
from cores_core.data.store import Record, Store
from cores_core.errors import DataError
from cores_core.masks import decode_rle, encode_rle
from cores_core.sample import BoolMask

SIZE_HW = (20, 30)
SQUARE = [2.0, 2.0, 12.0, 2.0, 12.0, 9.0, 2.0, 9.0]
TRIANGLE = [15.0, 4.0, 28.0, 18.0, 15.0, 18.0]


def drawn(*polygons: list[float]) -> BoolMask:
    return np.any([coco.decode(rle).astype(bool) for rle in coco.frPyObjects(list(polygons), *SIZE_HW)], axis=0)


def put_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise_image(*SIZE_HW, seed=seed)).save(path)


def put_json(tree: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))


def read(name: str, split: str, root: Path, share: Share = WHOLE) -> tuple[list[Record], Rejections]:
    spec, rejected = find_dataset(name, root), Rejections()
    assert spec.missing(root, split) == []
    return list(spec.read(root, spec.disk_name(split), rejected, share)), rejected


@pytest.fixture
def muse(tmp_path: Path) -> Path:
    """Two images of MUSE val: one of COCO 2014 by name, one of 2017 by URL."""
    target = {"segmentation": [SQUARE], "bbox": [2, 2, 10, 7], "rephrased_name": "the square"}
    other = {"segmentation": [TRIANGLE], "bbox": [15, 4, 13, 14], "category_name": "triangle"}
    size = {"height": SIZE_HW[0], "width": SIZE_HW[1]}
    first = {"file_name": "a.jpg", **size, "ann_list": [target, other]}
    first |= {"questions": ["What are both?", "Which is a square?"], "answers": [[target, other], [target]]}
    second = {"coco_url": "http://images.cocodataset.org/train2017/b.jpg", **size, "ann_list": [other]}
    second |= {"questions": ["Which is none?", "Which is it?"], "answers": [[], [other]]}
    put_json([first, second, {"questions": []}, {**first, "answers": []}], tmp_path / "muse_val.json")
    put_image(tmp_path / "refer_seg/images/mscoco/images/train2014/a.jpg")
    put_image(tmp_path / "coco/train2017/b.jpg")
    return tmp_path


def test_muse_has_a_region_for_each_question_and_keeps_its_targets_apart(muse: Path) -> None:
    records, rejected = read("muse", "val", muse)
    assert [record.image for record in records] == [
        "refer_seg/images/mscoco/images/train2014/a.jpg",
        "coco/train2017/b.jpg",
    ]
    both, square = records[0].regions
    assert [query.text for query in both.queries] == ["What are both?"]
    assert np.array_equal(decode_rle(both.mask), drawn(SQUARE, TRIANGLE))
    assert [decode_rle(part).sum() for part in both.instances] == [drawn(SQUARE).sum(), drawn(TRIANGLE).sum()]
    assert np.array_equal(decode_rle(square.mask), drawn(SQUARE))
    assert rejected.items == [
        ("muse_val.json[2]", "it has neither `file_name` nor `coco_url`"),
        ("muse_val.json[3]", "`questions` and `answers` are not lists of the same length"),
        ("muse_val.json[1].questions[0]", "it has no target"),
    ]


def test_shares_of_a_split_have_all_images_once(muse: Path) -> None:
    shares = [read("muse", "val", muse, Share(index, 2)) for index in range(2)]
    assert [record.image for records, _ in shares for record in records] == [
        record.image for record in read("muse", "val", muse)[0]
    ]
    assert sum(len(rejected.items) for _, rejected in shares) == 3


def test_mmr_names_the_folder_of_an_image_and_has_rles(tmp_path: Path) -> None:
    parts = [encode_rle(drawn(SQUARE)), encode_rle(drawn(TRIANGLE))]
    entry = {
        "file_name": "val2017/c.jpg",
        "height": SIZE_HW[0],
        "width": SIZE_HW[1],
        "image_id": 1,
        "questions": ["Which parts does one touch?"],
        "annotations": [{"segmentation": parts[0], "category_name": "mug_handle", "bbox": [0, 0, 1, 1]}],
        "answers": [[{"segmentation": rle} for rle in parts]],
        "text_answers": ["{seg} and {seg}"],
    }
    for split in ("test_part_only", "test_mixed"):
        put_json([entry], tmp_path / f"MMR/MMR_{split}.json")
    put_image(tmp_path / "coco/val2017/c.jpg")
    for split in ("test_part", "test_mixed"):
        (record,), _ = read("mmr", split, tmp_path)
        assert np.array_equal(decode_rle(record.regions[0].mask), drawn(SQUARE, TRIANGLE))
        assert list(record.regions[0].instances) == parts


def test_gseval_asks_the_caption_and_its_classes_are_categories(tmp_path: Path) -> None:
    lines = []
    for index, (number, image) in enumerate(((1, "a"), (2, "a"), (3, "b"), (4, "b"), (9, "b"))):
        rle = encode_rle(drawn(SQUARE if index % 2 else TRIANGLE))
        path, box = f"unlabeled2017/{image}.jpg", [0.0, 0.0, 5.0, 5.0]
        lines.append({"idx": index, "image_path": path, "class_id": number, "label": "it", "caption": f"It {index}.",
                      "box": box, "segmentation": [rle] if number == 3 else rle})  # fmt: skip
    (tmp_path / "GSEval").mkdir()
    text = "\n".join([*map(json.dumps, lines), "{"])
    (tmp_path / "GSEval/GroundingSuite-Eval.jsonl").write_text(text)
    for name in "ab":
        put_image(tmp_path / f"coco/unlabeled2017/{name}.jpg")
    records, rejected = read("gseval", "test", tmp_path)
    found = [(region.category, region.kind, region.queries[0].text) for record in records for region in record.regions]
    assert found == [
        ("stuff", "object", "It 0."),
        ("part", "part", "It 1."),
        ("multi", "object", "It 2."),
        ("single", "object", "It 3."),
    ]
    assert np.array_equal(decode_rle(records[1].regions[0].mask), drawn(TRIANGLE))
    assert sorted(reason for _, reason in rejected.items) == [
        "its `class_id` is not 1, 2, 3 or 4",
        "malformed line (JSONDecodeError)",
    ]


INSTRUCTIONS = ["Lift it.", "Please lift it.", "Where is the handle of the cup?", "Where can one hold the cup?",
                "handle of the cup", "handle of the cup that can be held"]  # fmt: skip


@pytest.fixture
def instructpart(tmp_path: Path) -> Path:
    """Three parts of InstructPart test, the images of the first two stored for each part, a mask missing."""
    place = tmp_path / "instructpart_part/InstructPart/test"
    part = {"object": "tea cup", "part": "handle", "affordance": "hold", "action": "pick up"}
    entries = [
        {"image_path": "cup1.jpg", "part_list": [part | {"instruction": INSTRUCTIONS}]},
        {
            "image_path": "cup2.jpg",
            "part_list": [part | {"instruction": INSTRUCTIONS}, part | {"instruction": "Lift it."}],
        },
        {"image_path": "cup3.jpg", "part_list": [part | {"instruction": INSTRUCTIONS}]},
    ]
    put_json(entries, place / "data_test.json")
    (place / "masks").mkdir()
    for number, polygon in ((1, SQUARE), (2, TRIANGLE)):
        put_image(place / f"images/cup{number}-tea_cup-handle.jpg", seed=number)
        Image.fromarray(drawn(polygon).astype(np.uint8) * 255).save(place / f"masks/cup{number}-tea_cup-handle.png")
    put_image(place / "images/cup3.jpg")
    return tmp_path


def test_instructpart_has_its_six_instructions_in_order(instructpart: Path) -> None:
    records, rejected = read("instructpart", "test", instructpart)
    assert [len(record.regions) for record in records] == [1, 1]
    region = records[1].regions[0]
    assert (region.category, region.kind) == ("tea cup handle", "part")
    assert [(query.text, query.is_sentence) for query in region.queries] == [
        (text, number < 4) for number, text in enumerate(INSTRUCTIONS)
    ]
    assert np.array_equal(decode_rle(region.mask), drawn(TRIANGLE))
    assert sorted(reason for _, reason in rejected.items) == [
        "a part whose `object`, `part` or `instruction` is missing or invalid",
        "its mask is missing",
    ]


def test_prepared_regions_keep_their_instances(muse: Path) -> None:
    prepare_dataset("muse", muse, 1, lambda *_: None)
    regions = Store(muse, "muse", "val")[0].regions
    assert [decode_rle(part).sum() for part in regions[0].instances] == [drawn(SQUARE).sum(), drawn(TRIANGLE).sum()]


@pytest.mark.parametrize(
    ("name", "split", "path"),
    [
        ("muse", "val", "muse_val.json"),
        ("mmr", "val", "MMR/MMR_val.json"),
        ("instructpart", "test", "instructpart_part/InstructPart/test/data_test.json"),
    ],
)
def test_a_file_of_another_kind_is_one_error(name: str, split: str, path: str, tmp_path: Path) -> None:
    put_json({"a": 1}, tmp_path / path)
    with pytest.raises(DataError, match=r"not a list of images"):
        read(name, split, tmp_path)
