"""Custom data: masks in every form, and invalid lines."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import mask, noise_image
from PIL import Image
from shares import read_whole

from cores_core.data.sources.custom import read_custom
from cores_core.data.sources.reading import Rejections
from cores_core.data.store import Record
from cores_core.errors import DataError
from cores_core.masks import decode_rle, encode_rle
from cores_core.sample import BoolMask, Query

TARGET = mask("....", ".##.", ".##.")
NOISE = ("", "9" * 12, "[", "]", "{}", "null", '"', "-1", "1e999", "~", "0")
POLYGON = [[1, 1, 3, 1, 3, 3, 1, 3]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data root with one image of 3 x 4 pixels."""
    place = tmp_path / "custom/mine"
    (place / "images").mkdir(parents=True)
    Image.fromarray(noise_image(3, 4)).save(place / "images/a.png")
    return place


def write(folder: Path, *rows: Any) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(folder: Path) -> tuple[list[Record], Rejections]:
    return read_whole(lambda rejected, share: read_custom(folder / "train.jsonl", folder.parents[1], rejected, share))


def row(**changes: Any) -> dict[str, Any]:
    return {"image": "images/a.png", "questions": ["What?"], "mask": POLYGON} | changes


def save_mask(folder: Path, values: BoolMask, inside: int) -> str:
    Image.fromarray(values.astype(np.uint8) * np.uint8(inside)).save(folder / "mask.png")
    return "mask.png"


@pytest.mark.parametrize("form", ["polygon", "rle", "png of 255", "png of 1"])
def test_a_mask_has_many_forms(folder: Path, form: str) -> None:
    forms = {
        "polygon": lambda: POLYGON,
        "rle": lambda: encode_rle(TARGET),
        "png of 255": lambda: save_mask(folder, TARGET, 255),
        "png of 1": lambda: save_mask(folder, TARGET, 1),
    }
    write(folder, row(mask=forms[form]()))
    (record,), rejected = read(folder)
    assert not rejected.items
    assert np.array_equal(decode_rle(record.regions[0].mask), TARGET)


def test_a_png_of_ones_may_ignore_pixels(folder: Path) -> None:
    values = TARGET.astype(np.uint8)
    values[0] = 255
    Image.fromarray(values).save(folder / "mask.png")
    write(folder, row(mask="mask.png"))
    (record,), _ = read(folder)
    region = record.regions[0]
    assert np.array_equal(decode_rle(region.mask), TARGET)
    assert region.ignore is not None
    assert decode_rle(region.ignore).sum() == 4


def test_lines_about_one_image_are_one_record(folder: Path) -> None:
    write(folder, row(), "", row(questions=[], phrases=["the  tail", "the tail"], category="tail"))
    (record,), rejected = read(folder)
    assert not rejected.items
    assert record.image == "custom/mine/images/a.png"
    assert record.size_hw == (3, 4)
    assert [region.queries for region in record.regions] == [(Query("What?"),), (Query("the tail", False),)]
    assert record.regions[1].category == "tail"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("{", "malformed line"),
        ("[]", "malformed line"),
        (row(image=7), "must be a path"),
        ({"img": "images/a.png", "questions": ["What?"], "mask": POLYGON}, "`img`, did you mean `image`"),
        ({"image": "images/a.png", "query": "What?", "mask": POLYGON}, "`query`, did you mean `questions`"),
        ({"image": "images/a.png", "questions": ["What?"], "rle": {}}, "`rle`, did you mean `mask`"),
        (row() | {"Question": "What?"}, "`Question`, did you mean `questions`"),
        (row(image="https://host/a.png"), "URL"),
        (row(image="images\\a.png"), "Windows path"),
        (row(image="C:/photos/a.png"), "Windows path"),
        (row(image="../../../a.png"), "outside the data root"),
        (row(image="/etc/a.png"), "outside the data root"),
        (row(mask="../../../mask.png"), "outside the data root"),
        (row(questions={"What?": 1}), "`questions` must be a text"),
        (row(questions=7), "`questions` must be a text"),
        (row(questions=["What?", 7]), "not a text"),
        (row(category=7), "`category` must be a text"),
        (row(mask=7), "not a segmentation"),
        (row(mask=[encode_rle(TARGET)]), "a list of RLEs"),
        (row(mask=[1, 1, 3, 1, 3, 3]), "one flat polygon"),
        (row(mask=[[1, 1], [3, 1], [3, 3]]), "of [x, y] points"),
        (row(mask=[[[1, 1], [3, 1], [3, 3]]]), "of [x, y] points"),
        (row(mask=[[1, 1, 3, float("nan"), 3, 3]]), "not a finite number"),
        (row(mask=[[-9, -9, -5, -9, -5, -5]]), "empty mask"),
        (row(mask=[[1, 1, 1, 1, 1, 1]]), "empty mask"),
        (row(mask={"size": [3, 4], "counts": [12]}), "empty mask"),
        (row(mask="images/black.png"), "empty mask"),
        (row(image="images/b.png"), "image is missing"),
        (row(questions=[]), "no question"),
        (row(questions=["  "]), "is empty"),
        (row(mask=[[1, 1, 2, 2]]), "no polygon"),
        (row(mask={"size": [4, 3], "counts": "04"}), "of size"),
        (row(mask="images/a.png/x"), "cannot be read"),
        (row(mask="images"), "cannot be read"),
        ({"image": "images/a.png", "questions": ["What?"]}, "no `mask`"),
    ],
)
def test_a_line_that_makes_no_sense_is_left_out_by_its_number(folder: Path, broken: Any, reason: str) -> None:
    Image.new("L", (4, 3)).save(folder / "images/black.png")
    write(folder, row(), broken)
    records, rejected = read(folder)
    assert len(records) == 1
    ((item, why),) = rejected.items
    assert item == "train.jsonl:2"
    assert reason in why


def test_a_mask_of_another_size_is_left_out(folder: Path) -> None:
    write(folder, row(mask=save_mask(folder, TARGET[:2], 255)))
    records, rejected = read(folder)
    assert not records
    assert "another size" in rejected.items[0][1]


def test_no_file_is_one_error(folder: Path) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl"):
        read(folder)


def test_damaged_files_never_crash(folder: Path) -> None:
    rng = random.Random(0)
    good = "\n".join(json.dumps(row(mask=form)) for form in (POLYGON, encode_rle(TARGET)))
    for _ in range(300):
        text = list(good)
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(text))
            text[place : place + rng.randint(0, 4)] = rng.choice(NOISE)
        write(folder, "".join(text))
        records, _ = read(folder)
        assert all(region.mask["size"] == [3, 4] for record in records for region in record.regions)


@pytest.mark.parametrize("key", ["questions", "phrases"])
def test_one_text_may_stand_in_place_of_a_list(folder: Path, key: str) -> None:
    write(folder, row(questions=[]) | {key: "the dog"})
    (record,), rejected = read(folder)
    assert not rejected.items
    assert [query.text for query in record.regions[0].queries] == ["the dog"]


@pytest.mark.parametrize(("key", "meant"), [("question", "questions"), ("phrase", "phrases")])
def test_a_misspelled_key_is_named_with_the_one_that_was_meant(folder: Path, key: str, meant: str) -> None:
    write(folder, row() | {key: "What?"})
    records, rejected = read(folder)
    assert not records
    assert f"`{key}`, did you mean `{meant}`" in rejected.items[0][1]


@pytest.mark.parametrize("nothing", [None, []])
def test_a_mask_of_null_or_an_empty_list_means_that_the_target_is_not_in_the_image(folder: Path, nothing: Any) -> None:
    write(folder, row(mask=nothing))
    (record,), rejected = read(folder)
    assert not rejected.items
    assert not decode_rle(record.regions[0].mask).any()


def test_an_absolute_path_below_a_relative_data_root_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parents[1])
    write(folder, row(image=str(folder / "images/a.png")))
    records = list(read_custom(Path("custom/mine/train.jsonl"), Path(), Rejections()))
    assert [record.image for record in records] == ["custom/mine/images/a.png"]


def test_links_below_the_data_root_may_lead_out_of_it(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("photos")
    Image.fromarray(noise_image(3, 4)).save(elsewhere / "b.png")
    (folder / "photos").symlink_to(elsewhere)
    write(folder, row(image="photos/b.png"))
    (record,), _ = read(folder)
    assert record.image == "custom/mine/photos/b.png"


def test_what_was_assumed_and_keys_that_are_not_read_are_noted(folder: Path) -> None:
    soft = np.array([[0] * 20, [0] * 9 + [128] + [255] * 10, [255] * 20], dtype=np.uint8)
    Image.fromarray(noise_image(3, 20)).save(folder / "images/wide.png")
    Image.fromarray(soft).save(folder / "soft.png")
    write(folder, row() | {"author": "me"}, row(image="images/wide.png", mask="soft.png") | {"author": "me"})
    records, rejected = read(folder)
    assert len(records) == 2
    assert not rejected.items
    (key, (item, assumption)) = rejected.notes
    assert key == ("train.jsonl:1", "the key `author` is not read")
    assert item == "train.jsonl:2"
    assert "half" in assumption
