"""Settings are shown as a file that can be read back, and described."""

import json

import yaml

from cores_core.config import Config
from cores_core.settings import load_config


def test_all_settings_of_a_preset_are_shown_as_a_file_that_trains_the_same(cli, tmp_path):
    outcome = cli("config", "show", "tiny", "--set", "train.steps=7", "--variant", "lisa")
    assert (outcome.code, outcome.stderr) == (0, "")
    (tmp_path / "mine.yaml").write_text(outcome.stdout)
    assert load_config(tmp_path / "mine.yaml") == load_config("tiny", ("train.steps=7",), ("lisa",))
    assert yaml.safe_load(outcome.stdout)["train"]["log_every"] == Config().train.log_every


def test_without_a_preset_the_defaults_are_shown(cli, tmp_path):
    (tmp_path / "defaults.yaml").write_text(cli("config", "show").stdout)
    assert load_config(tmp_path / "defaults.yaml") == Config()


def test_an_older_file_is_shown_by_today_s_names(cli, tmp_path):
    (tmp_path / "old.yaml").write_text("loss: {concept: 0.5}\ntrain: {optimizer: muon, pretrain_steps: 3}\n")
    shown = yaml.safe_load(cli("config", "show", tmp_path / "old.yaml").stdout)
    assert {name: shown["scratch"][name] for name in ("prototype_loss", "optimizer", "sam_steps")} == {
        "prototype_loss": 0.5,
        "optimizer": "muon",
        "sam_steps": 3,
    }


def test_each_setting_can_be_described(cli):
    plain, described = cli("config", "show", "tiny").stdout, cli("config", "show", "tiny", "--docs").stdout
    assert "#" not in plain
    assert "  # Peak learning rate of AdamW.\n  learning_rate: 0.001\n" in described
    assert yaml.safe_load(described) == yaml.safe_load(plain)


def test_the_schema_is_json(cli):
    schema = json.loads(cli("config", "schema").stdout)
    assert schema["$defs"]["EngineConfig"]["properties"]["zero_stage"]["enum"] == [0, 1, 2, 3]


def test_a_setting_that_does_not_exist_is_named_with_the_one_that_was_meant(cli):
    outcome = cli("config", "show", "tiny", "--set", "train.stepz=7")
    assert outcome.code == 1
    assert "`train.stepz`" in outcome.stderr
    assert "did you mean `train.steps`?" in outcome.stderr
