"""Text that a terminal cannot show, and file names and questions that are not UTF-8."""

import json
import os
import subprocess
import sys

import pytest

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
