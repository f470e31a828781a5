"""Text that a terminal cannot show, and file names and questions that are not UTF-8."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cores_core.files import save_text


def run(arguments, encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
    command = [os.fsencode(sys.executable), b"-m", b"cores_cli.app", *map(os.fsencode, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, check=False)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_json_output_survives_any_encoding_of_stdout(model_folder, picture, tmp_path, encoding):
    question = "Where is the \u9c7c?"
    arguments = ["predict", picture, question, "--json", "--model", model_folder, "--output", tmp_path / "out"]
    outcome = run(arguments, encoding)
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout.decode("utf-8"))["question"] == question


def test_a_file_name_that_is_not_utf_8_gives_all_three_files(model_folder, picture, tmp_path):
    named = os.fsencode(picture.parent) + b"/caf\xe9.jpg"
    picture.rename(os.fsdecode(named))
    outcome = run(["predict", named, "What?", "--model", model_folder, "--output", tmp_path / "out"], "utf-8")
    assert outcome.returncode == 0, outcome.stderr
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_question_that_is_not_utf_8_is_one_error(model_folder, picture, tmp_path):
    outcome = run(["predict", picture, b"caf\xe9?", "--model", model_folder, "--output", tmp_path / "out"], "utf-8")
    assert outcome.returncode == 1
    assert b"not Unicode" in outcome.stderr
    assert b"Traceback" not in outcome.stderr


def test_saved_text_escapes_surrogates(tmp_path):
    save_text(json.dumps({"image": "caf\udce9.jpg"}, ensure_ascii=False), tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["image"] == "caf\udce9.jpg"


NAMES = [
    "a b.png",
    "100%25.png",
    "\U0001f41f.png",
    "line\nbreak.png",
    "#1?.png",
    "-q.png",
    "[red]x.png",
    "caf\udce9.png",
]


def test_images_of_any_name_are_answered_and_written_in_every_format(cli, picture, model_folder, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in NAMES:
        Image.open(picture).save(folder / name)
    (folder / "link.png").symlink_to(folder / NAMES[0])
    (folder / "a b.jpg").write_bytes(picture.read_bytes())  # the stem of another
    formats = [
        part for name in ("files", "coco", "labelme", "label-studio", "palette", "cutout") for part in ("-f", name)
    ]
    outcome = cli("predict", folder, "-q", "What?", "--model", model_folder, "-o", tmp_path / "out", *formats)
    assert outcome.code == 0, outcome.stderr
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert {Path(row["image"]).name for row in rows} == {*NAMES, "link.png", "a b.jpg"}
    assert len(list((tmp_path / "out").glob("*.mask.png"))) == len(NAMES) + 2
    assert len(list((tmp_path / "out/labelme").glob("*.json"))) == len(NAMES) + 2


def test_an_error_about_a_name_with_a_line_break_is_one_line(cli, model_folder, tmp_path):
    outcome = cli("predict", tmp_path / "gone\nfor ever.png", "What?", "--model", model_folder)
    assert outcome.code == 1
    (line,) = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert "for ever.png" in line
