"""What real annotation files hold: each case is read right, or left out with its reason while the rest is prepared."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import mask, noise_image
from PIL import ExifTags, Image

from cores_core.data.prepare import SplitReport, prepare_dataset
from cores_core.data.store import Record, Store
from cores_core.masks import decode_rle, encode_rle

TAIL = mask("....", ".##.", ".##.")
BOX = [1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0]
RLE = dict(encode_rle(TAIL))
RUNS = {"size": [3, 4], "counts": [4, 2, 1, 2, 3]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of 3 x 4 pixels."""
    place = tmp_path / "custom/mine"
    for name in ("a.png", "deep/er/a.png", "a b%20.png"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise_image(3, 4)).save(place / name)
    return place


def prepare(folder: Path) -> tuple[list[Record], list[tuple[str, str]]]:
    """Records and left-out items of the split, read back from its store."""
    left_out = list(report(folder).left_out)
    return list(Store(folder.parents[1], "custom/mine", "train")), left_out


def report(folder: Path) -> SplitReport:
    (found,) = prepare_dataset("custom/mine", folder.parents[1], 1, lambda *_: None).values()
    assert isinstance(found, SplitReport), found
    return found


def coco(segmentation: Any, file_name: str = "a.png", **more: Any) -> dict[str, Any]:
    annotation = {"id": 7, "image_id": 3, "category_id": 900, "segmentation": segmentation, **more}
    return {
        "images": [{"id": 3, "file_name": file_name, "height": 3, "width": 4}],
        "categories": [{"id": 900, "name": "tail"}],
        "annotations": [annotation],
    }


@pytest.mark.parametrize(
    "tree",
    [
        coco([BOX]),
        coco(RLE),
        coco(RUNS),
        coco(RLE, iscrowd=1),
        coco([[*BOX, 1.0, 1.0]]),
        coco([[1.0, 1.0, *BOX]]),
        coco([BOX, BOX]),
        coco([BOX, [1.0, 1.0, 2.0, 2.0]]),
        coco([[-4.0, 1.0, -4.0, 2.0, -6.0, 2.0], BOX]),
        coco([BOX], "deep/er/a.png"),
        coco([BOX], "./a.png"),
        coco([BOX], "a b%20.png"),
    ],
    ids=[
        "polygon", "RLE", "runs", "crowd", "closed", "repeated point", "twice", "with a line", "partly outside",
        "folders", "dot", "space and percent",
    ],
)  # fmt: skip
def test_a_coco_annotation_is_read_to_the_pixel(folder: Path, tree: dict[str, Any]) -> None:
    (folder / "train.json").write_text(json.dumps(tree))
    (record,), left_out = prepare(folder)
    assert left_out == []
    assert np.array_equal(decode_rle(record.regions[0].mask), TAIL)


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        (coco({"size": [4, 3], "counts": [12]}), "its mask is of size [4, 3], not [3, 4]"),
        (coco({"size": [3, 4], "counts": [4, 2, 1]}), "do not fill its image"),
        (coco([RLE, RLE]), "a list of RLEs"),
        (coco([[1.0, 1.0, 3.0, 3.0]]), "no polygon of three points"),
        (coco([[1e9, 1.0, 3.0, 1.0, 3.0, 3.0]]), "far outside"),
        (coco([[-9.0, -9.0, -5.0, -9.0, -5.0, -5.0]]), "empty mask"),
        (coco([[float("nan"), 1.0, 3.0, 1.0, 3.0, 3.0]]), "not a finite number"),
        (coco([BOX], "http://images.cocodataset.org/train2017/a.png"), "a URL"),
        (coco([BOX], "s3:/bucket/a.png"), "a URL"),
        (coco([BOX], "C:\\photos\\a.png"), "a Windows path"),
        (coco([BOX], "gone.png"), "image is missing"),
        (coco([BOX]) | {"images": [{"id": 3, "file_name": "a.png", "height": 4, "width": 3}]}, "another size"),
        (coco([BOX], id=True), "of another type"),
        (coco([BOX], category_id=1), "unknown category id"),
    ],
    ids=[
        "transposed", "runs too short", "list of RLEs", "a line", "far", "outside", "NaN", "URL", "bucket", "Windows",
        "missing", "size", "id", "category",
    ],
)  # fmt: skip
def test_a_coco_annotation_that_cannot_be_used_is_left_out_with_its_reason(
    folder: Path, tree: dict[str, Any], reason: str
) -> None:
    (folder / "train.json").write_text(json.dumps(tree))
    records, left_out = prepare(folder)
    assert not records
    assert any(reason in found for _, found in left_out), left_out


TASK = {"id": 1, "data": {"image": "a.png"}, "annotations": [{"id": 1, "result": []}]}


@pytest.mark.parametrize(
    ("tree", "key"),
    [(coco([BOX]), "segmentation"), (coco([BOX]), "annotations"), ([TASK], "result")],
    ids=["COCO annotation", "COCO", "Label Studio"],
)
def test_a_key_that_occurs_twice_in_a_file_is_one_error(folder: Path, tree: Any, key: str) -> None:
    (folder / "train.json").write_text(json.dumps(tree).replace(f'"{key}":', f'"{key}": [], "{key}":', 1))
    (outcome,) = prepare_dataset("custom/mine", folder.parents[1], 1, lambda *_: None).values()
    assert not isinstance(outcome, SplitReport)
    assert f"the key `{key}` occurs twice" in outcome.message
    assert "train.json" in outcome.message


def test_a_labelme_file_in_which_a_key_occurs_twice_is_left_out(folder: Path) -> None:
    shapes = '[{"label": "tail", "points": [[1, 1], [3, 1], [3, 3]], "shape_type": "polygon", "label": "head"}]'
    (folder / "train").mkdir()
    (folder / "train/a.json").write_text(f'{{"imagePath": "a.png", "shapes": {shapes}}}')
    records, left_out = prepare(folder)
    assert not records
    assert left_out == [("train/a.json", "the key `label` occurs twice")]


@pytest.mark.parametrize("form", ["bom", "crlf", "utf-16"])
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_encodings_of_other_systems_are_read_or_refused(folder: Path, form: str, suffix: str) -> None:
    tree = coco([BOX]) if suffix == "json" else {"image": "a.png", "questions": "What steers?", "mask": [BOX]}
    text = json.dumps(tree, indent=1 if suffix == "json" else None) + "\n"
    data = {"bom": b"\xef\xbb\xbf" + text.encode(), "crlf": text.replace("\n", "\r\n").encode()}
    (folder / f"train.{suffix}").write_bytes(data.get(form, text.encode("utf-16")))
    if form == "utf-16":
        (outcome,) = prepare_dataset("custom/mine", folder.parents[1], 1, lambda *_: None).values()
        assert not isinstance(outcome, SplitReport)
        assert f"train.{suffix}" in outcome.message
    else:
        assert len(prepare(folder)[0]) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"image": "a.png", "questions": "a?", "questions": "b?", "mask": null}', "key `questions` occurs twice"),
        ('{"image": "a.png", "questions": "a?", "mask": {"size": [3, 4], "counts": "04", "size": []}}', "twice"),
        ('{"image": "a.png", "questions": "a?", "mask": [[NaN, 1, 3, 1, 3, 3]]}', "not a finite number"),
        ('{"image": "a.png", "questions": "", "mask": null}', "no question"),
        ('{"image": "a.png", "questions": [" \\t"], "mask": null}', "empty"),
        ('{"image": "a.png", "questions": ["\\ud800"], "mask": null}', "not Unicode"),
        ('{"image": "a.png", "questions": ["a?"], "mask": ' + "[" * 5000 + "}", "nested too deeply"),
    ],
)
def test_a_line_that_cannot_be_used_is_left_out_with_its_reason(folder: Path, text: str, reason: str) -> None:
    (folder / "train.jsonl").write_text(text)
    records, ((item, found),) = prepare(folder)
    assert not records
    assert item == "train.jsonl:1"
    assert reason in found


@pytest.mark.parametrize(
    "question",
    ["x" * 10_000, "\u05d0\u05d9\u05e4\u05d4?", "<b>[bold]{x}</b>?", "a\u0007b\u001b[31mc?", "[SEG] </s> <image>?"],
    ids=["long", "right to left", "markup", "control characters", "special tokens"],
)
def test_any_text_is_a_question(folder: Path, question: str) -> None:
    (folder / "train.jsonl").write_text(json.dumps({"image": "a.png", "questions": [question], "mask": None}))
    (record,), _ = prepare(folder)
    assert record.regions[0].queries[0].text == question


@pytest.mark.parametrize("kind", ["linestrip", "line", "point", "points", "cube"])
def test_a_labelme_shape_without_an_area_is_left_out_with_its_type(folder: Path, kind: str) -> None:
    shape = {"label": "tail", "points": [[0, 0], [2, 2]], "shape_type": kind}
    (folder / "train").mkdir()
    (folder / "train/a.json").write_text(json.dumps({"imagePath": "a.png", "imageData": "AAAA", "shapes": [shape]}))
    records, ((_, reason),) = prepare(folder)
    assert not records
    assert f"type {kind}" in reason


@pytest.mark.parametrize("size_hw", [(3, 4), (4, 4)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_that_fits_turned_and_unturned_is_upright_and_noted(
    folder: Path, orientation: int, size_hw: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    is_square, is_sideways = size_hw[0] == size_hw[1], orientation > 4
    stored = noise_image(*(size_hw[::-1] if is_sideways else size_hw))
    Image.fromarray(stored).save(folder / "a.png", exif=exif)
    drawn = np.zeros(size_hw, dtype=bool)
    drawn[1:3, 1:3] = True
    rows = [{"image": "a.png", "questions": ["a?"], "mask": shape} for shape in ([BOX], dict(encode_rle(drawn)), None)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    notes = report(folder).notes
    (record,) = Store(folder.parents[1], "custom/mine", "train")
    assert record.size_hw == size_hw
    assert all(np.array_equal(decode_rle(region.mask), drawn) for region in record.regions[:2])
    fits_twice = orientation in (2, 3, 4) or (is_sideways and is_square)
    assert [item for item, _ in notes] == ["train.jsonl:1", "train.jsonl:2"] * fits_twice
    assert all("drawn on the upright image" in assumption for _, assumption in notes)


def test_the_picture_within_a_labelme_file_does_not_count(folder: Path) -> None:
    """LabelMe may store an image in its file. Here it is another one, of another size."""
    buffer = io.BytesIO()
    Image.fromarray(noise_image(9, 9, seed=1)).save(buffer, format="PNG")
    shape = {"label": "tail", "points": np.reshape(BOX, (-1, 2)).tolist(), "shape_type": "polygon"}
    data = base64.b64encode(buffer.getvalue()).decode()
    tree = {"imagePath": "../a.png", "imageData": data, "imageHeight": 3, "imageWidth": 4, "shapes": [shape]}
    (folder / "train").mkdir()
    (folder / "train/a.json").write_text(json.dumps(tree))
    (record,), left_out = prepare(folder)
    assert left_out == []
    assert (record.image, record.size_hw) == ("custom/mine/a.png", (3, 4))
    assert np.array_equal(decode_rle(record.regions[0].mask), mask("....", ".###", ".###"))
