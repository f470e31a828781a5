"""`cores train --plan` of every preset with nothing present: no weights, no data, no network."""

from pathlib import Path

import pytest
import torch
from families import save_tiny_mllm, save_tiny_sam
from huggingface_hub import constants

from cores_core.config import BaseConfig
from cores_core.model.sams.table import HUB_IDS, SAM_FILES
from cores_core.model.weights.stand_in import SAM_SIZES, find_absent
from cores_core.settings import list_presets, load_config

WITH_BASE = [name for name in list_presets() if load_config(name).base != BaseConfig()]
PUBLISHED = "from published sizes; weights not found locally"
REVISION = "0" * 40


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty caches, an empty working directory, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


def words(text: str) -> str:
    """A table without its frame and line breaks."""
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_is_planned_with_nothing_present(cli, name):
    outcome = cli("train", "--preset", name, "--plan")
    assert outcome.code == 0, outcome.stderr
    shown = words(outcome.stdout)
    assert "tokens per image" in shown
    assert "fits 24 GB" in shown
    assert "trainable" in shown
    assert shown.count(PUBLISHED) == (2 if name in WITH_BASE else 0)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("sam", [*SAM_FILES, *HUB_IDS, "facebook/sam2.1-hiera-tiny"])
def test_every_named_sam_is_planned(cli, sam):
    outcome = cli("train", "--preset", "cores-smolvlm2-500m", "--sam", sam, "--plan")
    assert outcome.code == 0, outcome.stderr
    assert f"{sam}, {PUBLISHED}" in words(outcome.stdout)


def test_a_lower_cap_takes_fewer_tokens_and_8b_in_full_does_not_fit(cli):
    low = cli("train", "--preset", "cores-qwen3vl-8b", "--plan", "--set", "vision.max_tokens=100")
    assert "at most 100" in words(low.stdout)
    assert "fits 24 GB yes" in words(low.stdout)
    full = cli("train", "--preset", "cores-qwen3vl-8b", "--plan", "--set", "lora.vocabulary=full")
    assert "fits 24 GB no" in words(full.stdout)


def test_a_family_that_cannot_stay_within_the_cap_says_so(cli):
    hub_id = "llava-hf/llava-onevision-qwen2-7b-ov-hf"
    shown = words(cli("train", "--preset", "cores-qwen3vl-4b", "--mllm", hub_id, "--plan").stdout)
    assert "more than vision.max_tokens=576" in shown


def test_what_is_here_is_planned_by_its_own_sizes(cli, tmp_path):
    mllm, sam = save_tiny_mllm(tmp_path / "qwen", "qwen3_vl"), save_tiny_sam(tmp_path / "sam", "sam2")
    outcome = cli("train", "--preset", "cores-qwen3vl-4b", "--mllm", mllm, "--sam", sam, "--plan")
    assert outcome.code == 0, outcome.stderr
    assert PUBLISHED not in words(outcome.stdout)


def test_what_a_cache_holds_is_no_stand_in(cli, tmp_path):
    folder = tmp_path / "hub/models--Qwen--Qwen3-VL-4B-Instruct"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(REVISION)
    save_tiny_mllm(folder / "snapshots" / REVISION, "qwen3_vl")
    assert find_absent(load_config("cores-qwen3vl-4b").base) == {"sam"}
    outcome = cli("train", "--preset", "cores-qwen3vl-4b", "--plan")
    assert words(outcome.stdout).count(PUBLISHED) == 1
    assert " 4,0" not in outcome.stdout


def test_a_model_without_published_sizes_must_be_here(cli):
    outcome = cli("train", "--preset", "cores-qwen3vl-4b", "--mllm", "someone/nothing", "--plan")
    assert outcome.code == 1
    assert "someone/nothing" in outcome.stderr


def test_a_training_never_takes_published_sizes(cli, partworld_root, tmp_path):
    arguments = ("--data-root", partworld_root, "--set", "data=[partworld]", "--output", tmp_path / "run")
    outcome = cli("train", "--preset", "cores-qwen3vl-4b", *arguments, "--device", "cpu")
    assert outcome.code == 1
    assert "Qwen/Qwen3-VL-4B-Instruct" in outcome.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch answers on a machine with eight GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)


@pytest.mark.usefixtures("eight_gpus")
def test_with_gpus_the_papers_model_is_planned_and_all_that_is_missing_is_listed(cli):
    outcome = cli("train", "--gpus", 8)
    assert outcome.code == 1
    assert "training cores-7b" in outcome.stdout
    assert "8 processes" in words(outcome.stdout)
    assert "runs/cores-7b" in outcome.stderr
    config = load_config("cores-7b")
    assert "missing for this training (12)" in outcome.stderr
    assert all(f"data set {name}\n" in outcome.stderr for name in config.data)
    assert "cores prepare-data refcoco --data-root data --download" in outcome.stderr
    assert "data/reason_seg/ReasonSeg/{train,val,test}" in outcome.stderr
    assert "cores checkpoint apply-delta liuhaotian/LLaVA-Lightning-7B-delta-v1-1" in outcome.stderr
    assert "SAM vit_h" in outcome.stderr
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("eight_gpus")
def test_more_gpus_than_there_are_names_both_numbers(cli):
    outcome = cli("train", "--gpus", 9)
    assert outcome.code == 1
    assert outcome.stderr.startswith("error: --gpus 9: this machine has 8 CUDA GPUs")
    assert "--gpus 8" in outcome.stderr


def test_without_gpus_what_would_run_is_named(cli, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome = cli("train", "--gpus", 8)
    assert outcome.code == 1
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: --gpus 8: this machine has 0 CUDA GPUs")
    assert "`cores train` trains the small preset `tiny` on" in outcome.stderr
    assert cli("train", "--gpus", 8, "--plan").code == 0


def test_without_options_it_is_said_what_trains(cli):
    outcome = cli("train", "--device", "cpu")
    assert outcome.code == 1
    assert "training tiny on cpu: 10000 steps of 12 images of partworld in data; output: runs/tiny" in outcome.stderr
    assert "for photographs: cores train --gpus N" in outcome.stderr
    assert "cores prepare-data partworld --data-root data" in outcome.stderr


@pytest.mark.parametrize("folder", ["models", "/nowhere/else"])
def test_a_base_that_is_published_as_a_delta_says_how_it_is_made(cli, folder):
    name = f"{folder}/LLaVA-Lightning-7B-v1-1"
    outcome = cli("train", "--preset", "cores-7b", "--mllm", name, "--plan")
    assert outcome.code == 1
    command = "cores checkpoint apply-delta liuhaotian/LLaVA-Lightning-7B-delta-v1-1 huggyllama/llama-7b"
    assert f"{command} {name}" in outcome.stderr


def test_the_sizes_of_segment_anything_are_those_of_its_own_builders():
    from segment_anything import sam_model_registry

    from cores_core.model.sams.sam1 import build_sam1

    for name, sizes in SAM_SIZES.items():
        with torch.device("meta"):
            theirs, ours = sam_model_registry[name](), build_sam1(sizes)
        expected = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
        assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == expected
