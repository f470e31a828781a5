"""`cores eval`, through the real entry: scores, masks from elsewhere, and evaluations against each other."""

import json
from pathlib import Path

import pytest
from PIL import Image

from cores_core.formats.coco import save_coco
from cores_core.formats.labelled import LabelledImage, LabelledMask
from cores_core.masks import decode_rle

PART = ("--data", "partworld", "--split", "test")


@pytest.fixture
def evaluated(cli, model_folder, partworld_root, tmp_path):
    """The folder of a finished evaluation."""
    folder = tmp_path / "ours"
    arguments = (
        "--data-root",
        partworld_root,
        "--model",
        model_folder,
        "--protocol",
        "teacher_forced",
        "--output",
        folder,
    )
    assert cli("eval", "reasonpart", *PART, *arguments).code == 0
    return folder


@pytest.mark.parametrize("protocol", ["teacher_forced", "generate"])
def test_scores_items_and_a_report_are_written(cli, model_folder, partworld_root, tmp_path, protocol):
    outcome = cli(
        *("eval", "reasonpart", *PART, "--data-root", partworld_root),
        *("--model", model_folder, "--protocol", protocol, "--output", tmp_path),
    )
    assert outcome.code == 0
    assert f"protocol {protocol}" in outcome.stdout
    assert "95 % interval" in outcome.stdout
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    wanted = (
        "giou ciou ciou_small ciou_medium ciou_large miou count protocol model seed intervals versions command data"
    )
    assert set(wanted.split()) <= set(results)
    assert (results["protocol"], results["seed"]) == (protocol, 1)
    rows = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == results["count"] > 0
    assert results["giou"] == pytest.approx(sum(row["iou"] for row in rows) / len(rows))
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "unfinished").exists()


def test_two_processes_and_another_batch_size_give_the_same_scores(
    cli, evaluated, model_folder, partworld_root, tmp_path
):
    other = ("--protocol", "teacher_forced", "--output", tmp_path / "other", "--processes", 2, "--batch-size", 8)
    assert cli("eval", "reasonpart", *PART, "--data-root", partworld_root, "--model", model_folder, *other).code == 0
    ours, theirs = (json.loads((path / "results.json").read_text()) for path in (evaluated, tmp_path / "other"))
    assert {**ours, "command": ""} == {**theirs, "command": ""}


def test_every_benchmark_names_what_is_not_prepared(cli, model_folder, tmp_path):
    for benchmark, name in (
        ("reasonpart", "reasonpart"),
        ("reasonseg", "reasonseg"),
        ("parts", "partimagenet"),
        ("referring", "refcoco"),
    ):
        outcome = cli("eval", benchmark, "--data-root", tmp_path, "--model", model_folder)
        assert outcome.code == 1
        assert f"cores prepare-data {name}" in outcome.stderr


def test_data_and_splits_that_do_not_belong_are_wrong_usage(cli, tmp_path):
    for arguments in (("--data", "refcoco"), ("--data", "partworld", "--split", "train"), ("--split", "val")):
        assert cli("eval", "reasonpart", *arguments, "--data-root", tmp_path).code == 2
    assert cli("eval", "custom", "--data-root", tmp_path).code == 2


def test_parts_are_asked_by_name(cli, model_folder, partworld_root, tmp_path):
    arguments = ("--data", "partworld", "--data-root", partworld_root, "--model", model_folder, "--limit", 1)
    outcome = cli("eval", "parts", *arguments, "--protocol", "teacher_forced", "--output", tmp_path)
    assert outcome.code == 0
    assert "first 1 images" in outcome.stderr
    rows = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert not any(row["is_sentence"] for row in rows)


@pytest.mark.parametrize("context", ["none", "random"])
def test_the_example_in_context_can_be_chosen(cli, model_folder, partworld_root, tmp_path, context):
    arguments = ("--data-root", partworld_root, "--model", model_folder, "--limit", 1, "--context", context)
    assert cli("eval", "reasonpart", *PART, *arguments, "--protocol", "teacher_forced", "--output", tmp_path).code == 0
    assert json.loads((tmp_path / "results.json").read_text())["context"] == context


def test_masks_from_elsewhere_are_scored_and_compared(cli, evaluated, partworld_root, tmp_path):
    rows = [json.loads(line) for line in (evaluated / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    perfect = tmp_path / "perfect.jsonl"
    perfect.write_text("".join(json.dumps({"id": row["id"], "mask": row["target"]}) + "\n" for row in rows[1:]))
    arguments = ("--benchmark", "reasonpart", *PART, "--data-root", partworld_root, "--output", tmp_path / "theirs")
    outcome = cli("eval", "score", perfect, *arguments, "--name", "oracle")
    assert outcome.code == 0
    assert "oracle" in outcome.stdout
    assert "1" in outcome.stderr  # one mask is missing, and said so
    theirs = json.loads((tmp_path / "theirs/results.json").read_text())
    assert theirs["giou"] == pytest.approx((len(rows) - 1) / len(rows))
    outcome = cli("eval", "compare", evaluated, tmp_path / "theirs", "--output", tmp_path / "compared", "--pictures", 3)
    assert outcome.code == 0
    assert "theirs - ours" in outcome.stdout
    tree = json.loads((tmp_path / "compared/comparison.json").read_text())
    assert tree["differences"]["giou"]["theirs"]["value"] > 0.5
    with Image.open(tmp_path / "compared/comparison.png") as sheet:
        assert sheet.width > 900


def test_a_coco_file_that_we_wrote_is_scored(cli, evaluated, partworld_root, tmp_path):
    rows = [json.loads(line) for line in (evaluated / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    masks = [LabelledMask(row["question"], decode_rle(row["target"])) for row in rows]
    images = [
        LabelledImage(f"{partworld_root}/{row['image']}", labelled.mask.shape, (labelled,))
        for row, labelled in zip(rows, masks, strict=True)
    ]
    save_coco(images, tmp_path / "theirs.json")
    arguments = ("--benchmark", "reasonpart", *PART, "--data-root", partworld_root, "--output", tmp_path / "theirs")
    outcome = cli("eval", "score", tmp_path / "theirs.json", *arguments, "--strict")
    assert outcome.code == 0, outcome.stderr
    assert json.loads((tmp_path / "theirs/results.json").read_text())["giou"] == 1


@pytest.mark.parametrize(("good", "code"), [(1, 1), (4, 0)], ids=["most", "some"])
def test_rows_that_were_left_out_are_counted_and_most_of_them_exit_with_1(
    cli, evaluated, partworld_root, tmp_path, good, code
):
    rows = [json.loads(line) for line in (evaluated / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    usable = [json.dumps({"id": row["id"], "mask": row["target"]}) for row in rows[:good]]
    unusable = [json.dumps({"id": row["id"], "mask": "gone.png"}) for row in rows[good : good + 2]]
    (tmp_path / "theirs.jsonl").write_text("\n".join([*usable, *unusable]))
    arguments = ("--benchmark", "reasonpart", *PART, "--data-root", partworld_root)
    outcome = cli("eval", "score", tmp_path / "theirs.jsonl", *arguments)
    assert outcome.code == code
    assert "giou" in outcome.stdout.lower()
    assert any("2 rows" in line for line in outcome.stderr.splitlines()[-2:])


def test_a_folder_without_an_evaluation_is_named(cli, evaluated, tmp_path):
    outcome = cli("eval", "compare", evaluated, tmp_path / "nowhere")
    assert outcome.code == 1
    assert "nowhere" in outcome.stderr


def test_your_own_data_is_a_benchmark(cli, model_folder, tmp_path):
    folder: Path = tmp_path / "custom/fish"
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 30), "blue").save(folder / "a.png")
    row = {"image": "a.png", "questions": ["What swims?", "Which animal is it?"], "mask": [[1, 1, 20, 1, 20, 20]]}
    (folder / "val.jsonl").write_text(json.dumps(row) + "\n")
    assert cli("prepare-data", "custom/fish", "--data-root", tmp_path).code == 0
    arguments = (
        "--data",
        "custom/fish",
        "--data-root",
        tmp_path,
        "--model",
        model_folder,
        "--protocol",
        "teacher_forced",
    )
    outcome = cli("eval", "custom", *arguments)
    assert outcome.code == 0
    assert "2 queries of 1 images" in outcome.stdout


def test_questions_without_a_target_are_scored(cli, model_folder, partworld_root, tmp_path):
    arguments = ("--data-root", partworld_root, "--model", model_folder, "--output", tmp_path, "--no-target", 1)
    outcome = cli("eval", "reasonpart", *PART, *arguments)
    assert outcome.code == 0
    assert "N-acc" in outcome.stdout
    assert "T-acc" in outcome.stdout
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["no_target"] == 1
    assert results["n_acc"] is not None
    assert any("does not show" in warning for warning in results["warnings"])
