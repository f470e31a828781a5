"""The pages and programs under `examples/` do what they say."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_page_on_your_own_data_can_be_followed(tmp_path: Path) -> None:
    """Every command of the page, in order, with a training of three steps."""
    page = (EXAMPLES / "finetune_your_data.md").read_text(encoding="utf-8")
    commands = [
        line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines() if line
    ]
    assert len(commands) == 8
    for command in commands:
        run(command.replace("train.steps=60", "train.steps=3").replace("step-000060", "step-000003"), tmp_path)
    assert (tmp_path / "data/prepared/custom/balls/train.preview.png").is_file()
    assert (tmp_path / "runs/after/report.html").is_file()
    assert (tmp_path / "runs/compared/comparison.png").is_file()
    assert (tmp_path / "answers/val-00.mask.png").is_file()


def run(command: str, folder: Path) -> None:
    program, *arguments = shlex.split(command)
    start = {"python": [sys.executable], "cores": [sys.executable, "-m", "cores_cli.app"]}[program]
    arguments = [str(EXAMPLES.parent / word) if word.startswith("examples/") else word for word in arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    command = [*start, *arguments]
    done = subprocess.run(
        [*start, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{arguments}\n{done.stderr}"
