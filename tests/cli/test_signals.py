"""SIGINT and SIGTERM, at any time of a command: acted on at once, or saved and acted on at the first step."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from runs import read_rows

from cores_core.config import Config
from cores_core.settings import config_tree

EXIT_CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
COMMANDS = ["train", "eval", "predict", "prepare-data", "convert"]
PATIENCE = 120
"""Seconds after which a process that should have ended fails the test; none of the tests depends on a shorter time."""

SLOW_IMPORT = """
import os, sys, time, importlib.abc

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != os.environ["SLOW_MODULE"]:
            return None
        sys.meta_path.remove(self)
        open(os.environ["SLOW_MARKER"], "w").close()
        try:
            while not os.path.exists(os.environ["SLOW_MARKER"] + ".go"):
                time.sleep(0.01)
        except BaseException:
            pass  # as libraries do that try an import and have another way
        return None

if "SLOW_MODULE" in os.environ:
    sys.meta_path.insert(0, Slow())
"""
"""A module at the start of Python that holds one import until a file exists, and hides exceptions from it."""


@pytest.fixture
def preset(tiny_config: Config, tmp_path: Path) -> Path:
    """The small test model, with a training that is far longer than a test."""
    tree = config_tree(tiny_config)
    tree["train"] |= {"steps": 100_000, "save_every": 100_000, "validate_every": 100_000, "workers": 1}
    path = tmp_path / "preset.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


@pytest.fixture
def arguments(preset: Path, partworld_root: Path, model_folder: Path, picture: Path, tmp_path: Path):
    """The arguments of each command, for work that takes far longer than a test or, of predict, ends with files."""
    data, output = ("--data-root", partworld_root), ("--output", tmp_path / "out")
    return {
        "train": ("train", "--preset", preset, *data, *output, "--device", "cpu"),
        "eval": ("eval", "reasonpart", "--data", "partworld", "--model", model_folder, *data, *output),
        "predict": ("predict", picture, "What is it?", "--model", model_folder, *output),
        "prepare-data": ("prepare-data", "partworld", "--data-root", tmp_path / "out", "--images", "100000"),
        "convert": ("checkpoint", "convert", model_folder, tmp_path / "out"),
    }


def start(arguments, ignores=(), **environment: object) -> "subprocess.Popen[str]":
    def set_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN if number in ignores else signal.SIG_DFL)

    command = [sys.executable, "-m", "cores_cli.app", *map(str, arguments)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in environment.items()}}
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=set_signals, env=variables
    )


def start_slowly(arguments, folder: Path, module: str, ignores=()) -> "subprocess.Popen[str]":
    """Start a command and return when it imports a module, which it will not finish before it is allowed to."""
    (folder / "sitecustomize.py").write_text(SLOW_IMPORT)
    paths = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    marker = folder / "importing"
    process = start(arguments, ignores, PYTHONPATH=paths, SLOW_MODULE=module, SLOW_MARKER=marker)
    wait_for(marker.exists, process)
    return process


def wait_for(condition, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def end_of(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """The exit code and what was written to stderr."""
    try:
        _, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, errors


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("number", "code"), EXIT_CODES)
def test_a_signal_during_a_slow_import_ends_every_command(arguments, tmp_path, command, number, code):
    process = start_slowly(arguments[command], tmp_path, "numpy")
    process.send_signal(number)
    assert end_of(process) == (code, "interrupted\n")
    assert not (tmp_path / "out").exists()


def test_a_signal_while_the_command_line_itself_is_imported_ends_it(arguments, tmp_path):
    process = start_slowly(arguments["predict"], tmp_path, "typer")
    process.send_signal(signal.SIGINT)
    assert end_of(process) == (130, "interrupted\n")


def test_a_command_that_a_script_starts_in_its_background_heeds_sigint_too(arguments, tmp_path):
    process = start_slowly(arguments["train"], tmp_path, "torch", ignores=(signal.SIGINT,))
    process.send_signal(signal.SIGINT)
    assert end_of(process) == (130, "interrupted\n")


@pytest.mark.parametrize(("number", "code"), EXIT_CODES)
def test_a_signal_while_a_training_is_built_is_saved_until_the_first_step(arguments, tmp_path, number, code):
    process = start_slowly(arguments["train"], tmp_path, "cores_core.train.launch")
    process.send_signal(number)
    assert end_of(process)[0] == code
    (tmp_path / "importing").unlink()
    process = start_slowly(arguments["train"], tmp_path, "torch.utils.tensorboard.writer")
    process.send_signal(number)
    (tmp_path / "importing.go").touch()
    code_found, errors = end_of(process)
    assert code_found == code, errors


@pytest.mark.parametrize(("number", "code"), EXIT_CODES)
def test_an_interrupt_that_a_library_hides_ends_an_evaluation_at_the_next_question(arguments, tmp_path, number, code):
    process = start_slowly(arguments["eval"], tmp_path, "transformers.modeling_utils")
    process.send_signal(number)
    assert end_of(process)[0] == code


@pytest.mark.parametrize(("number", "code"), EXIT_CODES)
def test_rendering_in_processes_ends_with_all_of_them(arguments, tmp_path, number, code):
    process = start((*arguments["prepare-data"], "--workers", "2"))
    wait_for(lambda: any((tmp_path / "out").rglob("*.JPEG")), process)
    os.killpg(process.pid, number)  # as a terminal does
    found, errors = end_of(process)
    assert (found, errors.strip()) == (code, "interrupted")


@pytest.mark.parametrize(("number", "code"), EXIT_CODES)
def test_a_group_that_is_starting_ends_with_the_code_of_the_signal(arguments, tmp_path, number, code):
    process = start((*arguments["train"], "--processes", "2"))
    wait_for((tmp_path / "out/config.yaml").exists, process)  # the second process begins to import
    os.killpg(process.pid, number)
    found, errors = end_of(process)
    assert found == code
    assert "Traceback" not in errors
    assert [row["step"] for row in read_rows(tmp_path / "out")] == [1]


def test_a_training_receives_a_signal_at_any_moment_of_its_start(arguments, tmp_path):
    codes = []
    for number in range(6):
        run = tmp_path / f"run-{number}"
        given = [run if value == tmp_path / "out" else value for value in arguments["train"]]
        process = start(given, ignores=(signal.SIGINT,))
        time.sleep(0.3 + 1.0 * number)
        process.send_signal(signal.SIGINT)
        codes.append(end_of(process)[0])
    assert codes == [130] * 6
