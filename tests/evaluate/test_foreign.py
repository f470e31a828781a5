"""Masks from any system come in any form, are scored by the same rules, and what cannot be used is named."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import damage_json
from helpers import mask
from PIL import Image

from cores_core.errors import DataError
from cores_core.evaluate.foreign import ForeignReport, score_predictions
from cores_core.evaluate.items import Item
from cores_core.evaluate.scores import score_items
from cores_core.evaluate.targets import Target
from cores_core.masks import decode_rle, encode_rle
from cores_core.sample import BoolMask

TAIL = mask("........", "..####..", "..####..", "........")
HEAD = mask("##......", "##......", "........", "........")
POLYGON = [2.0, 1.0, 6.0, 1.0, 6.0, 3.0, 2.0, 3.0]


def target(key: str, inside: BoolMask, question: str, image: str = "photos/fish.jpg", category: str = "Fish") -> Target:
    return Target(f"custom/val/{key}", image, category, question, True, encode_rle(inside), ignore=None)


TARGETS = (
    target("0.0.0", TAIL, "What steers the fish?"),
    target("0.1.0", HEAD, "What eats?"),
    target("1.0.0", TAIL, "What steers the fish?", image="photos/other.jpg"),
)


def save_rows(folder: Path, *rows: Any) -> Path:
    """A row is written as JSON, or as it is where it is bytes."""
    path = folder / "predictions.jsonl"
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def score_mask(folder: Path, given: Any) -> tuple[Item, ForeignReport]:
    items, report = score_predictions(TARGETS[:1], save_rows(folder, {"id": TARGETS[0].id, "mask": given}))
    return items[0], report


def save_png(folder: Path, values: Any, mode: str | None = None, name: str = "tail.png") -> str:
    image = Image.fromarray(np.asarray(values))
    (image.convert(mode) if mode else image).save(folder / name)
    return name


def reasons(path: Path, targets: tuple[Target, ...] = TARGETS) -> list[tuple[int, str]]:
    _, report = score_predictions(targets, path)
    return [(problem.line, problem.reason) for problem in report.problems]


GOOD = {"id": TARGETS[1].id, "mask": encode_rle(HEAD)}
UNCOMPRESSED = {"size": [4, 8], "counts": [9, 2, 2, 2, 2, 2, 2, 2, 9]}


@pytest.mark.parametrize(
    "given", [encode_rle(TAIL), UNCOMPRESSED, [POLYGON], [POLYGON, [0, 0, 1, 1]]], ids=["RLE", "runs", "polygon", "two"]
)
def test_a_mask_comes_as_coco_writes_it(tmp_path: Path, given: Any) -> None:
    item, report = score_mask(tmp_path, given)
    assert np.array_equal(decode_rle(item.mask), TAIL)
    assert item.overlap.iou == 1
    assert report == ForeignReport(count=1, missing=(), problems=())


@pytest.mark.parametrize("value", [1, 255, 7])
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_a_mask_comes_as_png_of_any_value_and_kind(tmp_path: Path, value: int, mode: str) -> None:
    values = TAIL.astype(np.uint8) * value
    if mode == "P":
        image = Image.fromarray(values, mode="P")
        image.putpalette([0, 0, 0, *[0, 128, 0] * 255])
        image.save(tmp_path / "tail.png")
    elif mode == "I;16":
        save_png(tmp_path, values.astype(np.uint16))
    else:
        save_png(tmp_path, values, mode)
    item, report = score_mask(tmp_path, "tail.png")
    assert np.array_equal(decode_rle(item.mask), TAIL)
    assert not report.problems


def test_a_mask_comes_as_png_of_one_bit_and_from_a_folder_beside(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    save_png(tmp_path / "masks", TAIL)
    assert score_mask(tmp_path, "masks/tail.png")[0].overlap.iou == 1


@pytest.mark.parametrize("colour", [(1, 0, 0), (0, 0, 1), (0, 255, 0)])
def test_any_colour_is_inside(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    save_png(tmp_path, TAIL[..., None] * np.array(colour, dtype=np.uint8))
    assert score_mask(tmp_path, "tail.png")[0].overlap.iou == 1


@pytest.mark.parametrize("given", [[], {"size": [4, 8], "counts": [32]}, "black.png"], ids=["list", "runs", "png"])
def test_an_empty_mask_is_an_answer(tmp_path: Path, given: Any) -> None:
    save_png(tmp_path, np.zeros((4, 8), dtype=np.uint8), name="black.png")
    item, report = score_mask(tmp_path, given)
    assert (item.overlap.predicted, item.overlap.iou) == (0, 0)
    assert report.missing == ()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"size": [8, 4], "counts": [32]}, r"of size \[8, 4\], not \[4, 8\]"),
        ({"size": [4, 8], "counts": [31]}, "do not fill"),
        ({"size": [4, 8], "counts": "~~~"}, "not a segmentation"),
        ({"size": [4, 8]}, "not a segmentation"),
        ({}, "not a segmentation"),
        (None, "not a segmentation"),
        (7, "not a segmentation"),
        (POLYGON, "one flat polygon"),
        ([[0, 0, 1, 1]], "no polygon"),
        ([[0, 0, 1, 1, 2, 2, 3]], "odd number"),
        ([[0, 0, 1e9, 1, 2, 2]], "far outside"),
        ([["a"] * 6], "not a segmentation"),
        ("gone.png", r"is missing: gone\.png"),
        ("cut.png", r"cannot be read .*: cut\.png"),
        ("text.png", r"cannot be read .*: text\.png"),
        ("ignore.png", r"ignored pixels.*: ignore\.png"),
        (".", "cannot be read|is missing"),
        ("", "cannot be read|is missing"),
        ("a\x00b", "cannot be read|is missing"),
        ("x" * 5000, "cannot be read|is missing"),
        ("small.png", r"of another size .*: small\.png"),
        ("soft.png", "ambiguous: its values"),
    ],
)
def test_a_mask_that_cannot_be_used_is_named_by_its_line(tmp_path: Path, given: Any, reason: str) -> None:
    save_png(tmp_path, np.random.default_rng(0).integers(0, 2, (4, 8)).astype(np.uint8), name="cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:45])
    (tmp_path / "text.png").write_text("not a picture")
    save_png(tmp_path, TAIL.astype(np.uint8) + HEAD * np.uint8(255), name="ignore.png")
    save_png(tmp_path, np.zeros((3, 8), dtype=np.uint8), name="small.png")
    save_png(tmp_path, np.arange(32, dtype=np.uint8).reshape(4, 8), name="soft.png")
    path = save_rows(tmp_path, GOOD, {"id": TARGETS[0].id, "mask": given})
    items, report = score_predictions(TARGETS[:2], path)
    assert [problem.line for problem in report.problems] == [2]
    with pytest.raises(DataError, match=reason):
        raise DataError(report.problems[0].reason)
    assert report.missing == (TARGETS[0].id,)
    assert [item.overlap.iou for item in items] == [0, 1]
    with pytest.raises(DataError, match=rf"predictions\.jsonl, line 2: .*{reason}") as caught:
        score_predictions(TARGETS[:2], path, strict=True)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"{", "malformed row"),
        (b"[]", "not a JSON object"),
        (b"7", "not a JSON object"),
        (b"\xff\xfe{}", "malformed row"),
        (b"[" * 100_000, "malformed row"),
        (b'{"seconds": ' + b"9" * 5000 + b"}", "malformed row"),
        ({"mask": []}, "neither `id` nor `image` and `question`"),
        ({"image": "fish.jpg", "mask": []}, "neither `id` nor `image` and `question`"),
        ({"id": "custom/val/0.0.0"}, "no `mask`"),
        ({"id": 7, "mask": []}, "must be texts"),
        ({"id": None, "image": "fish.jpg", "question": "What eats?", "mask": []}, "must be texts"),
        ({"image": "fish.jpg", "question": ["What eats?"], "mask": []}, "must be texts"),
        ({"id": "custom/val/0.0.0", "answer": 7, "mask": []}, "must be texts"),
        ({"id": "custom/val/0.0.0", "answer": "\ud800", "mask": []}, "malformed row"),
        ({"id": "custom/val/0.0.0", "mask": "\ud800.png"}, "malformed row"),
        ({"id": "x" * 5000, "mask": []}, "no such id in the benchmark: ..."),
        ({"id": "custom/val/0.0.0", "seconds": -1, "mask": []}, "finite and not negative: -1"),
        ({"id": "custom/val/0.0.0", "seconds": float("nan"), "mask": []}, "finite and not negative: nan"),
        ({"id": "custom/val/0.0.0", "seconds": float("inf"), "mask": []}, "finite and not negative: inf"),
        ({"id": "custom/val/0.0.0", "seconds": [1], "mask": []}, "malformed row"),
        ({"id": "custom/val/9.0.0", "mask": []}, "no such id in the benchmark: custom/val/9.0.0"),
        ({"image": "cat.jpg", "question": "What eats?", "mask": []}, "no such image in the benchmark: cat.jpg"),
        (
            {"image": "fish.jpg", "question": "Who?", "mask": []},
            "no such question for photos/fish.jpg in the benchmark: Who?",
        ),
        (GOOD, "a second row for custom/val/0.1.0, after line 1"),
        ({"image": "fish.jpg", "question": "What eats?", "mask": []}, "a second row for custom/val/0.1.0"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_line(tmp_path: Path, row: Any, reason: str) -> None:
    path = save_rows(tmp_path, GOOD, b"  ", row, {"id": TARGETS[2].id, "mask": [POLYGON]})
    items, report = score_predictions(TARGETS, path)
    assert [problem.line for problem in report.problems] == [3]
    assert reason in report.problems[0].reason
    assert [item.overlap.iou for item in items] == [0, 1, 1]
    with pytest.raises(DataError, match=r"predictions\.jsonl, line 3: ") as caught:
        score_predictions(TARGETS, path, strict=True)
    assert reason in caught.value.message


def test_a_mask_with_blended_edges_is_scored_and_noted(tmp_path: Path) -> None:
    wide = np.zeros((4, 40), dtype=np.uint8)
    wide[:, 20:] = 255
    wide[0, 19] = 100
    save_png(tmp_path, wide)
    shown = target("0.0.0", wide > 127, "What?")
    items, report = score_predictions([shown], save_rows(tmp_path, {"id": shown.id, "mask": "tail.png"}))
    assert items[0].overlap.iou == 1
    (warning,) = report.warnings
    assert warning.startswith("1 masks rest on an assumption, line 1 first: its mask has blended edges")


def test_a_query_is_named_by_image_and_question(tmp_path: Path) -> None:
    path = save_rows(
        tmp_path,
        {"image": "photos/other.jpg", "question": "What steers the fish?", "mask": [POLYGON]},
        {"image": "fish.jpg", "question": " What  eats?\n", "mask": encode_rle(HEAD)},
        {"image": "fish.jpg", "question": "What steers the fish?", "mask": []},
    )
    items, report = score_predictions(TARGETS, path, strict=True)
    assert [item.overlap.iou for item in items] == [0, 1, 1]
    assert not report.warnings


def test_a_file_name_that_two_images_have_is_not_enough(tmp_path: Path) -> None:
    twins = (TARGETS[0], target("2.0.0", TAIL, "What steers the fish?", image="drawings/fish.jpg"))
    row = {"question": "What steers the fish?", "mask": [POLYGON]}
    path = save_rows(tmp_path, {"image": "fish.jpg", **row}, {"image": "drawings/fish.jpg", **row})
    assert reasons(path, twins) == [(1, "2 images have this file name, so its path is needed: fish.jpg")]


def test_an_image_without_a_folder_goes_before_others_of_its_name(tmp_path: Path) -> None:
    twins = (TARGETS[0], replace(TARGETS[0], id="custom/val/2.0.0", image="fish.jpg"))
    path = save_rows(tmp_path, {"image": "fish.jpg", "question": "What steers the fish?", "mask": [POLYGON]})
    items, _ = score_predictions(twins, path)
    assert [item.overlap.iou for item in items] == [0, 1]


def test_a_question_that_is_asked_twice_needs_an_id(tmp_path: Path) -> None:
    twins = (TARGETS[0], target("0.2.0", HEAD, "What steers the fish?"))
    row = {"image": "fish.jpg", "question": "What steers the fish?", "mask": [POLYGON]}
    (line, reason), *_ = reasons(save_rows(tmp_path, row, {"id": twins[0].id, "mask": []}), twins)
    assert line == 1
    assert "2 queries" in reason


def test_an_item_says_what_was_asked_and_answered(tmp_path: Path) -> None:
    row = {"id": TARGETS[0].id, "mask": [POLYGON], "answer": "The tail\u2028does.", "seconds": 0.5, "anything": "else"}
    items, _ = score_predictions(TARGETS, save_rows(tmp_path, row, {"id": TARGETS[1].id, "mask": []}))
    answered, silent, missing = items
    assert (answered.id, answered.image, answered.category) == ("custom/val/0.0.0", "photos/fish.jpg", "Fish")
    assert (answered.question, answered.is_sentence) == ("What steers the fish?", True)
    assert (answered.answer, answered.seconds) == ("The tail\u2028does.", 0.5)
    assert (silent.answer, silent.seconds, missing.answer, missing.seconds) == ("", 0, "", 0)
    for item in items:
        assert item.well_formed
        assert (item.coarse_overlap, item.coarse_mask) == (None, None)


def test_ignored_pixels_count_nowhere(tmp_path: Path) -> None:
    ignoring = replace(TARGETS[0], ignore=encode_rle(HEAD))
    path = save_rows(tmp_path, {"id": ignoring.id, "mask": encode_rle(TAIL | HEAD)})
    items, _ = score_predictions([ignoring], path)
    assert items[0].overlap.iou == 1
    assert items[0].ignore == ignoring.ignore


def test_the_targets_themselves_score_one_everywhere_whatever_their_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    targets = [target(f"{n}.0.0", rng.random((9, 7)) < 0.4, "What?", f"{n // 2}.jpg", f"{n % 3}") for n in range(30)]
    targets.append(target("30.0.0", np.zeros((9, 7), dtype=bool), "What is not there?", "15.jpg"))
    rows = [{"id": one.id, "mask": one.target} for one in targets]
    random.Random(0).shuffle(rows)
    items, report = score_predictions(iter(targets), save_rows(tmp_path, *rows), strict=True)
    assert [item.id for item in items] == [one.id for one in targets]
    assert report.count == 31
    scores = score_items(items, draws=0).values
    assert {score for score in scores.values() if score is not None} == {1.0}
    assert {"giou", "ciou", "miou", "n_acc", "t_acc"} <= {name for name, score in scores.items() if score == 1}


def test_a_missing_mask_is_scored_as_an_empty_one_and_reported(tmp_path: Path) -> None:
    heard: list[int] = []
    items, report = score_predictions(TARGETS, save_rows(tmp_path, GOOD, b"junk"), heard.append)
    assert report.missing == ("custom/val/0.0.0", "custom/val/1.0.0")
    assert [(item.overlap.predicted, item.overlap.iou) for item in items] == [(0, 0), (4, 1), (0, 0)]
    assert sum(heard) == len(TARGETS)
    first, second = report.warnings
    assert first.startswith("2 of 3 queries have no mask and were scored as empty ones: the first is custom/val/0.0.0")
    assert second.startswith("1 rows were skipped, line 2 first: malformed row")
    assert json.loads(json.dumps(report.to_json()))["problems"][0]["line"] == 2
    with pytest.raises(DataError, match=r"no mask for 2 queries, custom/val/0\.0\.0 first"):
        score_predictions(TARGETS, save_rows(tmp_path, GOOD), strict=True)


def test_an_empty_target_without_a_prediction_is_right_but_reported(tmp_path: Path) -> None:
    nothing = target("2.0.0", TAIL & False, "What barks?")
    items, report = score_predictions([TARGETS[1], nothing], save_rows(tmp_path, GOOD))
    assert items[1].overlap.iou == 1
    assert report.missing == (nothing.id,)


def test_a_first_row_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = save_rows(tmp_path, b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r")
    assert reasons(path) == []


@pytest.mark.parametrize("rows", [[], [{"id": "referring/val/0.0.0", "mask": []}]], ids=["empty", "of other data"])
def test_a_file_without_any_row_of_use_is_refused(tmp_path: Path, rows: list[Any]) -> None:
    with pytest.raises(DataError, match="no valid row in") as caught:
        score_predictions(TARGETS, save_rows(tmp_path, *rows))
    assert caught.value.hint is not None
    assert TARGETS[0].id in caught.value.hint


@pytest.mark.parametrize("name", ["gone.jsonl", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot read"):
        score_predictions(TARGETS, tmp_path / name)


def test_any_damage_is_a_problem_or_a_mask_and_never_a_crash(tmp_path: Path) -> None:
    rng = random.Random(0)
    junk = [None, -1, 0, 1e308, float("nan"), True, "", "x", "\ud800", [], {}, [[]], [[[]]], {"size": 0}, 2**63, 2**70]
    whole = [
        json.dumps({"id": TARGETS[0].id, "mask": form, "answer": "a", "seconds": 1.5})
        for form in (encode_rle(TAIL), UNCOMPRESSED, [POLYGON], "tail.png")
    ]
    save_png(tmp_path, TAIL)
    used = 0
    for _ in range(1500):
        damaged = damage_json(rng.choice(whole), rng, junk).encode("utf-8", "surrogatepass").replace(b"\n", b" ")
        items, report = score_predictions(TARGETS, save_rows(tmp_path, GOOD, damaged))
        assert len(report.problems) <= 1
        assert items[1].overlap.iou == 1
        used += not report.problems
    assert 100 < used < 1400


def test_masks_of_the_release_score_as_in_the_release(shared: Path, tmp_path: Path) -> None:
    golden = json.loads((shared / "golden/metrics/expected_cores.json").read_text())["train_ds.validate/all"]
    masks, targets, rows = np.load(shared / "golden/metrics/masks.npz"), [], []
    for image in range(31):
        pairs = zip(masks[f"pred_{image:02}"], masks[f"gt_{image:02}"], strict=True)
        for number, (predicted, label) in enumerate(pairs):
            inside, ignore = encode_rle(label == 1), encode_rle(label == 255)
            key, answer = f"golden/val/{image}.{number}.0", predicted == 1
            targets.append(Target(key, f"{image}.jpg", "", "What?", True, inside, ignore))
            form = encode_rle(answer) if image % 2 else save_png(tmp_path, answer, name=f"{image}-{number}.png")
            rows.append({"id": key, "mask": form})
    items, _ = score_predictions(targets, save_rows(tmp_path, *rows), strict=True)
    scores = score_items(items, draws=0).values
    assert len(items) == 39
    assert scores["giou"] == pytest.approx(golden["giou"], abs=1e-5)  # the release divides by count + 1e-5
    assert scores["ciou"] == pytest.approx(golden["ciou"], abs=1e-6)
    for band, key in [("small", "s"), ("medium", "m"), ("large", "l")]:
        assert scores[f"ciou_{band}"] == pytest.approx(golden[f"ciou_{key}"], abs=1e-6)


COCO_ROWS = {
    "images": [{"id": 1, "file_name": "/data/photos/fish.jpg", "height": 4, "width": 8}],
    "categories": [{"id": 1, "name": "What steers the fish?"}, {"id": 2, "name": "What eats?"}],
    "annotations": [
        {"id": 7, "image_id": 1, "category_id": 1, "segmentation": [[2, 1, 6, 1, 6, 2, 2, 2]], "score": 0.9},
        {"id": 8, "image_id": 1, "category_id": 1, "segmentation": [[2, 2, 6, 2, 6, 3, 2, 3]], "score": 0.1},
        {"id": 9, "image_id": 1, "category_id": 2, "segmentation": encode_rle(HEAD)},
    ],
}


def save_coco_rows(folder: Path, **changes: Any) -> Path:
    path = folder / "predictions.json"
    path.write_text(json.dumps(COCO_ROWS | changes))
    return path


def test_a_coco_file_has_a_row_for_each_category_of_an_image(tmp_path: Path) -> None:
    items, report = score_predictions(TARGETS, save_coco_rows(tmp_path))
    assert [item.overlap.iou for item in items] == [1.0, 1.0, 0.0]
    assert (report.missing, report.problems) == ((TARGETS[2].id,), ())


def test_what_cannot_be_used_of_a_coco_file_is_named_by_its_number(tmp_path: Path) -> None:
    bad = [
        COCO_ROWS["annotations"][2] | {"image_id": 5},
        COCO_ROWS["annotations"][2] | {"id": 10, "segmentation": {"size": [8, 4], "counts": [32]}},
    ]
    path = save_coco_rows(tmp_path, annotations=[*COCO_ROWS["annotations"][:2], *bad])
    assert reasons(path) == [(3, "unknown image id"), (4, "its mask is of size [8, 4], not [4, 8]")]
    with pytest.raises(DataError, match=r"predictions\.json, line 3: unknown image id"):
        score_predictions(TARGETS, path, strict=True)


def test_a_key_that_occurs_twice_in_a_coco_file_is_one_error(tmp_path: Path) -> None:
    path = save_coco_rows(tmp_path)
    path.write_text(path.read_text().replace('"images"', '"images": [], "images"', 1))
    with pytest.raises(DataError, match="`images` occurs twice") as caught:
        score_predictions(TARGETS, path)
    assert str(path) in caught.value.message


def test_a_coco_image_or_question_that_nobody_asks_about_is_named(tmp_path: Path) -> None:
    categories = [COCO_ROWS["categories"][0], {"id": 2, "name": "What barks?"}]
    path = save_coco_rows(tmp_path, categories=categories)
    assert reasons(path) == [(3, "no such question for photos/fish.jpg in the benchmark: What barks?")]
    path = save_coco_rows(tmp_path, images=[COCO_ROWS["images"][0] | {"file_name": "gone.jpg"}])
    with pytest.raises(DataError, match=r"no valid row in: .*, line 1: no such image in the benchmark: gone\.jpg"):
        score_predictions(TARGETS, path)


@pytest.mark.parametrize("missing", ["images", "annotations", "categories"])
def test_a_coco_file_without_one_of_its_lists_is_one_error(tmp_path: Path, missing: str) -> None:
    with pytest.raises(DataError, match=f"no list of {missing}"):
        score_predictions(TARGETS, save_coco_rows(tmp_path, **{missing: None}))


def test_rows_of_jsonl_may_stand_in_a_file_that_ends_in_json(tmp_path: Path) -> None:
    for rows in ([GOOD], [GOOD, GOOD | {"id": TARGETS[0].id}]):
        items, _ = score_predictions(TARGETS, save_rows(tmp_path, *rows).rename(tmp_path / "rows.json"))
        assert items[1].overlap.iou == 1


@pytest.mark.parametrize("given", ["/home/me/data/photos/fish.jpg", "data/photos/fish.jpg", "fish.jpg"])
def test_an_image_may_be_named_from_further_up(tmp_path: Path, given: str) -> None:
    row = {"image": given, "question": "What eats?", "mask": encode_rle(HEAD)}
    items, _ = score_predictions(TARGETS, save_rows(tmp_path, row))
    assert items[1].overlap.iou == 1
