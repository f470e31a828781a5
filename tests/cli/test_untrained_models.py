"""A base model asked to segment: it has not learned to, and the error says how it would."""

from pathlib import Path

import pytest
from bases import save_hub_llava
from families import FAMILIES as TYPES
from families import save_tiny_mllm

from cores_core.model.families.table import FAMILIES, LLAVA
from cores_core.settings import list_presets


@pytest.mark.parametrize("model_type", ["llava", *TYPES])
def test_a_base_model_is_told_how_it_is_trained(cli, picture, tmp_path: Path, model_type: str):
    folder = tmp_path / "base"
    _ = save_hub_llava(folder) if model_type == "llava" else save_tiny_mllm(folder, model_type)
    outcome = cli("predict", picture, "What?", "--model", folder, "--output", tmp_path / "out")
    assert outcome.code == 1
    text = " ".join(outcome.stderr.split())
    assert f"not trained to segment: {folder}" in text
    preset = FAMILIES.get(model_type, LLAVA).preset
    assert f"cores train --preset {preset} --mllm {folder}" in text
    assert "give a checkpoint" in text


def test_an_evaluation_says_the_same(cli, partworld_root, tmp_path: Path):
    folder = save_tiny_mllm(tmp_path / "base", "qwen3_vl")
    common = ("--data", "partworld", "--data-root", partworld_root, "--output", tmp_path / "scores")
    outcome = cli("eval", "reasonpart", "--model", folder, *common)
    assert outcome.code == 1
    assert "not trained to segment" in " ".join(outcome.stderr.split())


def test_every_family_names_a_preset_that_ships():
    assert {family.preset for family in (LLAVA, *FAMILIES.values())} <= set(list_presets())
