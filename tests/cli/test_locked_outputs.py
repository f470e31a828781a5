"""A second command that would write to the same place is refused by name and changes nothing."""

import os

import pytest

from cores_core.locks import locked


@pytest.fixture
def commands(partworld_root, model_folder, picture, tmp_path):
    """For each command its arguments, and the place that it writes to."""
    out = tmp_path / "out"
    data = ("--data-root", partworld_root)
    train = ("train", "--preset", "tiny", "--from", model_folder, *data, "--output", out, "--device", "cpu")
    evaluate = ("eval", "reasonpart", "--data", "partworld", "--split", "test", "--model", model_folder, *data)
    return {
        "train": (train, out),
        "eval": ((*evaluate, "--output", out), out),
        "prepare-data": (("prepare-data", "partworld", "--data-root", out), out / "prepared/partworld"),
        "predict": (("predict", picture, "-q", "What?", "--model", model_folder, "-f", "coco", "-o", out), out),
        "convert": (("checkpoint", "convert", model_folder, out), out),
    }


@pytest.mark.parametrize("name", ["train", "eval", "predict", "prepare-data", "convert"])
def test_a_second_command_is_refused_while_the_first_one_writes(cli, commands, name):
    arguments, place = commands[name]
    with locked(place, beside=name == "convert"):
        outcome = cli(*arguments)
        assert outcome.code == 1
        assert f"another process ({os.getpid()} on" in outcome.stderr
        assert f"is writing to: {place}" in outcome.stderr
        assert "free some disk space" not in outcome.stderr
