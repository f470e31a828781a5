"""`cores train`: interrupted at random moments, resumed, and still the same run."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from runs import read_rows

from cores_cli.app import main
from cores_core.config import Config
from cores_core.settings import config_tree

INTERRUPTIONS = 20
STEPS = 60


@pytest.fixture
def preset(tiny_config: Config, tmp_path: Path) -> Path:
    """The small test model with a longer training, as a YAML file."""
    tree = config_tree(tiny_config)
    tree["train"] |= {"steps": STEPS, "save_every": 3, "validate_every": 25, "validation_images": 1, "workers": 1}
    path = tmp_path / "preset.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def train(*arguments: str) -> None:
    os.setpgrp()  # so that a kill takes the loader's worker along
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    main(["train", *arguments])


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return {row["step"]: row["loss"] for row in rows}


def test_a_run_killed_again_and_again_is_the_run_that_was_never_touched(preset, partworld_root, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two threads that wait for each other are slower than one
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["cores_core.train.trainer"])  # torch is imported once, not 20 times
    common = ("--preset", str(preset), "--data-root", str(partworld_root), "--device", "cpu")
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    rng, codes = random.Random(0), []

    def start(run: Path) -> multiprocessing.process.BaseProcess:
        resume = ("--resume",) if (run / "config.yaml").exists() else ()
        process = processes.Process(target=train, args=(*common, "--output", str(run), *resume))
        process.start()
        return process

    undisturbed = start(calm)
    undisturbed.join(120)
    assert undisturbed.exitcode == 0
    for number in range(INTERRUPTIONS):
        process = start(rough)
        time.sleep(rng.uniform(0.5, 2.5))
        if process.is_alive() and process.pid:
            kill = signal.SIGINT if number % 2 else signal.SIGKILL
            (os.kill if kill == signal.SIGINT else os.killpg)(process.pid, kill)
        process.join(60)
        codes.append(process.exitcode)
    final = start(rough)
    final.join(120)
    assert final.exitcode == 0
    assert set(codes) <= {0, 130, -signal.SIGKILL}
    assert losses(rough) == losses(calm)
    assert len(losses(calm)) == STEPS
    assert not list(rough.glob("checkpoints/.*"))


def test_a_run_is_not_overwritten(cli, preset, partworld_root, tmp_path):
    arguments = ("train", "--preset", preset, "--data-root", partworld_root, "--output", tmp_path / "run")
    short = ("--set", "train.steps=1", "--set", "train.workers=0")
    assert cli(*arguments, *short).code == 0
    outcome = cli(*arguments, *short)
    assert outcome.code == 1
    assert "--resume" in outcome.stderr


def test_unknown_preset_and_setting_are_named(cli, tmp_path):
    assert "cores-9000b" in cli("train", "--preset", "cores-9000b", "--output", tmp_path / "run").stderr
    outcome = cli("train", "--set", "train.stepz=3", "--output", tmp_path / "run")
    assert outcome.code == 1
    assert "train.stepz" in outcome.stderr


def test_data_that_is_not_prepared_is_named_before_anything_starts(cli, preset, tmp_path):
    outcome = cli("train", "--preset", preset, "--data-root", tmp_path, "--output", tmp_path / "run")
    assert outcome.code == 1
    assert "cores prepare-data partworld" in outcome.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_group_of_processes_is_stopped_together_and_resumed(preset, partworld_root, tmp_path, number, code):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "cores_cli.app", "train", "--preset", str(preset), "--processes", "2"]
    command += ["--data-root", str(partworld_root), "--output", str(run), "--device", "cpu"]
    process = subprocess.Popen(command, start_new_session=True)
    while not (run / "metrics.jsonl").exists():
        time.sleep(0.05)
        assert process.poll() is None
    os.killpg(process.pid, number)  # as a terminal does
    assert process.wait(60) == code
    done = len(losses(run))
    assert (run / f"checkpoints/step-{done:06d}/checkpoint.json").is_file()
    resumed = subprocess.run([*command, "--resume", "--set", f"train.steps={done + 2}"], stderr=subprocess.DEVNULL)
    assert resumed.returncode == 0
    assert len(losses(run)) == done + 2


def test_what_differs_from_a_run_that_is_resumed_is_shown_and_recorded(cli, preset, partworld_root, tmp_path):
    common = ("train", "--data-root", partworld_root, "--output", tmp_path / "run", "--device", "cpu")
    assert cli(*common, "--preset", preset, "--set", "train.steps=2", "--set", "train.save_every=2").code == 0
    again = cli(*common, "--resume", "--preset", preset, "--set", "train.steps=3", "--set", "train.seed=7")
    assert again.code == 0
    assert "the run keeps its settings, which differ from those of" in again.stderr
    assert "`train.steps` 2 -> 3" in again.stderr
    config = (tmp_path / "run/config.yaml").read_text()
    assert "# after step 2: `train.seed` 0 -> 7" in config
    rows = read_rows(tmp_path / "run")
    assert [row.get("changes") for row in rows] == [None, None, ["`train.steps` 2 -> 3", "`train.seed` 0 -> 7"]]
    last = cli(*common, "--resume", "--set", "train.steps=4")
    assert last.code == 0
    assert "which differ" not in last.stderr
    text = (tmp_path / "run/config.yaml").read_text()
    assert "# after step 2: `train.seed` 0 -> 7" in text
    assert "# after step 3: `train.steps` 3 -> 4" in text


def test_data_that_was_prepared_anew_since_a_run_began_is_named(cli, preset, partworld_root, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(partworld_root, data)
    common = ("train", "--data-root", data, "--output", tmp_path / "run", "--device", "cpu")
    assert cli(*common, "--preset", preset, "--set", "train.steps=2", "--set", "train.save_every=2").code == 0
    report = data / "prepared/partworld/report.json"
    tree = json.loads(report.read_text())
    tree["splits"]["train"]["fingerprint"] = "of other annotations"
    report.write_text(json.dumps(tree))
    again = cli(*common, "--resume", "--set", "train.steps=3")
    assert again.code == 0
    assert "the content of `partworld`" in again.stderr
    assert "the content of `partworld`" in read_rows(tmp_path / "run")[-1]["changes"]


@pytest.mark.parametrize(
    ("setting", "name"),
    [("scratch.optimizer=muon", "scratch.optimizer"), ("chain.refiner=false", "chain")],
)
def test_a_setting_that_a_run_cannot_change_is_refused_with_both_values(
    cli, preset, partworld_root, tmp_path, setting, name
):
    common = ("train", "--data-root", partworld_root, "--output", tmp_path / "run", "--device", "cpu")
    assert cli(*common, "--preset", preset, "--set", "train.steps=2", "--set", "train.save_every=2").code == 0
    outcome = cli(*common, "--resume", "--set", "train.steps=3", "--set", setting)
    assert outcome.code == 1
    assert f"`{name}`" in outcome.stderr
    assert "--output" in outcome.stderr
