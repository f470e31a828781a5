"""`cores prepare-data` and `cores eval`, through the real entry."""

import json

import pytest


def test_prepare_data_renders_and_prepares(cli, tmp_path):
    arguments = ("--images", 2, "--val-images", 0, "--test-images", 1, "--seed", 3, "--workers", 1)
    outcome = cli("prepare-data", "partworld", "--data-root", tmp_path, *arguments)
    assert outcome.code == 0
    assert "partworld" in outcome.stdout
    assert (tmp_path / "partworld" / "train.json").is_file()
    assert (tmp_path / "prepared" / "partworld" / "test.arrow").is_file()


def test_unknown_data_set(cli, tmp_path):
    outcome = cli("prepare-data", "imagenet", "--data-root", tmp_path)
    assert outcome.code == 1
    assert "imagenet" in outcome.stderr


def test_data_of_another_seed_is_not_overwritten(cli, tmp_path):
    arguments = ("--images", 1, "--val-images", 0, "--test-images", 0, "--workers", 1, "--data-root", tmp_path)
    assert cli("prepare-data", "partworld", "--seed", 1, *arguments).code == 0
    outcome = cli("prepare-data", "partworld", "--seed", 2, *arguments)
    assert outcome.code == 1
    assert "seed" in outcome.stderr


@pytest.mark.parametrize("protocol", ["given", "generated"])
def test_eval_reasonpart_writes_scores_and_items(cli, model_folder, partworld_root, tmp_path, protocol):
    outcome = cli(
        *("eval", "reasonpart", "--data", "partworld", "--split", "test", "--data-root", partworld_root),
        *("--model", model_folder, "--protocol", protocol, "--output", tmp_path),
    )
    assert outcome.code == 0
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    wanted = "giou ciou ciou_small ciou_medium ciou_large miou count protocol model seed"
    assert set(wanted.split()) <= set(results)
    assert (results["protocol"], results["seed"]) == (protocol, 1)
    rows = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == results["count"] > 0
    assert results["giou"] == pytest.approx(sum(row["iou"] for row in rows) / len(rows))


def test_eval_of_unprepared_data_names_the_command_that_prepares_it(cli, model_folder, tmp_path):
    outcome = cli("eval", "reasonpart", "--data-root", tmp_path, "--model", model_folder)
    assert outcome.code == 1
    assert "cores prepare-data partworld" in outcome.stderr
