"""A checkpoint goes to a local hub, with a card, and comes back the same."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hub_server import HubServer, direct, serve_hub
from huggingface_hub import ModelCard, constants

from cores_core.errors import CheckpointError, DataError
from cores_core.model.card import CardFacts, load_results
from cores_core.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from cores_core.model.push import prepare_upload, push

NAME = "someone/mine"
RESULTS = {
    "giou": 0.5,
    "ciou": 0.625,
    "miou": None,
    "intervals": {"giou": {"low": 0.4, "high": 0.6}, "ciou": None},
    "count": 12,
    "images": 4,
    "benchmark": "reasonseg",
    "title": "ReasonSeg val",
    "protocol": "teacher_forced",
    "seed": None,
    "data_root": "/a/private/place",
    "data": {"reasonseg/val": "abc123"},
    "command": "cores eval reasonseg --data-root /a/private/place",
    "warnings": ["Only the first 4 images of each part were asked about."],
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serve_hub() as server:
        direct(monkeypatch, server.url, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "mine", checkpoint, optimizer={"step": 1})
    return tmp_path / "mine"


def test_what_is_pushed_is_loaded_by_its_name(hub: HubServer, folder: Path, checkpoint: Checkpoint) -> None:
    address = push(prepare_upload(folder, NAME, CardFacts(licence="mit")))
    repository = hub.repositories[NAME]
    assert address == f"{hub.url}/{NAME}/commit/{repository.commit}"
    assert repository.visibility == "private"
    assert not any(path.startswith("optimizer") for path in repository.files)
    loaded = load_checkpoint(NAME).model.state_dict()
    assert all(tensor.equal(loaded[name]) for name, tensor in checkpoint.model.state_dict().items())


def test_a_second_push_deletes_what_is_stale(hub: HubServer, folder: Path) -> None:
    push(prepare_upload(folder, NAME, CardFacts()))
    repository = hub.repositories[NAME]
    repository.files |= {"mllm/model-00002-of-00002.safetensors": b"old", "picture.png": b"theirs"}
    push(prepare_upload(folder, NAME, CardFacts()))
    assert "mllm/model-00002-of-00002.safetensors" not in repository.files
    assert "picture.png" in repository.files


def test_a_public_model_is_not_taken_for_a_private_one(hub: HubServer, folder: Path) -> None:
    hub.put(NAME)
    upload = prepare_upload(folder, NAME, CardFacts())
    with pytest.raises(CheckpointError, match="is public"):
        push(upload)
    push(upload, private=False)
    assert "checkpoint.json" in hub.repositories[NAME].files


def test_without_a_login_the_hint_says_so(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    with pytest.raises(CheckpointError) as caught:
        push(prepare_upload(folder, NAME, CardFacts()))
    assert "hf auth login" in str(caught.value.hint)


def test_offline_nothing_is_pushed(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        push(prepare_upload(folder, NAME, CardFacts()))


def test_the_card_has_scores_with_their_protocol_and_no_paths(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    old = RESULTS | {"protocol": "given"}
    (tmp_path / "scores/results.json").write_text(json.dumps(old))
    facts = CardFacts(load_results(tmp_path / "scores"), "apache-2.0", "someone/base")
    card = prepare_upload(folder, NAME, facts).card
    head = yaml.safe_load(card.split("---")[1])
    assert (head["library_name"], head["pipeline_tag"]) == ("cores", "image-segmentation")
    assert (head["license"], head["base_model"]) == ("apache-2.0", "someone/base")
    first, second = ModelCard(card).data.eval_results
    assert (first.metric_name, first.metric_value, first.metric_args) == ("gIoU", 50.0, {"interval_95": [40.0, 60.0]})
    assert (second.metric_name, second.metric_value, second.metric_args) == ("cIoU", 62.5, None)
    assert first.dataset_args["protocol"] == "teacher_forced"
    assert first.dataset_args["data"] == {"reasonseg/val": "abc123"}
    assert "/a/private/place" not in card


def test_a_protocol_that_is_no_text_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(RESULTS | {"protocol": ["given"]}))
    assert load_results(tmp_path)["protocol"] == ["given"]


def test_a_card_of_ones_own_is_kept(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    assert prepare_upload(folder, NAME, CardFacts()).card == "mine"
    with pytest.raises(CheckpointError, match="card of its own"):
        prepare_upload(folder, NAME, CardFacts(licence="mit"))


@pytest.mark.parametrize(("base", "is_refused"), [("/models/llava", True), ("someone/llava", False)])
def test_an_adapter_needs_a_base_that_others_have(folder: Path, base: str, is_refused: bool) -> None:
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    tree["lora"], tree["base"] = {"rank": 8}, {"mllm": base, "sam": "vit_h"}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    if is_refused:
        with pytest.raises(CheckpointError, match="/models/llava") as caught:
            prepare_upload(folder, NAME, CardFacts())
        assert "cores checkpoint merge" in str(caught.value.hint)
    else:
        assert "base_model: someone/llava" in prepare_upload(folder, NAME, CardFacts()).card


@pytest.mark.parametrize(("start", "base"), [("LISA-7B-v1", "xinlai/LISA-7B-v1"), ("tiny", None)])
def test_an_adapter_on_a_model_known_by_name_needs_no_merging(folder: Path, start: str, base: str | None) -> None:
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    tree["lora"], tree["train"] = {"rank": 8}, {"start_from": start}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    head = yaml.safe_load(prepare_upload(folder, NAME, CardFacts()).card.split("---")[1])
    assert head.get("base_model") == base


@pytest.mark.parametrize("name", ["mine", "a/b/c", "a b/c", "/mine"])
def test_a_name_that_is_no_hub_id_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="hub id"):
        prepare_upload(folder, name, CardFacts())


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        prepare_upload(tmp_path, NAME, CardFacts())
    with pytest.raises(DataError, match="no results"):
        load_results(tmp_path)
