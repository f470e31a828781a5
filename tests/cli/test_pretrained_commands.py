"""From a LLaVA and a SAM to a model that stands by itself, through the commands; and plans of what it takes."""

import json
from pathlib import Path

import pytest
import yaml
from bases import save_hub_llava, save_sam
from transformers import AutoConfig


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A LoRA preset as `cores-7b-llava1.5` is one, in a thimble."""
    base = {"mllm": str(save_hub_llava(tmp_path / "llava")), "sam": str(save_sam(tmp_path / "sam.pth"))}
    train = {"steps": 2, "global_batch_size": 1, "queries_per_image": 1, "validate_every": 2, "validation_images": 1}
    path = tmp_path / "preset.yaml"
    path.write_text(yaml.safe_dump({"base": base, "lora": {"rank": 2}, "train": {**train, "workers": 0}}))
    return path


def test_train_merge_and_predict(cli, preset, partworld_root, picture, tmp_path):
    run, merged = tmp_path / "run", tmp_path / "merged"
    outcome = cli("train", "--preset", preset, "--data-root", partworld_root, "--output", run, "--device", "cpu")
    assert outcome.code == 0
    adapter = run / "checkpoints/step-000002"
    shown = cli("checkpoint", "show", adapter)
    assert "base mllm" in shown.stdout
    assert cli("checkpoint", "merge", adapter, merged).code == 0
    question = ("Which part steers the fish?", "--protocol", "teacher_forced", "--json", "--output", tmp_path / "out")
    answers = [json.loads(cli("predict", picture, *question, "--model", model).stdout) for model in (adapter, merged)]
    assert answers[0]["mask"] == answers[1]["mask"]
    again = cli("checkpoint", "merge", merged, tmp_path / "more")
    assert again.code == 1
    assert "no adapter" in again.stderr


def test_a_training_is_planned(cli, preset, partworld_root, tmp_path):
    run = tmp_path / "run"
    outcome = cli("train", "--preset", preset, "--data-root", partworld_root, "--output", run, "--plan")
    assert outcome.code == 0
    assert "trainable" in outcome.stdout
    assert "optimiser" in outcome.stdout
    assert not run.exists()


def test_a_prediction_is_planned_without_a_picture(cli, model_folder):
    outcome = cli("predict", "--model", model_folder, "--plan", "--dtype", "bfloat16", "--load-in", "4bit")
    assert outcome.code == 0
    assert "SAM image encoder" in outcome.stdout
    assert "activations" in outcome.stdout
    assert "trainable" not in outcome.stdout


@pytest.mark.parametrize("arguments", [(), ("picture.jpg",)])
def test_what_is_missing_is_wrong_usage(cli, arguments):
    outcome = cli("predict", *arguments)
    assert outcome.code == 2
    assert "give" in outcome.stderr


def test_four_bits_on_a_cpu_are_one_error(cli, picture):
    outcome = cli("predict", picture, "What?", "--load-in", "4bit", "--device", "cpu")
    assert outcome.code == 1
    assert "CUDA" in outcome.stderr


def test_another_conversation_words_a_release_otherwise(cli, shared, tmp_path):
    release, ours = shared / "golden/cores_mask/model", tmp_path / "ours"
    assert cli("checkpoint", "convert", release, ours, "--conversation", "llava_llama_2").code == 0
    assert "conversation llava_llama_2" in cli("checkpoint", "show", ours).stdout
    question = ("What is the dog doing?", "--protocol", "teacher_forced", "--json", "--output", tmp_path / "out")
    picture = shared / "golden/images/img0.jpg"
    kept = json.loads(cli("predict", picture, *question, "--model", ours).stdout)
    asked = json.loads(cli("predict", picture, *question, "--model", release, "--conversation", "llava_llama_2").stdout)
    plain = json.loads(cli("predict", picture, *question, "--model", release).stdout)
    assert kept["mask"] == asked["mask"] != plain["mask"]


@pytest.mark.parametrize("model_type", ["llama", "mllama", "paligemma"])
def test_a_folder_of_another_model_type_is_named_by_its_type(cli, picture, tmp_path, model_type):
    folder = tmp_path / "model"
    AutoConfig.for_model(model_type).save_pretrained(folder)
    training = cli("train", "--preset", "cores-7b", "--mllm", folder, "--plan", "--output", tmp_path / "run")
    answer = cli("predict", picture, "What?", "--model", folder, "--output", tmp_path / "out")
    for outcome in (training, answer):
        assert outcome.code == 1
        assert f"`{model_type}`" in outcome.stderr
        assert "hint:" in outcome.stderr
