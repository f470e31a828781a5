"""COCO JSON: pycocotools loads it and finds the masks, `cores eval score` scores it, and it is read back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fillers import blob_mask, odd_masks, ring_mask
from helpers import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cores_core.errors import DataError
from cores_core.evaluate.foreign import score_predictions
from cores_core.evaluate.targets import Target
from cores_core.formats.coco import Form, read_coco, save_coco
from cores_core.formats.labelled import Annotation, LabelledImage, LabelledMask
from cores_core.masks import decode_rle, encode_rle

QUESTION = "Which part steers the  fish?"
IMAGES = (
    LabelledImage(
        "photos/fish.jpg",
        (90, 120),
        (
            LabelledMask(QUESTION, blob_mask(90, 120, seed=0), 0.93217),
            LabelledMask("rings of the fish", np.pad(ring_mask(60, 25, 10), ((0, 30), (60, 0)))),
            LabelledMask("the moon?", np.zeros((90, 120), dtype=bool), 0.0),
        ),
    ),
    LabelledImage("photos/boat.jpg", (40, 30), (LabelledMask(QUESTION, blob_mask(40, 30, seed=1), 0.5),)),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "predictions.json"


def read(path: Path, **options: Any) -> tuple[list[Annotation], list[tuple[str, int, str]]]:
    rejected: list[tuple[str, int, str]] = []
    tree = json.loads(path.read_text(encoding="utf-8"))
    return list(read_coco(tree, path.name, lambda *entry: rejected.append(entry), **options)), rejected


@pytest.mark.parametrize("form", ["rle", "polygon"])
def test_pycocotools_finds_every_mask_box_and_score(path: Path, form: Form) -> None:
    save_coco(IMAGES, path, form)
    known = COCO(str(path))
    names = {image["file_name"]: number for number, image in known.imgs.items()}
    for image in IMAGES:
        annotations = known.loadAnns(known.getAnnIds(imgIds=[names[image.image]]))
        assert len(annotations) == len(image.masks)
        for labelled, annotation in zip(image.masks, annotations, strict=True):
            assert np.array_equal(known.annToMask(annotation).astype(bool), labelled.mask)
            assert known.cats[annotation["category_id"]]["name"] == labelled.name
            assert tuple(annotation["bbox"]) == labelled.box
            assert annotation["area"] == labelled.mask.sum()
            assert annotation["score"] == round(labelled.score, 4)


@pytest.mark.parametrize("form", ["rle", "polygon"])
def test_its_annotations_are_results_that_pycocotools_scores_with_iou_1(path: Path, form: Form) -> None:
    save_coco(
        [
            LabelledImage(f"{number}.png", m.shape, (LabelledMask("it", m),))
            for number, m in enumerate(odd_masks())
            if m.any()
        ],
        path,
        form,
    )
    known = COCO(str(path))
    evaluation = COCOeval(known, known.loadRes(list(known.anns.values())), "segm")
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.evaluate()
    assert {float(ious[0][0]) for ious in evaluation.ious.values()} == {1.0}


@pytest.mark.parametrize("form", ["rle", "polygon"])
def test_eval_score_takes_it_with_iou_1(path: Path, form: Form) -> None:
    """Also the answer that nothing is there; paths may have those of the data root before them."""
    save_coco(
        [LabelledImage(f"/home/me/data/{image.image}", image.size_hw, image.masks) for image in IMAGES], path, form
    )
    targets = [
        Target(f"{image.image} {number}", image.image, "", labelled.label, True, encode_rle(labelled.mask), ignore=None)
        for image in IMAGES
        for number, labelled in enumerate(image.masks)
    ]
    items, report = score_predictions(targets, path, strict=True)
    assert [item.overlap.iou for item in items] == [1.0] * 4
    assert (report.missing, report.problems) == ((), ())


@pytest.mark.parametrize("form", ["rle", "polygon"])
def test_what_is_written_is_read(path: Path, form: Form) -> None:
    save_coco(IMAGES, path, form)
    annotations, rejected = read(path)
    assert rejected == []
    assert [(entry.image, entry.size_hw, entry.category) for entry in annotations] == [
        ("photos/fish.jpg", (90, 120), "Which part steers the fish?"),
        ("photos/fish.jpg", (90, 120), "rings of the fish"),
        ("photos/fish.jpg", (90, 120), "the moon?"),
        ("photos/boat.jpg", (40, 30), "Which part steers the fish?"),
    ]
    assert [(entry.questions, entry.phrases) for entry in annotations[:2]] == [
        (("Which part steers the fish?",), ()),
        ((), ("rings of the fish",)),
    ]
    masks = [labelled.mask for image in IMAGES for labelled in image.masks]
    for entry, expected in zip(annotations, masks, strict=True):
        if expected.any():
            assert entry.size_hw is not None
            assert np.array_equal(decode_rle(entry.read_mask(entry.size_hw).mask), expected)
        else:
            with pytest.raises(DataError, match="empty mask"):
                entry.read_mask((90, 120))


LEFT, RIGHT = mask("##..", "##.."), mask("...#", "...#")


def test_objects_of_one_answer_are_annotations_of_one_category_and_read_as_one_target(path: Path) -> None:
    save_coco([LabelledImage("a.png", (2, 4), (LabelledMask("the dogs", LEFT), LabelledMask("the dogs", RIGHT)))], path)
    tree = json.loads(path.read_text())
    assert [entry["category_id"] for entry in tree["annotations"]] == [1, 1]
    ((annotation,), _) = read(path)
    assert annotation.source == "annotation 1,2"
    assert np.array_equal(decode_rle(annotation.read_mask((2, 4)).mask), LEFT | RIGHT)


def test_an_annotation_with_texts_of_its_own_is_a_target_of_its_own(path: Path) -> None:
    save_coco([LabelledImage("a.png", (2, 4), tuple(LabelledMask("dog", m) for m in (LEFT, RIGHT)))], path)
    tree = json.loads(path.read_text())
    tree["annotations"][1] |= {"questions": "Who barks?", "phrases": ["the  barking dog", "the barking dog"]}
    path.write_text(json.dumps(tree))
    (own, other), rejected = read(path)
    assert rejected == []
    assert (own.questions, own.phrases, own.category) == (("Who barks?",), ("the barking dog",), "dog")
    assert (other.questions, other.phrases) == ((), ("dog",))
    assert np.array_equal(decode_rle(own.read_mask((2, 4)).mask), RIGHT)
    assert np.array_equal(decode_rle(other.read_mask((2, 4)).mask), LEFT)


def test_an_image_that_comes_twice_is_listed_once(path: Path) -> None:
    save_coco([LabelledImage("a.png", (2, 4), (LabelledMask(name, LEFT),)) for name in ("cat", "dog")], path)
    tree = json.loads(path.read_text())
    assert tree["images"] == [{"id": 1, "file_name": "a.png", "height": 2, "width": 4}]
    assert [entry["image_id"] for entry in tree["annotations"]] == [1, 1]


def test_an_image_in_two_sizes_is_one_error_and_writes_nothing(path: Path) -> None:
    images = [LabelledImage("a.png", (2, 4), ()), LabelledImage("a.png", (4, 2), ())]
    with pytest.raises(DataError, match=r"two sizes: a\.png"):
        save_coco(images, path)
    assert not path.exists()


def test_a_mask_of_another_size_than_its_image_is_one_error() -> None:
    with pytest.raises(DataError, match=r"a mask of \(2, 4\) for an image of \(4, 2\): a\.png"):
        LabelledImage("a.png", (4, 2), (LabelledMask("dog", LEFT),))


@pytest.mark.parametrize("tree", [None, [], 7, {}, {"images": []}, {"images": [], "annotations": [], "categories": []}])
def test_another_file_is_one_error(tree: Any) -> None:
    with pytest.raises(DataError, match=r"not a COCO-style annotation file: own\.json"):
        list(read_coco(tree, "own.json", lambda *_: None))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "1"}, "a value is missing or of another type"),
        ({"image_id": 9}, "unknown image id"),
        ({"category_id": 9}, "unknown category id"),
        ({"questions": 7}, "`questions` must be a text or a list of texts"),
        ({"questions": [""]}, "a question or phrase is empty or not a text"),
        ({"phrases": []}, "no question and no phrase"),
        ({"phrases": "half a pair \ud800"}, "a question or phrase is not Unicode"),
    ],
)
def test_an_annotation_that_makes_no_sense_is_left_out_by_its_place(path: Path, change: Any, reason: str) -> None:
    save_coco([LabelledImage("a.png", (2, 4), (LabelledMask("cat", LEFT), LabelledMask("dog", RIGHT)))], path)
    tree = json.loads(path.read_text())
    tree["annotations"][1] |= change
    path.write_text(json.dumps(tree))
    annotations, rejected = read(path)
    assert [annotation.category for annotation in annotations] == ["cat"]
    assert rejected == [("annotations", 1, reason)]


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "not a segmentation"),
        ([], "no polygon"),
        ({"size": [4, 2], "counts": [8]}, "of size"),
        ([[9, 9] * 3], "empty"),
    ],
)
def test_a_mask_that_makes_no_sense_is_an_error_when_it_is_read(path: Path, segmentation: Any, reason: str) -> None:
    """Of one that is an object of several, too, for the target would lack it."""
    save_coco([LabelledImage("a.png", (2, 4), (LabelledMask("dog", LEFT),))], path)
    tree = json.loads(path.read_text())
    tree["annotations"][0]["segmentation"] = segmentation
    path.write_text(json.dumps(tree))
    ((annotation,), _) = read(path)
    with pytest.raises(DataError, match=reason):
        annotation.read_mask((2, 4))
