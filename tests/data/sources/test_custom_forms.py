"""Custom data as COCO JSON, Label Studio export or LabelMe folder: reading, and errors that name the faulty item."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import damage_json
from helpers import mask, noise_image
from PIL import Image
from shares import read_whole

from cores_core.data.prepare import prepare_dataset
from cores_core.data.registry import find_dataset
from cores_core.data.sources.custom import find_splits, read_custom
from cores_core.data.sources.reading import Rejections
from cores_core.data.store import Record, Store
from cores_core.errors import DataError
from cores_core.formats.coco import save_coco
from cores_core.formats.label_studio import save_label_studio
from cores_core.formats.labelled import LabelledImage, LabelledMask
from cores_core.formats.labelme import save_labelme
from cores_core.masks import decode_rle
from cores_core.sample import Query

TAIL, HEAD = mask("....", ".##.", ".##."), mask("#...", "#...", "....")
FISH = LabelledImage(
    "images/a.png", (3, 4), (LabelledMask("Which part steers?", TAIL, 0.9), LabelledMask("head", HEAD, 0.8))
)
BOAT = LabelledImage("images/b.png", (3, 4), (LabelledMask("head", HEAD),))
JUNK = (None, True, -1, 1e999, "", "~", [], {}, [[]], 2**70, "\ud800", {"size": [3, 4], "counts": "04"}, [0, 255])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data root with two images of 3 x 4 pixels."""
    place = tmp_path / "custom/mine"
    (place / "images").mkdir(parents=True)
    for name in ("a", "b"):
        Image.fromarray(noise_image(3, 4)).save(place / f"images/{name}.png")
    return place


def save_as_coco(folder: Path) -> Path:
    save_coco([FISH, BOAT], folder / "train.json")
    return folder / "train.json"


def save_as_tasks(folder: Path) -> Path:
    """As an annotator who accepts all predictions exports them."""
    path = folder / "train.json"
    save_label_studio([FISH, BOAT], path, prefix="/data/local-files/?d=")
    tasks = json.loads(path.read_text())
    path.write_text(json.dumps([task | {"annotations": task.pop("predictions")} for task in tasks]))
    return path


def save_as_labelme(folder: Path) -> Path:
    (folder / "train").mkdir()
    for name, image in (("a", FISH), ("b", BOAT)):
        save_labelme(LabelledImage(f"../{image.image}", image.size_hw, image.masks), folder / f"train/{name}.json")
    return folder / "train"


FORMS = {"COCO": save_as_coco, "Label Studio": save_as_tasks, "LabelMe": save_as_labelme}


def read(path: Path, data_root: Path) -> tuple[list[Record], Rejections]:
    return read_whole(lambda rejected, share: read_custom(path, data_root, rejected, share))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_records(folder: Path, form: str) -> None:
    records, rejected = read(FORMS[form](folder), folder.parents[1])
    assert (rejected.items, rejected.notes) == ([], [])
    assert [(record.image, record.size_hw) for record in records] == [
        ("custom/mine/images/a.png", (3, 4)),
        ("custom/mine/images/b.png", (3, 4)),
    ]
    steering, head = records[0].regions
    assert (steering.queries, steering.category) == ((Query("Which part steers?"),), "Which part steers?")
    assert (head.queries, head.category, head.ignore) == ((Query("head", is_sentence=False),), "head", None)
    assert np.array_equal(decode_rle(steering.mask), TAIL)
    assert np.array_equal(decode_rle(head.mask), HEAD)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_prepared_and_prepared_anew_when_it_changes(folder: Path, form: str) -> None:
    path, root = FORMS[form](folder), folder.parents[1]
    (report,) = prepare_dataset("custom/mine", root, 1, lambda *_: None).values()
    assert not isinstance(report, DataError)
    assert (report.images, report.regions, report.left_out) == (2, 3, ())
    store = Store(root, "custom/mine", "train")
    assert len(store) == 2
    changed = path if path.is_file() else path / "a.json"
    changed.write_text(changed.read_text().replace('"head"', '"face"'))  # of the same size
    prepare_dataset("custom/mine", root, 1, lambda *_: None)
    assert "face" in Store(root, "custom/mine", "train").categories()


@pytest.mark.parametrize("form", FORMS)
def test_an_image_that_is_missing_is_named(folder: Path, form: str) -> None:
    path = FORMS[form](folder)
    (folder / "images/b.png").unlink()
    records, rejected = read(path, folder.parents[1])
    assert len(records) == 1
    ((item, reason),) = rejected.items
    assert reason == "image is missing"
    assert item.startswith(("train.json annotation 3", "train.json tasks[1] `head`", "train/b.json `head`"))


@pytest.mark.parametrize("form", FORMS)
def test_an_image_of_another_size_is_named(folder: Path, form: str) -> None:
    path = FORMS[form](folder)
    Image.fromarray(noise_image(4, 3)).save(folder / "images/b.png")
    records, rejected = read(path, folder.parents[1])
    assert len(records) == 1
    ((_, reason),) = rejected.items
    assert "of another size" in reason


@pytest.mark.parametrize(
    ("form", "reason"), [("COCO", "a path outside the data root"), ("Label Studio", "image is missing")]
)
def test_an_image_outside_of_the_data_root_is_named(folder: Path, form: str, reason: str) -> None:
    """Label Studio's paths are those of its server, so the image is looked for by its name as well."""
    path = FORMS[form](folder)
    path.write_text(path.read_text().replace("images/b.png", "../../../../../etc/hostname.png"))
    records, rejected = read(path, folder.parents[1])
    assert len(records) == 1
    assert reason in rejected.items[0][1]


@pytest.mark.parametrize("place", ["a.png", "images/a.png", "train/a.png"])
@pytest.mark.parametrize("form", ["COCO", "Label Studio"])
def test_images_lie_beside_the_file_or_in_a_folder_of_a_usual_name(folder: Path, form: str, place: str) -> None:
    path = FORMS[form](folder)
    path.write_text(path.read_text().replace("images/a.png", "a.png"))
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / "images/a.png").rename(folder / place)
    records, _ = read(path, folder.parents[1])
    assert records[0].image == f"custom/mine/{place}"


def test_labelme_files_of_windows_and_files_that_moved_find_their_images(folder: Path) -> None:
    path = save_as_labelme(folder)
    for name, told in (("a", "..\\images\\a.png"), ("b", "C:\\photos\\fish 7.png")):
        tree = json.loads((path / f"{name}.json").read_text())
        (path / f"{name}.json").write_text(json.dumps(tree | {"imagePath": told}))
    records, rejected = read(path, folder.parents[1])
    assert (len(records), rejected.items) == (2, [])


def test_labelme_marks_pixels_to_ignore_and_a_question_with_that_word_is_a_question(folder: Path) -> None:
    path = save_as_labelme(folder)
    tree = json.loads((path / "b.json").read_text())
    square = tree["shapes"][0] | {"points": [[2, 1], [3, 1], [3, 2], [2, 2]]}
    tree["shapes"] = [square | {"label": "Ignore"}, tree["shapes"][0] | {"label": "What can one ignore?"}]
    tree["shapes"].append({"label": "flag", "points": []})
    (path / "b.json").write_text(json.dumps(tree))
    (_, record), _ = read(path, folder.parents[1])
    (region,) = record.regions
    assert region.queries == (Query("What can one ignore?"),)
    assert region.ignore is not None
    assert np.array_equal(decode_rle(region.mask), HEAD)
    assert np.array_equal(decode_rle(region.ignore), mask("....", "..##", "..##"))


@pytest.mark.parametrize("is_sentence", [True, False])
def test_a_file_of_reasonsegs_form_asks_with_its_texts(folder: Path, is_sentence: bool) -> None:
    path = save_as_labelme(folder)
    tree = json.loads((path / "a.json").read_text()) | {"text": ["what  steers", "tail?"], "is_sentence": is_sentence}
    (path / "a.json").write_text(json.dumps(tree))
    (record, _), _ = read(path, folder.parents[1])
    (region,) = record.regions
    assert region.queries == (Query("what steers", is_sentence), Query("tail?", is_sentence))
    assert np.array_equal(decode_rle(region.mask), TAIL | HEAD)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("[", "annotation cannot be read"),
        ("[]", "not a LabelMe file"),
        ({"shapes": 7}, "shapes are not a list"),
        ({"shapes": []}, "annotation without a shape"),
        ({"shapes": [{"label": "it", "points": [[1, 1]], "shape_type": "line"}]}, "a shape of type line"),
        ({"shapes": [{"label": "it", "points": [[9, 9], [10, 9], [10, 10]]}]}, "its target lies outside its image"),
        ({"imageHeight": 7}, "image of another size than its annotations"),
        ({"text": []}, "`text` must be a list of texts"),
    ],
)
def test_a_labelme_file_that_makes_no_sense_is_left_out_by_its_name(folder: Path, change: Any, reason: str) -> None:
    path = save_as_labelme(folder)
    file = path / "b.json"
    file.write_text(change if isinstance(change, str) else json.dumps(json.loads(file.read_text()) | change))
    records, rejected = read(path, folder.parents[1])
    assert len(records) == 1
    ((item, why),) = rejected.items
    assert item.startswith("train/b.json")
    assert reason in why


@pytest.mark.parametrize("text", ["{}", "7", '{"shapes": [], "imagePath": "a.png"}', '{"a": [', "\x00"])
def test_a_json_of_no_known_form_is_one_error(folder: Path, text: str) -> None:
    (folder / "train.json").write_text(text)
    with pytest.raises(DataError, match=r"train\.json"):
        read(folder / "train.json", folder.parents[1])


def test_splits_are_files_or_else_folders(folder: Path) -> None:
    assert find_splits(folder) == {}
    save_as_labelme(folder)
    assert find_splits(folder) == {"train": "train"}
    (folder / "val.json").write_text("{}")
    (folder / "test.jsonl").write_text("")
    (folder / "val.jsonl").write_text("")
    (folder / "._val.json").write_text("")  # as macOS leaves behind
    assert find_splits(folder) == {"test": "test.jsonl", "val": "val.jsonl"}
    assert list(find_dataset("custom/mine", folder.parents[1]).splits) == ["test", "val"]


def test_a_json_beside_a_jsonl_is_noted_as_not_read(folder: Path) -> None:
    save_as_coco(folder)
    row = {"image": "images/a.png", "phrases": "tail", "mask": [[1, 1, 3, 1, 3, 3, 1, 3]]}
    (folder / "train.jsonl").write_text(json.dumps(row))
    (record,), rejected = read(folder / "train.jsonl", folder.parents[1])
    assert len(record.regions) == 1
    assert rejected.notes == [("train.json", "not read, because train.jsonl exists")]


@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_never_crash(folder: Path, form: str) -> None:
    save: Callable[[Path], Path] = FORMS[form]
    path, rng = save(folder), random.Random(0)
    file = path if path.is_file() else path / "a.json"
    good = file.read_text()
    for _ in range(250):
        file.write_text(damage_json(good, rng, JUNK), errors="surrogatepass")
        try:
            records, _ = read(path, folder.parents[1])
        except DataError:
            continue
        for record in records:
            assert all(region.mask["size"] == [3, 4] and region.queries for region in record.regions)
