"""`cores models`: known models by name, downloaded from a local hub, used and removed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import HubServer, direct, serve_hub

from cores_core.config import LoraConfig
from cores_core.model import catalog
from cores_core.model.build import build_tokenizer
from cores_core.model.checkpoint import LoadOptions, assemble, load_model_config
from cores_core.model.plan import count_parameters
from cores_core.model.weights.pretrained import read_base
from cores_core.settings import list_presets, load_config

NAME, HUB_ID = "lisa-7b-v1", "xinlai/LISA-7B-v1"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serve_hub() as server:
        direct(monkeypatch, server.url, tmp_path / "cache")
        yield server


def test_all_models_are_listed_without_a_network(cli, hub):
    outcome = cli("models", "--json")
    rows = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert {"tiny", "cores-7b", "lisa-7b-v1", "lisa-13b-llama2-v1-explanatory"} <= {row["name"] for row in rows}
    assert cli("models").code == 0
    assert hub.requests == []


def test_every_preset_with_a_base_is_known():
    based = {name for name in list_presets() if load_config(name).base.mllm is not None}
    assert based == {name for name, model in catalog.known_models().items() if model.kind == "preset"}


@pytest.mark.parametrize("name", ["cores-smolvlm2-500m", "lisa-7b"])
def test_parameters_are_those_of_the_published_sizes(name):
    config = replace(load_config(name), lora=LoraConfig())
    parts = read_base(config, lambda: build_tokenizer((), 2000), shapes_only=True, published=True)
    model = assemble(parts, LoadOptions(dtype=None)).model
    assert count_parameters(model)["all"] == catalog.known_models()[name].parameters


def test_show_says_what_is_known(cli, hub):
    text = cli("models", "show", "lisa-7b-v1-explanatory").stdout
    assert "contaminated" in " ".join(text.split())
    assert "none known" in text
    assert "59.4" in cli("models", "show", "cores-7b").stdout


def test_an_unknown_name_lists_the_known(cli, hub):
    outcome = cli("models", "show", "lisa")
    assert outcome.code == 1
    assert "lisa-7b-v1" in outcome.stderr


def test_a_name_is_downloaded_used_and_removed(cli, hub, model_folder, picture, tmp_path):
    hub.put(HUB_ID, model_folder)
    hub.put("openai/clip-vit-large-patch14", **{"config.json": b"{}"})
    assert cli("models", "download", NAME).code == 0
    (row,) = [row for row in map(json.loads, cli("models", "--json").stdout.splitlines()) if row["name"] == NAME]
    assert row["local"] == "cached"
    by_name, by_path = (
        json.loads(
            cli(
                "predict", picture, "what?", "--model", model, "--json", "--protocol", "teacher_forced", "-o", tmp_path
            ).stdout
        )
        for model in (NAME.upper(), model_folder)
    )
    assert by_name["mask"] == by_path["mask"]
    outcome = cli("models", "remove", NAME)
    assert outcome.code == 0
    assert "bytes freed" in outcome.stderr
    assert cli("models", "remove", NAME).code == 1


def test_a_preset_is_no_model(cli, hub):
    outcome = cli("checkpoint", "show", "cores-7b")
    assert outcome.code == 1
    assert "cores train --preset cores-7b" in outcome.stderr


def test_a_folder_wins_over_a_name(model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).symlink_to(model_folder)
    assert load_model_config(NAME) == load_model_config(model_folder)


def test_what_ships_cannot_be_downloaded(cli, hub):
    assert "ships with cores" in cli("models", "download", "tiny").stderr
