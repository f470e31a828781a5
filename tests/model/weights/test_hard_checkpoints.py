"""Model folders as people share them: each is read right, or refused with one error that says what is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bases import save_hub_llava, save_sam
from families import save_tiny_mllm
from peft import LoraConfig, get_peft_model
from releases import save_lisa
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from cores_core.config import BaseConfig, Config
from cores_core.errors import CheckpointError
from cores_core.model.build import Parts
from cores_core.model.checkpoint import assemble, find_checkpoint
from cores_core.model.families.llava import find_tower
from cores_core.model.weights.pretrained import find_mllm, read_base
from cores_core.model.weights.releases import read_released

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    """A LLaVA of the hub, with a SAM in it."""
    save_sam(tmp_path / "llava/sam.pth")
    return save_hub_llava(tmp_path / "llava")


@pytest.fixture
def lisa(tmp_path: Path, tiny_config: Config) -> Path:
    """A LISA, a LLaVA in the original format, with its CLIP in `clip`."""
    save_lisa(tmp_path / "lisa", tower=tmp_path / "lisa-clip", tower_name="clip", sizes=tiny_config)
    return (tmp_path / "lisa-clip").rename(tmp_path / "lisa/clip").parent


def read(folder: Path) -> Parts:
    return read_base(
        Config(base=BaseConfig(str(folder), str(folder / "sam.pth"))), lambda: pytest.fail("it has a tokenizer")
    )


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def split(folder: Path) -> dict[str, Any]:
    """Two shards in place of one file; returns the index, which is written, too."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: SHARDS[number % 2] for number, name in enumerate(sorted(weights))}
    for shard in SHARDS:
        save_file({n: t for n, t in weights.items() if places[n] == shard}, folder / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index))
    return index


def test_shards_are_read_and_others_in_the_folder_are_not(llava: Path) -> None:
    expected = read(llava).weights
    split(llava)
    save_file({"stranger": torch.ones(1)}, llava / "model-00003-of-00003.safetensors")
    found = read(llava).weights
    assert found.keys() == expected.keys()
    assemble(read(llava))


def drop_shard(folder: Path, index: dict[str, Any]) -> None:
    (folder / SHARDS[1]).unlink()


def forget_tensor(folder: Path, index: dict[str, Any]) -> None:
    index["weight_map"].pop(sorted(index["weight_map"])[0])


def invent_tensor(folder: Path, index: dict[str, Any]) -> None:
    index["weight_map"]["stranger"] = SHARDS[0]


def lead_out(folder: Path, index: dict[str, Any]) -> None:
    index["weight_map"][sorted(index["weight_map"])[0]] = "../secret.safetensors"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_shard, f"missing shard: .*{SHARDS[1]}"),
        (forget_tensor, "a tensor is not in the index"),
        (invent_tensor, "not in any shard: stranger"),
        (lead_out, "not the path of a shard"),
        (lambda _, index: index.pop("weight_map"), "it has no `weight_map`"),
        (lambda _, index: index.update(weight_map=[]), "cannot read"),
    ],
    ids=["missing shard", "not in the index", "not in a shard", "outside", "no map", "a list"],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(
    llava: Path, damage: Callable[[Path, dict[str, Any]], object], message: str
) -> None:
    index = split(llava)
    damage(llava, index)
    (llava / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        read(llava)


def old_names(tree: dict[str, Any]) -> None:
    """As transformers 4 wrote them."""
    tree["torch_dtype"] = tree.pop("dtype", "float32")
    for part in (tree["text_config"], tree["vision_config"]):
        part["torch_dtype"] = part.pop("dtype", "float32")
    tree["text_config"]["rope_theta"] = tree["text_config"].pop("rope_parameters")["rope_theta"]
    tree["text_config"]["rope_scaling"] = None


def test_a_config_of_an_older_transformers_is_read(llava: Path) -> None:
    change_config(llava, lambda tree: tree["text_config"]["rope_parameters"].update(rope_theta=5000.0))
    expected = read(llava).config
    assert expected.language.rope_theta == 5000.0
    change_config(llava, old_names)
    assert read(llava).config.language == expected.language


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_a_rope_that_the_model_does_not_have_is_refused(llava: Path, name: str) -> None:
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}
    change_config(llava, lambda tree: tree["text_config"].update({name: scaled}) or tree)
    if name == "rope_scaling":
        change_config(llava, lambda tree: tree["text_config"].pop("rope_parameters"))
    with pytest.raises(CheckpointError, match="its rope is `linear`"):
        read(llava)


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "its rope is `linear`"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "its rope is `yarn`"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0}}, "its rope is `dynamic`"),
        ({"rope_scaling": "linear"}, "invalid sizes"),
        ({"rope_theta": "many"}, "invalid sizes"),
    ],
)
def test_a_scaled_rope_in_the_original_format_is_refused(lisa: Path, rope: dict[str, Any], message: str) -> None:
    change_config(lisa, lambda tree: tree.update(rope))
    with pytest.raises(CheckpointError, match=message):
        read_released(lisa, shapes_only=True)


def test_a_plain_rope_in_the_original_format_is_read(lisa: Path) -> None:
    ropes: list[dict[str, Any]] = [{"rope_scaling": None, "rope_theta": 5000.0}]
    ropes.append({"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}})
    for rope in ropes:
        change_config(lisa, lambda tree, rope=rope: tree.update(rope))
        assert read_released(lisa, shapes_only=True).config.language.rope_theta == 5000.0


def test_weights_in_bfloat16_and_in_a_pickle_are_read(llava: Path) -> None:
    weights = {name: tensor.bfloat16() for name, tensor in load_file(llava / "model.safetensors").items()}
    (llava / "model.safetensors").unlink()
    torch.save(weights, llava / "pytorch_model.bin")
    parts = read(llava)
    assert parts.weights["mllm.net.lm_head.weight"].dtype == torch.bfloat16
    assert assemble(parts).model.mllm.net.dtype == torch.float32


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {1: torch.ones(1)}, torch.ones(2)])
def test_a_pickle_of_anything_but_tensors_by_name_is_refused(llava: Path, content: Any) -> None:
    (llava / "model.safetensors").unlink()
    torch.save(content, llava / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"cannot read weights: .*pytorch_model\.bin"):
        read(llava)


def test_a_head_that_is_missing_is_named(llava: Path) -> None:
    weights = load_file(llava / "model.safetensors")
    head = next(name for name in weights if "lm_head" in name)
    save_file({n: t for n, t in weights.items() if n != head}, llava / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing mllm\.net\.lm_head\.weight"):
        assemble(read(llava))


def test_the_path_of_a_tower_on_another_machine_is_named_with_where_to_put_it(tmp_path: Path) -> None:
    name = "/mnt/home/someone/clip-vit-large-patch14"
    with pytest.raises(CheckpointError, match=f"no such CLIP vision tower: {name}") as caught:
        find_tower({"mm_vision_tower": name}, tmp_path)
    assert "config.json" in str(caught.value.hint)


def test_a_tower_inside_a_llava_in_the_original_format_is_read(lisa: Path) -> None:
    expected = read_released(lisa).weights
    tower, weights = load_file(lisa / "clip/model.safetensors"), load_file(lisa / "model.safetensors")
    inside = {f"model.vision_tower.vision_tower.{name}": tensor for name, tensor in tower.items()}
    save_file(weights | inside, lisa / "model.safetensors", {"format": "pt"})
    (lisa / "clip/model.safetensors").unlink()
    parts = read_released(lisa)
    assert parts.weights.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in parts.weights.items())
    assemble(parts)


@pytest.mark.parametrize("kind", ["llava", "smolvlm"])
def test_code_that_a_folder_brings_is_never_run(llava: Path, tmp_path: Path, kind: str) -> None:
    folder = llava if kind == "llava" else save_tiny_mllm(tmp_path / "smolvlm", "smolvlm")
    save_sam(folder / "sam.pth")
    sign = tmp_path / "was-run"
    (folder / "code.py").write_text(f"open({str(sign)!r}, 'w').close()\n")
    classes = ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor")
    for path in folder.glob("*config.json"):
        tree = json.loads(path.read_text())
        path.write_text(json.dumps(tree | {"auto_map": dict.fromkeys(classes, "code.Thing")}))
    assemble(read(folder))
    assert not sign.exists()


def test_an_unknown_model_with_code_is_refused_without_asking(tmp_path: Path) -> None:
    tree = {"model_type": "phi3_v", "auto_map": {"AutoConfig": "code.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match="of the model type `phi3_v`, which is not supported"):
        read(tmp_path)


@pytest.mark.parametrize("given_as", ["model", "mllm"])
def test_an_adapter_that_peft_saved_is_refused_with_what_it_needs(llava: Path, tmp_path: Path, given_as: str) -> None:
    net = LlavaForConditionalGeneration.from_pretrained(llava)
    settings = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])
    get_peft_model(net, settings).save_pretrained(tmp_path / "adapter")
    find = find_checkpoint if given_as == "model" else find_mllm
    with pytest.raises(CheckpointError, match=f"an adapter of peft, not a whole model: {tmp_path}/adapter") as caught:
        find(str(tmp_path / "adapter"))
    assert f"into its base model, {llava}, with peft (merge_and_unload)" in str(caught.value.hint)
    (tmp_path / "adapter/adapter_config.json").write_text("[")
    with pytest.raises(CheckpointError, match="an adapter of peft"):
        find(str(tmp_path / "adapter"))
    (tmp_path / "checkpoint.json").touch()
    with pytest.raises(CheckpointError, match="an adapter of peft") as caught:
        find(str(tmp_path / "adapter"))
    assert str(caught.value.hint).endswith(f"a part of: {tmp_path}")


@pytest.mark.parametrize("home", [None, "/dev/null/home"])
def test_a_prediction_needs_no_home(tmp_path: Path, home: str | None) -> None:
    environment = {n: v for n, v in os.environ.items() if n not in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME")}
    environment |= {"OMP_NUM_THREADS": "1"} | ({} if home is None else {"HOME": home})
    image = Path(__file__).parents[3] / "examples/images/fish.jpg"
    command = [sys.executable, "-m", "cores_cli.app", "predict", str(image), "What steers?", "-o", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == 3
