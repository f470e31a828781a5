"""ReasonPart is built from PartImageNet and PASCAL-Part, a fixed question for each part."""

import json
from pathlib import Path

import pytest
from helpers import noise_image
from PIL import Image
from shares import read_whole

from cores_core.data.questions.bank import load_benchmark
from cores_core.data.registry import DATASETS
from cores_core.data.sources.reasonpart import HALVES, read_reasonpart
from cores_core.data.sources.vlparts import PASCAL_PART_IMAGES
from cores_core.sample import Query

DIGEST = "066cdb6898f67f59ebfc3a8e8781d2d0cc5e659d54ae21566aa0a2665d502d12"
"""Of the questions of version 1: if one changes, raise the version, and READING in data/prepare.py, then this."""
BOX, DOT = [[1, 1, 20, 1, 20, 15, 1, 15]], [[3, 3, 4, 3, 4, 4, 3, 4]]


def test_the_questions_are_those_that_the_version_says() -> None:
    assert (load_benchmark().version, load_benchmark().digest) == (1, DIGEST)


@pytest.mark.parametrize(
    ("half", "names", "images"),
    [
        ("partimagenet", ["Fish Tail", "Fish Head", "Fish"], "val/n1"),
        ("pascal_part", ["bird:beak", "bird:tail", "bird"], PASCAL_PART_IMAGES),
    ],
)
def test_each_part_is_asked_about_with_its_fixed_question(
    tmp_path: Path, half: str, names: list[str], images: str
) -> None:
    folder = tmp_path / HALVES[half]
    (folder / images).mkdir(parents=True)
    Image.fromarray(noise_image(20, 30)).save(folder / images / "n1_1.JPEG")
    tree = {
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        "images": [{"id": 1, "file_name": "n1_1.JPEG", "height": 20, "width": 30}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": number, "segmentation": DOT if number else BOX, "iscrowd": 0}
            for number in range(3)
        ],
    }
    (folder / "val.json").write_text(json.dumps(tree))
    assert DATASETS["reasonpart"].missing(tmp_path, half) == []
    (record,), _ = read_whole(lambda told, share: read_reasonpart(tmp_path, HALVES[half], told, share))
    questions = load_benchmark().questions[half]
    expected = [name.replace(":", " ") for name in names[:2]]  # small parts count, whole objects do not
    assert [region.category for region in record.regions] == expected
    assert [region.queries for region in record.regions] == [(Query(questions[name]),) for name in expected]


def test_a_half_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert DATASETS["reasonpart"].missing(tmp_path, "pascal_part") == [tmp_path / "vlpart/pascal_part/val.json"]
