"""benchmarks/gpu.py on a CPU: the code that a GPU runs at 7 billion parameters, at tiny sizes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def output() -> str:
    options = "--device cpu --size tiny --repetitions 1 --no-compile --peak-tflops 1"
    command = [sys.executable, "benchmarks/gpu.py", *options.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_table_has_a_row_of_numbers_for_each_form(output: str) -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("|")]
    assert [row[1] for row in rows[2:]] == [
        "",
        "",
        "none",
        "checkpointing",
        "cache",
        "checkpointing + cache",
        "compile",
        "checkpointing + compile",
    ]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert [row[2] for row in rows[-2:]] == ["not measured, --no-compile"] * 2
    for row in rows[2:-2]:
        assert all(float(number) > 0 for number in row[2:6])


def test_packed_questions_equal_unpacked_ones(output: str) -> None:
    assert "bar 0.001: pass" in output


def test_the_synchronisations_of_a_step_are_listed(output: str) -> None:
    found = re.search(r"Host synchronisations of a training step: (\d+)", output)
    places = re.findall(r"^    - \d+ x (.*)$", output, re.MULTILINE)
    assert found and places


def test_the_host_waits_only_at_the_end_of_a_step(output: str) -> None:
    """AdamW reads its count of steps from the CPU here; a fused one, on CUDA, does not."""
    places = re.findall(r"^    - \d+ x (.*)$", output, re.MULTILINE)
    assert [place.split(":")[0] for place in places if "torch/optim" not in place] == ["cores_core/train/engine.py"]
