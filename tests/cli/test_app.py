"""The command line as a whole: help, version, start-up."""

import subprocess
import sys

import pytest


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from cores_cli.app import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'cv2', 'numpy', 'pyarrow'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("command", [[], ["predict"], ["prepare-data"], ["train"], ["eval"], ["eval", "reasonpart"]])
def test_every_command_explains_itself(cli, command):
    outcome = cli(*command, "--help")
    assert outcome.code == 0
    assert "Usage: cores" in outcome.stdout


def test_version(cli):
    assert cli("--version").stdout.startswith("cores 0.")


def test_unknown_command_is_wrong_usage(cli):
    assert cli("segment").code == 2


def test_help_says_which_arguments_are_required(cli):
    shown = " ".join(cli("predict", "-h").stdout.replace("│", " ").split())
    assert shown.count("Required, except with --plan") == 2


@pytest.mark.parametrize(
    "command",
    [
        ("predict", "fish.jpg", "What?", "--device", "tpu"),
        ("predict", "fish.jpg", "What?", "--dtype", "int8"),
        ("predict", "fish.jpg", "What?", "--load-in", "2bit"),
        ("predict", "fish.jpg", "What?", "--conversation", "template"),
        ("train", "--device", "spread"),
        ("eval", "reasonseg", "--protocol", "guess"),
        ("eval", "score", "theirs.jsonl", "--benchmark", "imagenet"),
        ("checkpoint", "convert", "tiny", "out", "--dtype", "auto"),
        ("prepare-data", "reasonpart", "--questions", "write"),
    ],
    ids=" ".join,
)
def test_a_value_that_is_no_choice_is_wrong_usage_and_the_choices_are_listed(cli, command):
    outcome = cli(*command)
    assert outcome.code == 2
    shown = " ".join(outcome.stderr.replace("│", " ").split())
    assert command[-1] in shown
    assert "is not one of" in shown
