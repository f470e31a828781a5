"""Models by hub id, read from a cache in the hub's own layout; nothing is downloaded."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from cores_core.errors import CheckpointError
from cores_core.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from cores_core.model.families.llava import find_tower
from cores_core.model.weights.hub import fetch_model, is_hub_id

REVISION = "0" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(cache: Path, name: str) -> Path:
    """The folder of a model in the cache."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    (repository / "snapshots").mkdir()
    return repository / "snapshots" / REVISION


def test_a_checkpoint_is_loaded_by_its_hub_id(cache: Path, checkpoint: Checkpoint) -> None:
    save_checkpoint(put(cache, "someone/cores-small"), checkpoint)
    assert load_checkpoint("someone/cores-small").config == checkpoint.config


def test_a_vision_tower_may_be_a_hub_id(cache: Path, tmp_path: Path) -> None:
    folder = put(cache, "openai/clip-vit-large-patch14")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert find_tower({"mm_vision_tower": "openai/clip-vit-large-patch14"}, tmp_path) == folder


def test_a_model_that_is_nowhere_is_one_error(cache: Path) -> None:
    with pytest.raises(CheckpointError, match="someone/nothing") as caught:
        fetch_model("someone/nothing")
    assert "network" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["tiny", "/abs/path", "a/b/c", "./a", "../a/b", "runs/", "a b/c"])
def test_paths_are_no_hub_ids(name: str) -> None:
    assert not is_hub_id(name)


def test_a_folder_that_exists_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/mine").mkdir(parents=True)
    assert not is_hub_id("runs/mine")
    shutil.rmtree(tmp_path / "runs")
    assert is_hub_id("runs/mine")
