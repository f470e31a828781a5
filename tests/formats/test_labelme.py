"""LabelMe files: our own reader, and Pillow as LabelMe uses it, fill their shapes to the pixel or as near as stated."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fillers import blob_mask, fill_by_pillow, measure_iou, odd_masks, ring_mask
from helpers import mask

from cores_core.data.sources.labelme import draw_shapes, parse_shapes
from cores_core.formats.labelled import LabelledImage, LabelledMask
from cores_core.formats.labelme import Form, save_labelme
from cores_core.formats.polygons import DRAWING_TOLERANCE
from cores_core.sample import BoolMask


def save(folder: Path, *masks: BoolMask, **options: Any) -> Any:
    labelled = tuple(LabelledMask(f"answer {number}", target, 0.5) for number, target in enumerate(masks, start=1))
    save_labelme(LabelledImage("../photos/fish.jpg", masks[0].shape, labelled), folder / "fish.json", **options)
    return json.loads((folder / "fish.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("form", ["polygon", "mask"])
def test_at_tolerance_0_our_reader_finds_the_mask_to_the_pixel(tmp_path: Path, form: Form) -> None:
    for target in odd_masks():
        if target.any():
            tree = save(tmp_path, target, form=form, tolerance=0.0)
            assert np.array_equal(draw_shapes(parse_shapes(tree["shapes"]), target.shape).target, target)


@pytest.mark.parametrize(
    ("target", "least"), [(blob_mask(200, 300, 0, smoothness=15), 0.99), (ring_mask(300, 140, 50), 0.99)]
)
def test_at_the_usual_tolerance_iou_is_as_stated_holes_included(tmp_path: Path, target: BoolMask, least: float) -> None:
    shapes = save(tmp_path, target)["shapes"]
    assert DRAWING_TOLERANCE == 0.5
    assert measure_iou(draw_shapes(parse_shapes(shapes), target.shape).target, target) > least
    assert measure_iou(fill_by_pillow([np.array(shape["points"]) for shape in shapes], target.shape), target) > least


def test_a_file_says_what_labelme_needs(tmp_path: Path) -> None:
    tree = save(tmp_path, mask("##.", "##."))
    assert {key: tree[key] for key in ("imagePath", "imageData", "imageHeight", "imageWidth", "flags")} == {
        "imagePath": "../photos/fish.jpg",
        "imageData": None,
        "imageHeight": 2,
        "imageWidth": 3,
        "flags": {},
    }
    (shape,) = tree["shapes"]
    assert shape.pop("points")
    assert shape == {
        "label": "answer 1",
        "group_id": None,
        "description": "",
        "flags": {},
        "mask": None,
        "shape_type": "polygon",
        "score": 0.5,
    }


def test_components_of_one_mask_share_a_group_and_an_empty_mask_has_no_shape(tmp_path: Path) -> None:
    shapes = save(tmp_path, mask("##..#", "##..#"), np.zeros((2, 5), dtype=bool), mask("..#..", "....."))["shapes"]
    assert [(shape["label"], shape["group_id"]) for shape in shapes] == [
        ("answer 1", 1),
        ("answer 1", 1),
        ("answer 3", None),
    ]
    assert all(len(shape["points"]) >= 3 for shape in shapes)


def test_a_mask_shape_is_as_large_as_its_box(tmp_path: Path) -> None:
    (shape,) = save(tmp_path, mask("....", ".##.", "..#."), form="mask")["shapes"]
    assert (shape["shape_type"], shape["points"]) == ("mask", [[1, 1], [2, 2]])
