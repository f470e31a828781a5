"""`cores checkpoint`: what a model holds, and its way from one format to another."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
import yaml
from bases import save_sam
from safetensors.torch import load_file, save_file

from cores_core.masks import decode_rle


def test_show_names_the_parts_their_sizes_and_the_tokens(cli, model_folder, checkpoint):
    outcome = cli("checkpoint", "show", model_folder)
    assert outcome.code == 0
    total = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    assert f"{total:,}" in outcome.stdout
    assert "SAM mask decoder" in outcome.stdout
    assert "[LOC] = " in outcome.stdout


def test_convert_writes_a_checkpoint_that_predicts_the_same(cli, shared, tmp_path):
    release, ours = shared / "golden/cores_mask/model", tmp_path / "ours"
    assert cli("checkpoint", "convert", release, ours).code == 0
    picture = shared / "golden/images/img0.jpg"
    question = ("What is the dog doing?", "--protocol", "teacher_forced", "--json", "--output", tmp_path / "out")
    first, second = (cli("predict", picture, *question, "--model", model) for model in (release, ours))
    answers = [json.loads(outcome.stdout) for outcome in (first, second)]
    assert answers[0]["mask"] == answers[1]["mask"]
    assert answers[0]["answer"] == "It usually appears on [SEG_SEMA]. It is [SEG]."


def test_a_phrase_is_worded_as_the_release_words_it(cli, shared, tmp_path):
    golden = shared / "golden"
    expected = np.load(golden / "cores_mask/cases/expected_refer_0.npz")["pred_masks"] > 0
    model = ("--model", golden / "cores_mask/model", "--protocol", "teacher_forced", "--json", "--output", tmp_path)
    outcome = cli("predict", golden / "images/img0.jpg", "the dog", "horn on the head", "--phrase", *model)
    ours = [decode_rle(json.loads(line)["mask"]) for line in outcome.stdout.splitlines()]
    assert all((mask == target).mean() > 0.999 for mask, target in zip(ours, expected, strict=True))


def test_export_writes_the_releases_format(cli, shared, tmp_path):
    release, again = shared / "golden/cores_mask/model", tmp_path / "again"
    assert cli("checkpoint", "export", release, again).code == 0
    assert json.loads((again / "config.json").read_text())["architectures"] == ["CORESForCausalLM"]


def test_what_exists_is_not_overwritten(cli, model_folder, tmp_path):
    (tmp_path / "mine").mkdir()
    for verb in ("convert", "export"):
        outcome = cli("checkpoint", verb, model_folder, tmp_path / "mine")
        assert outcome.code == 1
        assert "already exists" in outcome.stderr


def test_a_model_that_cannot_be_exported_says_why(cli, model_folder, tmp_path):
    outcome = cli("checkpoint", "export", model_folder, tmp_path / "out")
    assert outcome.code == 1
    assert "tokenizer" in outcome.stderr


def test_the_command_makes_a_base_that_training_accepts(cli, shared: Path, tmp_path: Path) -> None:
    release = shared / "golden/cores_mask/model"
    own = {
        name: tensor.half()
        for name, tensor in load_file(release / "model.safetensors").items()
        if name.startswith(("model.layers.", "model.norm.", "model.embed_tokens.", "lm_head.", "model.mm_projector."))
    }
    known = {name: torch.full_like(tensor, 0.5) for name, tensor in own.items() if "mm_projector" not in name}
    for folder, weights in (("base", known), ("delta", {n: t - known.get(n, 0) for n, t in own.items()})):
        (tmp_path / folder).mkdir()
        save_file(weights, tmp_path / folder / "model.safetensors")
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json"):
        shutil.copyfile(release / name, tmp_path / "delta" / name)
    shutil.copytree(release / "clip", tmp_path / "delta/clip")
    made = tmp_path / "made"
    outcome = cli("checkpoint", "apply-delta", tmp_path / "delta", tmp_path / "base", made)
    assert outcome.code == 0, outcome.stderr
    shutil.copytree(release / "clip", made / "clip")
    sam = save_sam(tmp_path / "sam.pth")
    planned = cli("train", "--preset", "cores-7b", "--mllm", made, "--sam", sam, "--plan")
    assert planned.code == 0, planned.stderr
    assert "published sizes" not in planned.stdout
    again = cli("checkpoint", "apply-delta", tmp_path / "delta", tmp_path / "base", made)
    assert again.code == 1
    assert "already exists" in again.stderr


def test_push_shows_files_and_card_before_anything_is_uploaded(cli, model_folder):
    outcome = cli("checkpoint", "push", model_folder, "someone/mine", "--license", "mit", "--dry-run")
    assert outcome.code == 0
    assert "heads.safetensors" in outcome.stdout
    assert "license: mit" in outcome.stdout
    assert "private" in outcome.stdout


def test_calibrate_writes_a_model_that_rejects(cli, partworld_root, tmp_path):
    asked = ("--data", "partworld", "--data-root", partworld_root, "--no-target", 3, "--keep", 0.5, "--device", "cpu")
    outcome = cli("checkpoint", "calibrate", "tiny", tmp_path / "ours", *asked)
    assert outcome.code == 0, outcome.stderr
    assert "N-acc" in outcome.stdout
    open_model = tmp_path / "open"
    shutil.copytree(tmp_path / "ours", open_model)
    settings = yaml.safe_load((open_model / "config.yaml").read_text())
    assert settings["chain"]["reject_below"] > 0.1  # stricter than tiny, as half of the IoU may go
    settings["chain"]["reject_below"] = 0.0
    (open_model / "config.yaml").write_text(yaml.safe_dump(settings))
    data = ("--data-root", partworld_root, "--data", "partworld", "--split", "val", "--device", "cpu")
    for model in (open_model, tmp_path / "ours"):
        folder = tmp_path / f"eval-{model.name}"
        assert cli("eval", "reasonpart", "--model", model, *data, "--no-target", 2, "--output", folder).code == 0
    own, ours = (json.loads((tmp_path / f"eval-{name}/results.json").read_text()) for name in ("open", "ours"))
    assert ours["n_acc"] > own["n_acc"]
    rows = [json.loads(line) for line in (tmp_path / "eval-open/items.jsonl").read_text().splitlines()]
    assert all("predicted_iou" in row["confidence"] for row in rows)


def test_calibrate_without_data_says_how_to_get_it(cli, tmp_path):
    outcome = cli("checkpoint", "calibrate", "tiny", tmp_path / "ours", "--data", "refcoco", "--data-root", tmp_path)
    assert outcome.code == 1
    assert "cores prepare-data refcoco" in outcome.stderr
    assert not (tmp_path / "ours").exists()
