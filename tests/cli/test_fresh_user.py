"""The path of a new user: a model by its name, an answer, a fine-tuned model of one's own on the hub, loaded by its id.

The hub is a local server, the model a tiny LISA in the released format.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer, direct, serve_hub
from PIL import Image
from releases import save_lisa

from cores_core.config import Config
from cores_core.masks import decode_rle

NAME, HUB_ID, TOWER = "lisa-7b-v1", "xinlai/LISA-7B-v1", "openai/clip-vit-large-patch14"
MINE = "someone/fish"
QUESTION = "Which part of the fish steers it?"
PREDICT = """
import sys
import numpy as np
from cores_core.predict import Predictor
model, picture, question, output = sys.argv[1:]
predictor = Predictor.from_checkpoint(model, device="cpu")
np.save(output, predictor.predict(picture, question, protocol="teacher_forced").mask)
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_config: Config) -> Iterator[HubServer]:
    """A hub with a LISA and its CLIP, an empty cache, and a login."""
    release = tmp_path / "release"
    save_lisa(release / "lisa", tower=release / "clip", tower_name=TOWER, sizes=tiny_config)
    with serve_hub() as server:
        server.put(HUB_ID, release / "lisa")
        server.put(TOWER, release / "clip")
        direct(monkeypatch, server.url, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """One's own data: two pictures with a bright square, and a question about it, not yet prepared."""
    folder = tmp_path / "data/custom/mine"
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(1), []
    for number in range(2):
        pixels = rng.integers(0, 100, (40, 60, 3), dtype=np.uint8)
        pixels[10:30, 15:35] = 255
        Image.fromarray(pixels).save(folder / f"{number}.png")
        square = [15, 10, 35, 10, 35, 30, 15, 30]
        rows.append({"image": f"{number}.png", "questions": [QUESTION], "mask": [square]})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


def test_from_a_name_to_a_model_of_ones_own(cli, hub, data_root, picture, tmp_path):
    def run(*arguments: object) -> str:
        outcome = cli(*arguments)
        assert outcome.code == 0, outcome.stderr
        return outcome.stdout

    ask = ("predict", picture, QUESTION, "--json", "--device", "cpu", "--protocol", "teacher_forced")
    known = {row["name"]: row for row in map(json.loads, run("models", "--json").splitlines())}
    assert known[NAME]["hub_id"] == HUB_ID
    run("predict", picture, QUESTION, "--model", NAME, "--output", tmp_path / "first")
    assert (tmp_path / "first/picture.mask.png").is_file()
    released = json.loads(run(*ask, "--model", NAME, "--output", tmp_path / "released"))

    run("prepare-data", "custom/mine", "--data-root", data_root)
    few = [f"train.{setting}" for setting in ("steps=2", "global_batch_size=1", "micro_batch_size=1", "workers=0")]
    settings = [word for setting in ("data=[custom/mine]", *few) for word in ("--set", setting)]
    tuning = ("train", "--preset", "finetune", "--from", NAME, *settings, "--data-root", data_root)
    run(*tuning, "--device", "cpu", "--output", tmp_path / "run")
    tuned = tmp_path / "run/checkpoints/step-000002"
    local = json.loads(run(*ask, "--model", tuned, "--output", tmp_path / "local"))
    expected = decode_rle(local["mask"])
    assert expected.any()
    assert local["mask"] != released["mask"]

    pushed = cli("checkpoint", "push", tuned, MINE)
    assert pushed.code == 0, pushed.stderr
    assert f"--model {MINE}" in pushed.stderr
    assert f"base_model: {HUB_ID}" in hub.repositories[MINE].files["README.md"].decode()
    again, in_python = tmp_path / "again", tmp_path / "mask.npy"
    command = ("-m", "cores_cli.app", *ask, "--model", MINE, "--output", again)
    program = ("-c", PREDICT, MINE, picture, QUESTION, in_python)
    processes = [_start(hub, tmp_path / str(number), call) for number, call in enumerate((command, program))]
    (printed, _), _ = (process.communicate() for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert json.loads(printed)["mask"] == local["mask"]
    with Image.open(again / "picture.mask.png") as mask:
        assert np.array_equal(np.asarray(mask) > 0, expected)
    assert np.array_equal(np.load(in_python), expected)


def _start(hub: HubServer, home: Path, arguments: tuple[object, ...]) -> subprocess.Popen[str]:
    """A new process of Python, with an empty cache."""
    there = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    environment = {**os.environ, **there, "OMP_NUM_THREADS": "1"}
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
