"""Damaged annotation files of every reader: what is left of them is prepared and read back, or there is one error."""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.limits import check_text, survives
from fuzz.mutations import damaged_json, dump_json, values
from helpers import mask, noise_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cores_core.data.prepare import SplitReport, prepare_dataset
from cores_core.data.store import Store
from cores_core.formats.brush_rle import decode_brush, encode_brush
from cores_core.masks import decode_rle, encode_rle, segmentation_rle

SIZE_HW = (3, 4)
TAIL = mask("....", ".##.", ".##.")
RLE = dict(encode_rle(TAIL))
POLYGON = [[1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0]]
RUNS = {"size": [3, 4], "counts": [4, 2, 1, 2, 3]}


@dataclass(frozen=True)
class Source:
    """A data set of one image, in its raw layout.

    Attributes:
        name: of the data set. image: path of its image below the data root.
        files: other files by path: JSON trees, lists of rows of a JSONL file, or of refs in a pickle (`.p`).
    """

    name: str
    image: str
    files: Mapping[str, Any]

    def lay_out(self, root: Path) -> None:
        """Write image and files, undamaged."""
        (root / self.image).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise_image(*SIZE_HW)).save(root / self.image, quality=95)
        for path, tree in self.files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(dump(path, tree))


def dump(path: str, tree: Any) -> bytes:
    if path.endswith(".p"):
        return pickle.dumps(tree, protocol=2)
    if path.endswith(".jsonl") and isinstance(tree, list):
        return b"".join(json.dumps(row).encode() + b"\n" for row in tree)
    return dump_json(tree)


def coco(file_name: str, category: str = "Fish Tail", **more: Any) -> dict[str, Any]:
    segmentations = (POLYGON, RLE, RUNS)
    return {
        "categories": [{"id": 5, "name": category}, {"id": 6, "name": "Fish"}],
        "images": [{"id": 1, "file_name": file_name, "height": 3, "width": 4}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 5, "segmentation": segmentation, "iscrowd": 0, **more}
            for number, segmentation in enumerate(segmentations)
        ],
    }


def ref(number: int, target: Any) -> dict[str, Any]:
    sentences = [{"sent_id": number, "sent": "the left one", "tokens": ["left"]}]
    return {"ref_id": number, "ann_id": target, "image_id": 1, "split": "train", "sentences": sentences}


SHAPES = [
    {"label": "tail?", "points": [[1, 1], [2, 1], [2, 2]], "shape_type": "polygon"},
    {"label": "head", "points": [[0, 0], [2, 2]], "shape_type": "rectangle"},
    {"label": "eye", "points": [[1, 1], [2, 1]], "shape_type": "circle"},
    {"label": "ignore", "points": [[0, 0], [1, 0], [1, 1]]},
]
LABELME = {"imagePath": "..\\a.png", "imageHeight": 3, "imageWidth": 4, "imageData": None, "shapes": SHAPES}
TASK = {
    "data": {"image": "/data/upload/1/12345678-a.png"},
    "annotations": [
        {
            "result": [
                {"id": "b", "type": "brushlabels", "original_width": 4, "original_height": 3, "value": value}
                for value in (
                    {"format": "rle", "rle": encode_brush(TAIL), "brushlabels": ["tail"]},
                    {"points": [[10, 10], [90, 10], [50, 90]], "brushlabels": ["tail"]},
                    {"x": 10, "y": 10, "width": 50, "height": 50, "rotation": 5, "brushlabels": ["tail"]},
                    {"x": 50, "y": 50, "radiusX": 30, "radiusY": 20, "brushlabels": ["What?"]},
                )
            ]
        }
    ],
}
ROWS = [
    {"image": "a.png", "questions": ["What steers?"], "phrases": "a tail", "mask": form}
    for form in (POLYGON, RLE, RUNS)
]
COCO_IMAGES = "refer_seg/images/mscoco/images/train2014"

SOURCES = {
    "jsonl": Source("custom/mine", "custom/mine/a.png", {"custom/mine/train.jsonl": ROWS}),
    "coco": Source("custom/mine", "custom/mine/a.png", {"custom/mine/train.json": coco("a.png", questions=["What?"])}),
    "label-studio": Source("custom/mine", "custom/mine/a.png", {"custom/mine/train.json": [TASK, TASK]}),
    "labelme": Source("custom/mine", "custom/mine/a.png", {"custom/mine/train/a.json": LABELME}),
    "refcoco": Source(
        "refcoco",
        f"{COCO_IMAGES}/a.jpg",
        {
            "refer_seg/refcoco/refs(unc).p": [ref(number, number) for number in range(3)],
            "refer_seg/refcoco/instances.json": coco("a.jpg"),
        },
    ),
    "grefcoco": Source(
        "grefcoco",
        f"{COCO_IMAGES}/a.jpg",
        {
            "refer_seg/grefcoco/grefs(unc).json": [ref(0, [0, 1]), ref(1, [-1])],
            "refer_seg/grefcoco/instances.json": coco("a.jpg"),
        },
    ),
    "reasonseg": Source(
        "reasonseg",
        "reason_seg/ReasonSeg/train/a.jpg",
        {
            "reason_seg/ReasonSeg/train/a.json": LABELME | {"text": ["What?", "Where?"], "is_sentence": True},
            "reason_seg/ReasonSeg/explanatory/train.json": [{"image": "a.jpg", "query": "What?", "outputs": "A tail."}],
        },
    ),
    "partimagenet": Source(
        "partimagenet",
        "PartImageNet/val/n01/n01_1.JPEG",
        {"PartImageNet/val.json": coco("n01_1.JPEG"), "PartImageNet/val_whole.json": coco("n01_1.JPEG", "Fish")},
    ),
    "paco": Source(
        "paco_lvis",
        "coco/train2017/a.jpg",
        {"vlpart/paco/annotations/paco_lvis_v1_train.json": coco("train2017/a.jpg", "dog:head")},
    ),
    "llava": Source(
        "llava_instruct",
        "coco/train2017/a.jpg",
        {
            "llava_dataset/llava_instruct_150k.json": [
                {
                    "image": "a.jpg",
                    "conversations": [
                        {"from": "human", "value": "<image>\nWhat?"},
                        {"from": "gpt", "value": "A fish."},
                    ],
                }
            ]
        },
    ),
}
CASES = [(name, path) for name, source in SOURCES.items() for path in source.files]


def prepare(name: str, root: Path) -> None:
    """Prepare a data set as `cores prepare-data` does, and read the result back."""
    for split, outcome in prepare_dataset(name, root, 1, lambda *_: None).items():
        if isinstance(outcome, SplitReport):
            for reason in outcome.reasons:
                check_text(reason)
            for record in Store(root, name, split):
                assert all(decode_rle(region.mask).shape == record.size_hw for region in record.regions)
        else:
            check_text(outcome.message)


@pytest.mark.parametrize("name", SOURCES)
def test_undamaged_annotations_are_prepared(tmp_path: Path, name: str) -> None:
    source = SOURCES[name]
    (tmp_path / "coco/val2017").mkdir(parents=True)
    source.lay_out(tmp_path)
    outcomes = prepare_dataset(source.name, tmp_path, 1, lambda *_: None).values()
    assert sum(outcome.images for outcome in outcomes if isinstance(outcome, SplitReport)) == 1


@pytest.mark.parametrize(("name", "path"), CASES)
@given(data=st.data())
def test_damaged_annotations_are_prepared_in_part_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, path: str, data: st.DataObject
) -> None:
    source, root = SOURCES[name], tmp_path_factory.getbasetemp() / f"fuzz-{name}"
    if not root.is_dir():
        (root / "coco/val2017").mkdir(parents=True)
        source.lay_out(root)
    (root / path).write_bytes(data.draw(damaged_json(source.files[path], lambda tree: dump(path, tree))))
    try:
        survives(lambda: prepare(source.name, root))
    finally:
        (root / path).write_bytes(dump(path, source.files[path]))


sizes = st.sampled_from(([3, 4], [4, 3], [3], [], None, [0, 0], [2**31, 2**31], [-3, -4]))
counts = st.text(st.characters(min_codepoint=40, max_codepoint=115), max_size=12) | st.lists(
    st.integers(-1, 20), max_size=8
)
segmentations = st.one_of(
    values,
    st.fixed_dictionaries({"size": sizes, "counts": counts | values}),
    st.lists(st.lists(st.floats(-50, 50), max_size=9), max_size=3),
)


@given(segmentation=segmentations)
def test_any_segmentation_is_a_mask_or_refused(segmentation: Any) -> None:
    def read() -> None:
        assert decode_rle(segmentation_rle(segmentation, SIZE_HW)).shape == SIZE_HW

    survives(read)


@given(head=st.binary(max_size=9), code=st.binary(max_size=30), size=st.sampled_from((0, 48, 2**32 - 4)))
def test_any_brush_code_is_a_mask_or_refused(head: bytes, code: bytes, size: int) -> None:
    given_code = list(size.to_bytes(4) + head + code)
    survives(lambda: np.testing.assert_equal(decode_brush(given_code, SIZE_HW).shape, SIZE_HW))
