"""A checkpoint comes back bit for bit, or is refused with the name of what is wrong."""

import json
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch
from helpers import noise_image
from safetensors.torch import load_file, save_file

from cores_core.errors import CheckpointError, CoresError
from cores_core.model import checkpoint as checkpoint_module
from cores_core.model.checkpoint import Checkpoint, load_checkpoint, load_optimizer, save_checkpoint
from cores_core.prompts import render_turn
from cores_core.sample import Query, Sample

SOME_TENSOR = "projection.0.weight"


@pytest.fixture(scope="module")
def saved(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved checkpoint; read it only."""
    folder = tmp_path_factory.mktemp("saved") / "step-000001"
    save_checkpoint(folder, checkpoint)
    return folder


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A saved checkpoint of one's own, to break."""
    save_checkpoint(tmp_path / "model", checkpoint)
    return tmp_path / "model"


def test_weights_and_config_come_back_bit_for_bit(checkpoint: Checkpoint, saved: Path) -> None:
    loaded = load_checkpoint(saved)
    assert loaded.config == checkpoint.config
    assert not loaded.model.training
    expected, found = checkpoint.model.state_dict(), loaded.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_loaded_model_reads_and_sees_the_same(checkpoint: Checkpoint, saved: Path) -> None:
    loaded = load_checkpoint(saved)
    texts = ["Which part steers the fish? [SEG]", "Fuß <s> 魚"]
    assert [loaded.processor.tokenizer.encode(t) for t in texts] == [
        checkpoint.processor.tokenizer.encode(t) for t in texts
    ]
    assert loaded.processor.chain_ids == checkpoint.processor.chain_ids
    turn = render_turn(Query("Which part steers the fish?"), checkpoint.processor.prompt)
    sample = Sample(image=noise_image(20, 30), turns=(turn,))
    with torch.no_grad():
        outputs = [c.model(c.processor.collate([sample])) for c in (checkpoint, loaded)]
    assert torch.equal(outputs[0].refined, outputs[1].refined)


def test_the_folder_explains_itself(checkpoint: Checkpoint, saved: Path) -> None:
    names = {path.name for path in saved.iterdir()}
    assert names == {"mllm", "heads.safetensors", "processor", "config.yaml", "checkpoint.json"}
    about = json.loads((saved / "checkpoint.json").read_text())
    assert (about["format"], about["mllm"], about["segmenter"]) == (3, "llava", "sam1")
    assert about["dtype"] == "float32"
    assert about["token_ids"] == dict(zip(("[LOC]", "[SEG]"), checkpoint.model.chain_ids, strict=True))
    assert about["versions"]["torch"] == metadata.version("torch")


def test_nothing_temporary_is_left(saved: Path) -> None:
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_half_as_large_and_load(
    checkpoint: Checkpoint, saved: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    save_checkpoint(tmp_path / "half", checkpoint, dtype=dtype)
    sizes = [(folder / "mllm/model.safetensors").stat().st_size for folder in (tmp_path / "half", saved)]
    assert sizes[0] < 0.6 * sizes[1]
    loaded = load_checkpoint(tmp_path / "half")
    assert loaded.about["dtype"] == str(dtype).removeprefix("torch.")
    for name, value in loaded.model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, checkpoint.model.state_dict()[name].to(dtype).float())


def test_saving_a_loaded_checkpoint_in_another_precision_says_so(saved: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "half", load_checkpoint(saved), dtype=torch.float16)
    assert load_checkpoint(tmp_path / "half").about["dtype"] == "float16"


def test_what_is_said_about_a_checkpoint_is_kept(checkpoint: Checkpoint, tmp_path: Path) -> None:
    told = Checkpoint(checkpoint.model, checkpoint.processor, checkpoint.config, about={"step": 7})
    save_checkpoint(tmp_path / "model", told)
    assert load_checkpoint(tmp_path / "model").about["step"] == 7


def test_a_missing_tensor_is_named(folder: Path) -> None:
    weights = load_file(folder / "heads.safetensors")
    del weights[SOME_TENSOR]
    save_file(weights, folder / "heads.safetensors")
    with pytest.raises(CheckpointError, match=f"missing {SOME_TENSOR}"):
        load_checkpoint(folder)


def test_an_extra_tensor_is_named(folder: Path) -> None:
    weights = load_file(folder / "heads.safetensors") | {"stranger": torch.zeros(1)}
    save_file(weights, folder / "heads.safetensors")
    with pytest.raises(CheckpointError, match="unknown stranger"):
        load_checkpoint(folder)


def test_a_misshapen_tensor_is_named_with_both_shapes(folder: Path) -> None:
    weights = load_file(folder / "heads.safetensors") | {SOME_TENSOR: torch.zeros(3, 4)}
    save_file(weights, folder / "heads.safetensors")
    with pytest.raises(CheckpointError, match=rf"shape of {SOME_TENSOR} is \(3, 4\), not \(32, 32\)"):
        load_checkpoint(folder)


def test_a_folder_without_its_json_is_no_checkpoint(folder: Path) -> None:
    (folder / "checkpoint.json").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint\.json") as caught:
        load_checkpoint(folder)
    assert caught.value.hint


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not exist: .*nowhere"):
        load_checkpoint(tmp_path / "nowhere")


def test_another_format_is_refused(folder: Path) -> None:
    about = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(CheckpointError, match="99"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["mllm/model.safetensors", "heads.safetensors"])
@pytest.mark.parametrize("length", [0, 5, 5000])
def test_cut_off_weights_are_refused(folder: Path, name: str, length: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:length])
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["mllm/model.safetensors", "heads.safetensors", "config.yaml", "processor/tokenizer.json"]
)
def test_a_missing_file_is_an_error_that_names_it(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CoresError, match=name.split("/")[0]):
        load_checkpoint(folder)


def test_a_missing_tokenizer_is_not_looked_for_elsewhere(folder: Path) -> None:
    shutil.rmtree(folder / "processor")
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_json_is_an_error_for_the_user(folder: Path, text: str) -> None:
    (folder / "checkpoint.json").write_text(text)
    with pytest.raises(CheckpointError, match="checkpoint"):
        load_checkpoint(folder)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_save_leaves_the_old_checkpoint(
    checkpoint: Checkpoint, folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def interrupt(*_: object) -> None:
        raise error

    monkeypatch.setattr(checkpoint_module, "render_config", interrupt)
    with pytest.raises(CheckpointError if error is OSError else error):
        save_checkpoint(folder, checkpoint)
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_save_takes_the_place_of_the_old_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    save_checkpoint(folder, checkpoint, optimizer={"steps": 3})
    save_checkpoint(folder, checkpoint)
    assert not (folder / "optimizer").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_optimizer_state_comes_back(checkpoint: Checkpoint, tmp_path: Path) -> None:
    state = {"steps": 3, "moments": {0: torch.arange(3.0)}, "best": [0.5, 2], "rng": torch.get_rng_state()}
    save_checkpoint(tmp_path / "model", checkpoint, optimizer=state)
    loaded = load_optimizer(tmp_path / "model")
    assert (loaded["steps"], loaded["best"]) == (3, [0.5, 2])
    assert torch.equal(loaded["moments"][0], torch.arange(3.0))
    assert torch.equal(loaded["rng"], state["rng"])


def test_format_2_is_read_by_todays_names(checkpoint: Checkpoint, folder: Path) -> None:
    """It named neither its multimodal LLM nor its SAM, and its optimiser's state says `llava` where ours says `net`."""
    moments = {f"0.mllm.llava.{name}": {"step": torch.tensor(3.0)} for name in ("lm_head.weight", "model.x")}
    save_checkpoint(folder, checkpoint, optimizer={"engine": {"steps": 3, "moments": moments}})
    about = json.loads((folder / "checkpoint.json").read_text()) | {"format": 2}
    (folder / "checkpoint.json").write_text(
        json.dumps({n: v for n, v in about.items() if n not in ("mllm", "segmenter")})
    )
    loaded = load_checkpoint(folder).model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in checkpoint.model.state_dict().items())
    state = load_optimizer(folder)["engine"]
    assert (state["steps"], list(state["moments"])) == (3, ["0.mllm.net.lm_head.weight", "0.mllm.net.model.x"])


def test_a_checkpoint_without_optimizer_cannot_be_resumed(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot resume"):
        load_optimizer(saved)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("processor/tokenizer.json", lambda text: text.replace('"merges"', '"merge"')),
        ("processor/tokenizer.json", lambda text: text.replace('"BPE"', '"XXX"')),
        ("processor/tokenizer.json", lambda text: "[" * 5000),
        ("processor/tokenizer_config.json", lambda text: '{"unk_token": {}}'),
        ("processor/tokenizer_config.json", lambda text: "[]"),
        ("config.yaml", lambda text: "[" * 5000),
        ("config.yaml", lambda text: "sam:\n  image_size: 2020-99-99\n"),
        ("config.yaml", lambda text: "language: {width: [}\n"),
        ("checkpoint.json", lambda text: "[" * 5000),
        ("checkpoint.json", lambda text: json.dumps(json.loads(text) | {"base": []})),
        ("checkpoint.json", lambda text: json.dumps(json.loads(text) | {"base": {"mllm": []}})),
    ],
)
def test_a_file_with_damaged_content_is_one_error_of_one_line(
    folder: Path, name: str, change: Callable[[str], str]
) -> None:
    path = folder / name
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises(CoresError) as caught:
        load_checkpoint(folder)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"hello", b"\x80\x02]q\x00."])
def test_a_damaged_optimizer_state_is_one_error(checkpoint: Checkpoint, tmp_path: Path, data: bytes) -> None:
    save_checkpoint(tmp_path / "model", checkpoint, optimizer={"a": 1})
    (tmp_path / "model/optimizer/state.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"cannot read: .*state\.pt"):
        load_optimizer(tmp_path / "model")


def test_a_config_that_is_not_utf_8_is_one_error(folder: Path) -> None:
    (folder / "config.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(CoresError, match=r"config\.yaml"):
        load_checkpoint(folder)
