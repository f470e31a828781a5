"""`cores predict` on folders, lists, globs, videos and standard input, through the real entry."""

import json
import subprocess
import sys
from pathlib import Path
from threading import Timer

import pytest
from helpers import noise_image
from PIL import Image, features

QUESTION = "Which part steers it?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        path = tmp_path / "images" / ("a" if number else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise_image(20, 30, seed=number)).save(path)
    return tmp_path / "images"


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder(cli, folder, model_folder, tmp_path):
    outcome = cli("predict", folder, QUESTION, "What is it?", "--model", model_folder, "-o", tmp_path / "out")
    assert outcome.code == 0
    assert len(rows(tmp_path / "out" / "predictions.jsonl")) == 6
    assert (tmp_path / "out" / "a" / "2.1.overlay.png").is_file()
    assert "6 questions about 3 images" in outcome.stderr


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_files_in_a_folder_are_answered(cli, folder, model_folder, tmp_path):
    Image.fromarray(noise_image(20, 30)).save(folder / "b.AVIF")
    assert cli("predict", folder, QUESTION, "--model", model_folder, "-o", tmp_path / "out").code == 0
    found = rows(tmp_path / "out" / "predictions.jsonl")
    assert sorted(Path(row["image"]).name for row in found) == ["0.png", "1.png", "2.png", "b.AVIF"]
    with Image.open(tmp_path / "out" / "b.mask.png") as answer:
        assert answer.size == (30, 20)


def test_several_images_with_question_options(cli, folder, model_folder, tmp_path):
    images = [folder / "0.png", folder / "a" / "1.png"]
    outcome = cli("predict", *images, "-q", QUESTION, "--model", model_folder, "-o", tmp_path / "out", "-f", "coco")
    assert outcome.code == 0
    assert [Path(row["image"]) for row in rows(tmp_path / "out" / "predictions.jsonl")] == images
    assert (tmp_path / "out" / "coco.json").is_file()
    assert not list((tmp_path / "out").rglob("*.png"))


def test_a_list_brings_its_questions(cli, folder, model_folder, tmp_path):
    lines = [{"image": "images/0.png", "question": QUESTION}, {"image": "images/a/1.png", "phrases": ["the tail"]}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert cli("predict", tmp_path / "list.jsonl", "--model", model_folder, "-o", tmp_path / "out").code == 0
    found = rows(tmp_path / "out" / "predictions.jsonl")
    assert [(row["question"], row["is_sentence"]) for row in found] == [(QUESTION, True), ("the tail", False)]


def test_one_bad_file_is_skipped_named_and_told_by_the_exit_code(cli, folder, model_folder, tmp_path):
    (folder / "bad.png").write_bytes(b"no image")
    outcome = cli("predict", folder, QUESTION, "--model", model_folder, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "bad.png" in outcome.stderr
    assert len(rows(tmp_path / "out" / "predictions.jsonl")) == 3
    assert rows(tmp_path / "out" / "skipped.jsonl")[0]["image"].endswith("bad.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}"], "no question about"),
        (["{folder}/*.webp", QUESTION], "no file matches"),
        (["-q", QUESTION], "give an image"),
    ],
)
def test_what_is_missing_is_one_error(cli, folder, model_folder, tmp_path, arguments, message):
    given = [argument.format(folder=folder) for argument in arguments]
    outcome = cli("predict", *given, "--model", model_folder, "-o", tmp_path / "out")
    assert outcome.code in (1, 2)
    assert message in outcome.stderr


def test_ray_that_is_not_installed_is_one_error(cli, folder, model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = cli("predict", folder, QUESTION, "--model", model_folder, "-o", tmp_path / "out", "--engine", "ray")
    assert outcome.code == 1
    assert "pip install 'cores[ray]'" in outcome.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--ray-address", "host:6379"],
        ["--engine", "ray", "--device", "cuda"],
        ["--engine", "spark"],
    ],
)
def test_options_of_engines_that_do_not_fit_are_wrong_usage(cli, folder, options):
    assert cli("predict", folder, QUESTION, *options).code == 2


def test_a_cluster_that_does_not_answer_is_one_error(cli, folder, model_folder, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'cores[ray]'")
    options = ["--engine", "ray", "--ray-address", "127.0.0.1:1"]
    outcome = cli("predict", folder, QUESTION, "--model", model_folder, "-o", tmp_path / "out", *options)
    assert outcome.code == 1
    assert "127.0.0.1:1" in outcome.stderr
    assert "--ray-address" in outcome.stderr


def test_each_line_of_standard_input_is_answered_before_the_next_one_comes(folder, model_folder, tmp_path):
    command = [sys.executable, "-m", "cores_cli.app", "predict", "-", "--model", str(model_folder), "-o", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        limit = Timer(120, process.kill)
        limit.start()
        answers = []
        for image in (str(folder / "0.png"), "absent.png"):
            print(json.dumps({"image": image, "question": QUESTION}), file=process.stdin, flush=True)
            answers.append(json.loads(process.stdout.readline()))
        limit.cancel()
        process.stdin.close()
    first, second = answers
    assert process.returncode == 1
    assert (first["question"], "reason" in second) == (QUESTION, True)
    assert list(tmp_path.rglob("0.mask.png"))


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_output_that_is_no_folder_is_one_error(cli, folder, model_folder, tmp_path, place):
    (tmp_path / "file").touch()
    outcome = cli("predict", folder, QUESTION, "--model", model_folder, "-o", tmp_path / place)
    assert outcome.code == 1
    assert f"not a folder: {tmp_path / place}" in outcome.stderr.replace("\n", "")


def test_an_interrupted_job_needs_resume(cli, folder, model_folder, tmp_path):
    unfinished = tmp_path / "out" / "unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "about.json").write_text("{}")
    outcome = cli("predict", folder, QUESTION, "--model", model_folder, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "--resume" in outcome.stderr
