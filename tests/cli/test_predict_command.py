"""`cores predict`, right input and wrong, through the real entry."""

import copy
import json
import resource
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from cores_core.model.checkpoint import save_checkpoint
from cores_core.predict import Predictor


def ask(cli, picture, *arguments, model, out):
    return cli("predict", picture, *arguments, "--model", model, "--output", out, "--protocol", "teacher_forced")


def assert_one_clear_error(outcome, *words, out):
    assert outcome.code == 1
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: ")
    assert all(word in outcome.stderr for word in words)
    assert not list(Path(out).glob("*"))


def test_one_question_writes_mask_overlay_and_description(cli, picture, model_folder, tmp_path):
    outcome = ask(cli, picture, "Which part steers the fish?", model=model_folder, out=tmp_path / "out")
    assert outcome.code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "picture.json",
        "picture.mask.png",
        "picture.overlay.png",
    ]
    mask = Image.open(tmp_path / "out" / "picture.mask.png")
    assert (mask.size, mask.mode) == ((60, 40), "L")
    assert set(np.unique(np.asarray(mask))) <= {0, 255}
    assert str(tmp_path / "out" / "picture.mask.png") in outcome.stdout


def test_several_questions_number_their_files(cli, picture, model_folder, tmp_path):
    assert ask(cli, picture, "Which one?", "And what else?", model=model_folder, out=tmp_path / "out").code == 0
    assert {path.name for path in (tmp_path / "out").glob("*.mask.png")} == {
        "picture.1.mask.png",
        "picture.2.mask.png",
    }


def test_json_prints_one_object_a_question_that_agrees_with_the_files(cli, picture, model_folder, tmp_path):
    outcome = ask(cli, picture, "Which one?", "And what else?", "--json", model=model_folder, out=tmp_path / "out")
    rows = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [row["question"] for row in rows] == ["Which one?", "And what else?"]
    for number, row in enumerate(rows, start=1):
        assert set(row) == {
            *("image", "question", "answer", "mask", "coarse_mask", "box", "area", "score", "model", "protocol"),
            *("name", "is_sentence", "well_formed", "rejected", "seconds", "answer_probability", "predicted_iou"),
        }
        mask = np.asarray(Image.open(tmp_path / "out" / f"picture.{number}.mask.png")) > 0
        assert np.array_equal(coco.decode(row["mask"]).astype(bool), mask)
        assert row["area"] == mask.sum()
        assert 0 <= row["score"] <= 1
        assert row["answer"] == "It appears on [LOC]. It is [SEG]."
        assert json.loads((tmp_path / "out" / f"picture.{number}.json").read_text(encoding="utf-8")) == row


def test_the_embedded_model_names_one_for_photographs_and_others_do_not(cli, picture, model_folder, tmp_path):
    outcome = ask(cli, picture, "Which one's the tail?", "--json", model="tiny", out=tmp_path)
    (note,) = [line for line in outcome.stderr.splitlines() if "photographs" in line]
    assert note.startswith("note: `tiny` knows drawn PartWorld scenes only")
    _, _, command = note.partition("photographs: ")
    assert shlex.split(command)[:4] == ["cores", "predict", str(picture), "Which one's the tail?"]
    assert "--model xinlai/LISA-7B-v1-explanatory" in command
    assert len(outcome.stdout.splitlines()) == 1
    assert "photographs" not in ask(cli, picture, "Which one?", model=model_folder, out=tmp_path).stderr


def test_command_and_python_api_agree(cli, picture, model_folder, tmp_path):
    outcome = ask(cli, picture, "Which one?", "--json", model=model_folder, out=tmp_path)
    prediction = Predictor.from_checkpoint(model_folder, device="cpu").predict(
        picture, "Which one?", protocol="teacher_forced"
    )
    assert json.loads(outcome.stdout)["mask"] == prediction.to_json()["mask"]


def test_an_answer_without_the_tokens_gives_an_empty_mask_and_says_so(cli, picture, model_folder, tmp_path):
    outcome = cli("predict", picture, "Which one?", "-m", model_folder, "-o", tmp_path)  # random weights write nonsense
    assert outcome.code == 0
    assert "the mask is empty" in outcome.stderr


def test_mask_lies_in_the_upright_image(cli, model_folder, tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40), "red").save(path, exif=exif)
    assert ask(cli, path, "Which one?", model=model_folder, out=tmp_path).code == 0
    assert Image.open(tmp_path / "turned.mask.png").size == (40, 60)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16", "P", "1", "LA"])
def test_every_kind_of_image_works(cli, model_folder, tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new(mode, (30, 20)).save(path)
    assert ask(cli, path, "Which one?", model=model_folder, out=tmp_path).code == 0


def test_an_image_that_was_scaled_by_its_own_range_is_noted(cli, model_folder, tmp_path):
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(tmp_path / "deep.png")
    outcome = cli("predict", tmp_path / "deep.png", "What?", "--model", model_folder, "--output", tmp_path)
    assert outcome.code == 0
    assert "note: the values of a 16- or 32-bit image fit in 12 bits" in outcome.stderr


def test_missing_image(cli, model_folder, tmp_path):
    out = tmp_path / "out"
    assert_one_clear_error(ask(cli, "no/fish.jpg", "Which?", model=model_folder, out=out), "no/fish.jpg", out=out)


def test_folder_in_place_of_an_image(cli, model_folder, tmp_path):
    out = tmp_path / "out"
    assert_one_clear_error(ask(cli, tmp_path, "Which?", model=model_folder, out=out), "folder", out=out)


def test_text_file_named_jpg(cli, model_folder, tmp_path):
    path, out = tmp_path / "letter.jpg", tmp_path / "out"
    path.write_text("Dear all", encoding="utf-8")
    assert_one_clear_error(ask(cli, path, "Which?", model=model_folder, out=out), "letter.jpg", "not an image", out=out)


def test_truncated_jpeg(cli, picture, model_folder, tmp_path):
    out = tmp_path / "out"
    picture.write_bytes(picture.read_bytes()[:900])
    assert_one_clear_error(ask(cli, picture, "Which?", model=model_folder, out=out), "damaged image", out=out)


@pytest.mark.parametrize("question", ["", "   ", "\n"])
def test_empty_question(cli, picture, model_folder, tmp_path, question):
    out = tmp_path / "out"
    outcome = ask(cli, picture, question, model=model_folder, out=out)
    assert_one_clear_error(outcome, "question is empty", out=out)


def test_unknown_model(cli, picture, tmp_path):
    out = tmp_path / "out"
    assert_one_clear_error(ask(cli, picture, "Which?", model="cores-70b", out=out), "cores-70b", "hint:", out=out)


def test_output_that_cannot_be_written(cli, picture, model_folder, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    outcome = ask(cli, picture, "Which?", model=model_folder, out=tmp_path / "file" / "out")
    assert outcome.code == 1
    assert "cannot write" in outcome.stderr


@pytest.mark.parametrize("blocked", ["picture.mask.png", "picture.overlay.png", "picture.json"])
def test_if_one_file_cannot_be_written_there_is_none(cli, picture, model_folder, tmp_path, blocked):
    out = tmp_path / "out"
    (out / blocked).mkdir(parents=True)
    outcome = ask(cli, picture, "Which?", model=model_folder, out=out)
    assert outcome.code == 1
    assert f"cannot write to {out}" in outcome.stderr
    assert [path.name for path in out.iterdir()] == [blocked]


def test_a_full_disk_keeps_the_older_files(cli, picture, model_folder, tmp_path):
    out = tmp_path / "out"
    assert ask(cli, picture, "Which?", model=model_folder, out=out).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(before["picture.mask.png"]) < 4096 < len(before["picture.overlay.png"])
    question = "Which other?"
    arguments = ["predict", picture, question, "-m", model_folder, "-o", out, "--protocol", "teacher_forced"]
    command = [sys.executable, "-m", "cores_cli.app", *arguments]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (4096, 4096))
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    "name",
    [
        "mllm.net.model.language_model.embed_tokens.weight",
        "mllm.net.model.vision_tower.embeddings.patch_embedding.weight",
        "mllm.net.lm_head.weight",
        "projection.0.weight",
        "segmenter.image_encoder.patch_embed.proj.weight",
        "segmenter.mask_decoder.iou_token.weight",
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_one_error(cli, picture, checkpoint, tmp_path, name, value):
    broken = copy.deepcopy(checkpoint)
    broken.model.state_dict()[name].fill_(value)
    save_checkpoint(tmp_path / "broken", broken)
    out = tmp_path / "out"
    outcome = ask(cli, picture, "Which?", model=tmp_path / "broken", out=out)
    assert_one_clear_error(outcome, "not finite", "hint:", out=out)


def test_weights_that_are_nan_are_one_error_where_the_model_writes_its_answer(cli, picture, checkpoint, tmp_path):
    broken, out = copy.deepcopy(checkpoint), tmp_path / "out"
    broken.model.state_dict()["mllm.net.model.language_model.norm.weight"].fill_(float("nan"))
    save_checkpoint(tmp_path / "broken", broken)
    outcome = cli("predict", picture, "Which?", "-m", tmp_path / "broken", "-o", out)
    assert_one_clear_error(outcome, "language model", "not finite", out=out)


@pytest.mark.parametrize("url", ["https://host.org/a.jpg", "http://host/a//b.jpg?u=https://c", "s3://bucket/a.png"])
def test_a_url_in_place_of_an_image(cli, model_folder, tmp_path, url):
    out = tmp_path / "out"
    assert_one_clear_error(ask(cli, url, "Which?", model=model_folder, out=out), url, "URL", "download", out=out)


def test_device_that_is_not_there(cli, picture, model_folder, tmp_path):
    out = tmp_path / "out"
    outcome = ask(cli, picture, "Which?", "--device", "mps", model=model_folder, out=out)
    assert_one_clear_error(outcome, "mps", out=out)


def test_no_question_is_wrong_usage(cli, picture):
    assert cli("predict", picture).code == 2


def test_unknown_option_is_wrong_usage(cli, picture):
    assert cli("predict", picture, "Which?", "--colour", "red").code == 2


@pytest.mark.parametrize(
    "question",
    [
        "Was lenkt den Fisch?",
        "どの部分が魚を操縦しますか?",
        "Is it [SEG] or [LOC]? It is [SEG].",
        "Where is <image> <im_start> </s>?",
        "Which [bold red]part[/bold red] [/] steers?",
        "What about {text} and {object}?",
        "Which part? " * 420,
    ],
    ids=["german", "japanese", "chain tokens", "image tokens", "markup", "braces", "5,000 characters"],
)
def test_strange_questions_are_only_text(cli, picture, model_folder, tmp_path, question):
    outcome = ask(cli, picture, question, "--json", model=model_folder, out=tmp_path)
    assert outcome.code == 0
    assert json.loads(outcome.stdout)["question"] == question


def test_markup_is_shown_as_it_was_typed(cli, picture, model_folder, tmp_path):
    question = "Which [bold red]part[/bold red] steers?"
    assert question in ask(cli, picture, question, model=model_folder, out=tmp_path).stderr


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (8000, 6000)])
def test_sizes_from_one_pixel_to_48_million(cli, model_folder, tmp_path, size):
    path = tmp_path / "image.png"
    Image.new("RGB", size, "teal").save(path)
    assert ask(cli, path, "Which one?", model=model_folder, out=tmp_path).code == 0
    assert Image.open(tmp_path / "image.mask.png").size == size
    assert not list(tmp_path.glob(".*tmp"))


@pytest.mark.parametrize(("name", "code"), [("given", 0), ("guess", 2)])
def test_a_protocol_of_an_older_script_is_known(cli, picture, model_folder, tmp_path, name, code):
    outcome = cli("predict", picture, "Which?", "-m", model_folder, "-o", tmp_path, "--json", "--protocol", name)
    assert outcome.code == code
    assert ("teacher_forced" in outcome.stdout) == (code == 0)
