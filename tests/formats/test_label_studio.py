"""Label Studio: tasks to import, and what annotators make of them, read back to the pixel."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fillers import blob_mask, measure_iou
from helpers import mask

from cores_core.errors import DataError
from cores_core.formats.brush_rle import decode_brush, encode_brush
from cores_core.formats.label_studio import read_label_studio, save_label_studio
from cores_core.formats.labelled import Annotation, LabelledImage, LabelledMask
from cores_core.masks import decode_rle
from cores_core.sample import BoolMask

QUESTION = 'What is "<steering>" & why?'
FISH = LabelledImage(
    "photos/a fish?.jpg",
    (90, 120),
    (
        LabelledMask(QUESTION, blob_mask(90, 120, seed=0), 0.9),
        LabelledMask("the moon", np.zeros((90, 120), dtype=bool), 0.0),
        LabelledMask("tail", blob_mask(90, 120, seed=1), 0.7),
    ),
)
LEFT, RIGHT = mask("##..", "##.."), mask("...#", "...#")


def brush(target: BoolMask, *labels: str, key: str = "r1", **changes: Any) -> dict[str, Any]:
    height, width = target.shape
    value = {"format": "rle", "rle": encode_brush(target), "brushlabels": list(labels)}
    size = {"original_height": height, "original_width": width, "image_rotation": 0}
    return {"id": key, "type": "brushlabels", "from_name": "tag", "to_name": "image", "value": value} | size | changes


def shape(kind: str, key: str = "r1", labels: tuple[str, ...] = ("it",), **value: Any) -> dict[str, Any]:
    size = {"original_height": 100, "original_width": 200, "image_rotation": 0}
    return {"id": key, "type": kind, "value": value | {kind: list(labels)}} | size


def text(given: Any, key: str = "r1") -> dict[str, Any]:
    return {"id": key, "type": "textarea", "from_name": "question", "value": {"text": given}}


def task(*results: Any, image: Any = "a.png", **changes: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"image": image}, "annotations": [{"id": 5, "result": list(results)}]} | changes


def read(*tasks: Any) -> tuple[list[Annotation], list[tuple[str, int, str]]]:
    rejected: list[tuple[str, int, str]] = []
    return list(read_label_studio(list(tasks), "own.json", lambda *entry: rejected.append(entry))), rejected


def draw(*results: Any, size_hw: tuple[int, int]) -> BoolMask:
    ((annotation,), rejected) = read(task(*results))
    assert rejected == []
    return decode_rle(annotation.read_mask(size_hw).mask)


def test_a_task_has_a_prediction_with_a_brush_region_for_each_mask_that_is_not_empty(tmp_path: Path) -> None:
    save_label_studio([FISH], tmp_path / "tasks.json")
    (written,) = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    assert written["data"] == {"image": "/data/local-files/?d=photos/a%20fish%3F.jpg"}
    (prediction,) = written["predictions"]
    assert prediction["score"] == 0.8
    assert [(result["value"]["brushlabels"], result["score"]) for result in prediction["result"]] == [
        ([QUESTION], 0.9),
        (["tail"], 0.7),
    ]
    for result, labelled in zip(prediction["result"], (FISH.masks[0], FISH.masks[2]), strict=True):
        assert (result["original_height"], result["original_width"]) == (90, 120)
        assert np.array_equal(decode_brush(result["value"]["rle"], (90, 120)), labelled.mask)


def test_the_interface_beside_it_has_a_label_for_each_name(tmp_path: Path) -> None:
    interface = save_label_studio([FISH], tmp_path / "tasks.json", prefix="https://photos.example/")
    assert interface == tmp_path / "tasks.xml"
    tree = ElementTree.parse(interface)
    assert [label.get("value") for label in tree.iter("Label")] == [QUESTION, "the moon", "tail"]
    (written,) = json.loads((tmp_path / "tasks.json").read_text())
    brushes = next(tree.iter("BrushLabels"))
    result = written["predictions"][0]["result"][0]
    assert (brushes.get("name"), brushes.get("toName")) == (result["from_name"], result["to_name"])
    assert written["data"]["image"] == "https://photos.example/photos/a%20fish%3F.jpg"


def test_predictions_that_an_annotator_submits_come_back_to_the_pixel(tmp_path: Path) -> None:
    save_label_studio([FISH], tmp_path / "tasks.json")
    (written,) = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    annotations, rejected = read(written | {"annotations": written.pop("predictions")})
    assert rejected == []
    assert [(entry.image, entry.questions, entry.phrases) for entry in annotations] == [
        ("photos/a fish?.jpg", (QUESTION,), ()),
        ("photos/a fish?.jpg", (), ("tail",)),
    ]
    for entry, labelled in zip(annotations, (FISH.masks[0], FISH.masks[2]), strict=True):
        assert np.array_equal(decode_rle(entry.read_mask((90, 120)).mask), labelled.mask)


def test_regions_of_one_label_are_one_target() -> None:
    assert np.array_equal(draw(brush(LEFT, "dog"), brush(RIGHT, "dog", key="r2"), size_hw=(2, 4)), LEFT | RIGHT)


def test_a_region_of_two_labels_belongs_to_both() -> None:
    annotations, _ = read(task(brush(LEFT, "dog", "pet"), brush(RIGHT, "pet", key="r2")))
    masks = {entry.category: decode_rle(entry.read_mask((2, 4)).mask) for entry in annotations}
    assert np.array_equal(masks["dog"], LEFT)
    assert np.array_equal(masks["pet"], LEFT | RIGHT)


def test_a_region_with_a_text_of_its_own_is_a_target_of_its_own() -> None:
    annotations, rejected = read(
        task(brush(LEFT, "dog"), text(["Who barks?", "the left dog"]), brush(RIGHT, "dog", key="r2"), text("all", "t1"))
    )
    assert rejected == []
    own, other = annotations
    assert (own.questions, own.phrases, own.category) == (("Who barks?",), ("the left dog",), "dog")
    assert np.array_equal(decode_rle(own.read_mask((2, 4)).mask), LEFT)
    assert (other.questions, other.phrases) == ((), ("dog",))
    assert np.array_equal(decode_rle(other.read_mask((2, 4)).mask), RIGHT)


def test_a_brush_and_its_label_may_be_two_results_of_one_id() -> None:
    bare = brush(LEFT, type="brush")
    del bare["value"]["brushlabels"]
    ((annotation,), _) = read(task(bare, brush(LEFT, type="labels") | {"value": bare["value"] | {"labels": ["dog"]}}))
    assert annotation.phrases == ("dog",)


def test_polygons_and_rectangles_are_in_per_cent_of_the_image() -> None:
    expected = np.zeros((100, 200), dtype=bool)
    expected[20:50, 20:120] = True
    polygon = shape("polygonlabels", points=[[10, 20], [60, 20], [60, 50], [10, 50]])
    rectangle = shape("rectanglelabels", x=10, y=20, width=50, height=30, rotation=0)
    assert np.array_equal(draw(polygon, size_hw=(100, 200)), expected)
    assert np.array_equal(draw(rectangle, size_hw=(100, 200)), expected)


def test_a_rectangle_turns_clockwise_around_its_upper_left_corner() -> None:
    expected = np.zeros((100, 200), dtype=bool)
    expected[20:80, 60:100] = True  # 60 x 40 pixels from (100, 20), a quarter turn
    drawn = draw(shape("rectanglelabels", x=50, y=20, width=30, height=40, rotation=90), size_hw=(100, 200))
    assert np.array_equal(drawn, expected)


@pytest.mark.parametrize("rotation", [0, 90, 30])
def test_an_ellipse_has_its_radii_in_per_cent_and_turns_around_its_middle(rotation: int) -> None:
    rows, columns = np.mgrid[:100, :200] + 0.5
    angle = np.deg2rad(rotation)
    along = (columns - 100) * np.cos(angle) + (rows - 50) * np.sin(angle)
    aside = (rows - 50) * np.cos(angle) - (columns - 100) * np.sin(angle)
    expected = (along / 40) ** 2 + (aside / 10) ** 2 <= 1
    drawn = draw(shape("ellipselabels", x=50, y=50, radiusX=20, radiusY=10, rotation=rotation), size_hw=(100, 200))
    assert measure_iou(drawn, expected) == 1


@pytest.mark.parametrize(
    ("image", "names"),
    [
        ("/data/local-files/?d=mine/a%20b.png", ("mine/a b.png", "a b.png")),
        ("http://localhost:8080/data/local-files/?d=mine/a.png", ("mine/a.png", "a.png")),
        ("/data/upload/3/1a2b3c4d-a.png", ("1a2b3c4d-a.png", "a.png")),
        ("https://host.example/photos/a%20b.png?size=1", ("a b.png",)),
        ("s3://bucket/photos/a.png", ("a.png",)),
        ("images/a.png", ("images/a.png", "a.png")),
    ],
)
def test_an_image_is_found_by_the_path_that_is_local(image: str, names: tuple[str, ...]) -> None:
    ((annotation,), _) = read(task(brush(LEFT, "dog"), image=image))
    assert (annotation.image, *annotation.other_names) == names


def test_the_image_may_have_another_key() -> None:
    ((annotation,), _) = read(task(brush(LEFT, "dog")) | {"data": {"title": "mine", "photo": "images/a.JPG"}})
    assert annotation.image == "images/a.JPG"


def test_of_several_annotations_ground_truth_is_read_or_the_first_that_was_not_skipped() -> None:
    entries = [
        {"was_cancelled": True, "result": [brush(LEFT, "skipped")]},
        {"result": []},
        {"result": [brush(LEFT, "first")]},
        {"result": [brush(LEFT, "second")], "ground_truth": True},
    ]
    assert read(task(annotations=entries))[0][0].category == "second"
    assert read(task(annotations=entries[:3]))[0][0].category == "first"


@pytest.mark.parametrize("tree", [None, {}, [], "tasks", [7], [{"image": "a.png", "tag": []}]])
def test_another_file_is_one_error(tree: Any) -> None:
    with pytest.raises(DataError, match=r"not an export of Label Studio: own\.json"):
        list(read_label_studio(tree, "own.json", lambda *_: None))


def test_a_json_min_export_is_told_what_it_is() -> None:
    with pytest.raises(DataError) as caught:
        list(read_label_studio([{"image": "a.png", "tag": []}], "own.json", lambda *_: None))
    assert caught.value.hint == "export it from Label Studio as JSON, not as JSON-MIN"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (7, "task without an image"),
        ({"data": {}}, "task without an image"),
        (task(image=7), "task without an image"),
        ({"data": {"image": "a.png"}}, "task without an annotation"),
        ({"data": {"image": "a.png"}, "predictions": [{"result": []}]}, "task with predictions only"),
        (task(annotations=7), "task without an annotation"),
        (task(annotations=[{"result": 7}]), "annotation without a list of results"),
        (task(7), "a result without a value"),
        (task(brush(LEFT, "")), "a question or phrase is empty or not a text"),
        (task(brush(LEFT)), "region without a label or text"),
        (task(brush(LEFT, "dog"), text([7])), "a question or phrase is empty or not a text"),
    ],
)
def test_a_task_that_makes_no_sense_is_left_out_by_its_place(broken: Any, reason: str) -> None:
    annotations, rejected = read(task(brush(LEFT, "dog")), broken)
    assert [annotation.index for annotation in annotations] == [0]
    assert rejected == [("tasks", 1, reason)]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (brush(LEFT, "dog", image_rotation=90), "rotated in Label Studio"),
        (brush(LEFT, "dog", original_width=5), "drawn on an image of another size"),
        (brush(LEFT, "dog") | {"value": {"rle": "AAA", "brushlabels": ["dog"]}}, "not a list of bytes"),
        (brush(np.zeros((2, 4), dtype=bool), "dog"), "empty mask"),
        (brush(LEFT, "dog") | {"value": {"brushlabels": ["dog"]}}, "of type brushlabels, which is not"),
        (shape("keypointlabels", x=1, y=1, width=1), "another size"),
        (
            shape("polygonlabels", points=[[1, 2, 3]]) | {"original_height": 2, "original_width": 4},
            "missing or invalid numbers",
        ),
        (
            shape("polygonlabels", points="abc") | {"original_height": 2, "original_width": 4},
            "missing or invalid numbers",
        ),
        (shape("polygonlabels", points=[[1, 2], [3, 4]]) | {"original_height": 2, "original_width": 4}, "no polygon"),
        (
            shape("rectanglelabels", x=1, y=None, width=1, height=2) | {"original_height": 2, "original_width": 4},
            "missing or invalid numbers",
        ),
        (
            shape("ellipselabels", x=1, y=1, radiusX=0, radiusY=2) | {"original_height": 2, "original_width": 4},
            "without an area",
        ),
        (
            shape("rectanglelabels", x=1, y=1e308, width=1, height=2) | {"original_height": 2, "original_width": 4},
            "far outside",
        ),
    ],
)
def test_a_region_that_makes_no_sense_is_an_error_when_its_mask_is_read(result: Any, reason: str) -> None:
    ((annotation,), _) = read(task(result))
    with pytest.raises(DataError, match=reason):
        annotation.read_mask((2, 4))


def test_what_is_no_region_is_not_read() -> None:
    choice = {"id": "c", "type": "choices", "value": {"choices": ["good"]}}
    relation = {"type": "relation", "from_id": "r1", "to_id": "r2"}
    ((annotation,), rejected) = read(task(brush(LEFT, "dog"), choice, relation))
    assert (annotation.category, rejected) == ("dog", [])
