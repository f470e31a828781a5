"""A config refuses nonsense and names it."""

from dataclasses import replace
from importlib import resources
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from cores_core.config import Config, LossWeights, VisionConfig
from cores_core.errors import ConfigError
from cores_core.model.families.published import published_config
from cores_core.settings import (
    RENAMED,
    build_config,
    config_schema,
    config_tree,
    document_config,
    list_presets,
    load_config,
    render_config,
)


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_loads(name: str) -> None:
    config = load_config(name)
    assert config.data
    assert config.prompt.stages == config.chain.stages


def test_there_is_a_tiny_preset() -> None:
    assert "tiny" in list_presets()
    assert load_config("tiny") != Config()


def test_the_default_loss_is_the_best_cell_of_table_s2() -> None:
    loss = LossWeights()
    assert loss.mask / loss.text == 2
    assert loss.bce / loss.dice == pytest.approx(2 / 3)


def test_an_override_changes_one_setting() -> None:
    config = load_config("tiny", ("train.steps=7", "sam.global_attn_indexes=[1, 3]", "context=none"))
    assert config.train.steps == 7
    assert config.sam.global_attn_indexes == (1, 3)
    assert config.prompt.context == "none"
    assert config.train.global_batch_size == load_config("tiny").train.global_batch_size


def test_a_later_override_wins() -> None:
    assert load_config("tiny", ("train.steps=7", "train.steps=8")).train.steps == 8


@pytest.mark.parametrize("text", ["3e-4", "0.0003", "3.0e-4"])
def test_a_rate_may_be_written_as_people_write_it(text: str) -> None:
    assert load_config("tiny", (f"train.learning_rate={text}",)).train.learning_rate == 3e-4


def test_a_whole_number_is_a_fine_float() -> None:
    weight = load_config("tiny", ("loss.mask=3",)).loss.mask
    assert (weight, type(weight)) == (3.0, float)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("train.stepz=7", "train.stepz"),  # unknown key
        ("trian.steps=7", "trian"),  # unknown section
        ("train.steps.deep=7", "train.steps.deep"),  # a number has no settings of its own
        ("train=7", "train"),  # a section is no number
        ("train.steps", "train.steps"),  # no value
        ("train.steps=[1", "train.steps"),  # no YAML
        ("train.steps=many", "train.steps"),  # wrong types
        ("train.steps=1.5", "train.steps"),
        ("train.steps=true", "train.steps"),
        ("train.learning_rate=fast", "train.learning_rate"),
        ("train.learning_rate=true", "train.learning_rate"),
        ("chain.refiner=1", "chain.refiner"),
        ("sam.global_attn_indexes=2", "sam.global_attn_indexes"),
        ("sam.global_attn_indexes=[2, x]", "sam.global_attn_indexes"),
        ("train.betas=[0.9]", "train.betas"),
        ("train.steps=0", "train.steps"),  # nonsense values
        ("train.steps=-1", "train.steps"),
        ("train.validate_every=0", "train.validate_every"),
        ("train.learning_rate=-1", "train.learning_rate"),
        ("train.learning_rate=nan", "train.learning_rate"),
        ("loss.dice=-0.1", "loss.dice"),
        ("chain.stages=4", "chain.stages"),
        ("context=some", "context"),
        ("vision.fit=squeeze", "vision.fit"),
    ],
)
def test_nonsense_is_refused_by_its_name(override: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", (override,))
    assert named in caught.value.message


def test_the_hint_for_an_unknown_key_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config({"loss": {"bec": 1.0}})
    assert "bce" in str(caught.value.hint)


@pytest.mark.parametrize(("wrong", "meant"), [("train.stepz=7", "train.steps"), ("trian={}", "train")])
def test_the_hint_for_a_misspelt_key_names_the_right_one(wrong: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", (wrong,))
    assert f"did you mean `{meant}`?" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.steps=0", "`train.steps` must be at least 1: 0"),
        ("train.max_image_size=0", "`train.max_image_size` must be at least 1: 0"),
        ("train.betas=[0.9, 1]", "`train.betas` must be below 1: 1.0"),
        ("train.lr_decay_fraction=1.5", "`train.lr_decay_fraction` must be at most 1: 1.5"),
        ("vision.feature_layer=0", "`vision.feature_layer` must be below 0: 0"),
        ("scratch.word_dropout=1", "`scratch.word_dropout` must be below 1: 1.0"),
        ("chain.stages=true", "`chain.stages` must be one of 1, 2, 3: True"),
    ],
)
def test_a_value_outside_its_limits_is_named_with_the_limit(override: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", (override,))
    assert caught.value.message == problem


def test_the_schema_describes_every_setting() -> None:
    schema = config_schema()
    for section in (schema, *schema["$defs"].values()):
        assert section["additionalProperties"] is False
        for name, entry in section["properties"].items():
            assert "$ref" in entry or entry["description"], name
    assert schema["$defs"]["TrainConfig"]["properties"]["steps"] == {
        "default": 5000,
        "description": "Optimiser steps.",
        "minimum": 1,
        "title": "Steps",
        "type": "integer",
    }


@pytest.mark.parametrize("name", list_presets())
def test_the_schema_and_the_reader_take_the_same_settings(name: str) -> None:
    config = load_config(name)
    assert TypeAdapter(Config).validate_python(config_tree(config)) == config


def test_a_described_config_is_the_same_config(tmp_path: Path) -> None:
    for name in ("tiny", "cores-qwen3vl-2b"):
        config = load_config(name)
        (tmp_path / "config.yaml").write_text(text := document_config(config))
        assert load_config(tmp_path / "config.yaml") == config
        assert all(len(line) <= 120 for line in text.splitlines())
    assert "  # Optimiser steps.\n  steps: 5000\n" in text


def test_the_message_for_a_wrong_value_holds_the_value() -> None:
    with pytest.raises(ConfigError, match="'many'"):
        load_config("tiny", ("train.steps=many",))


def test_a_missing_preset_is_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="huge") as caught:
        load_config("huge")
    assert "tiny" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["train: [", "- train", "7", "train:\n- steps"])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    for overrides in ((), ("train.steps=7",)):
        with pytest.raises(ConfigError):
            load_config(path, overrides)


def test_an_empty_file_holds_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    assert load_config(tmp_path / "config.yaml") == Config()


def test_a_config_survives_saving_and_loading(tmp_path: Path, tiny_config: Config) -> None:
    for config in (tiny_config, load_config("tiny", ("train.betas=[0.8, 0.99]", "data=[a, b]"))):
        (tmp_path / "config.yaml").write_text(render_config(config))
        assert load_config(tmp_path / "config.yaml") == config


def test_a_config_leaves_out_sizes_that_the_models_of_the_hub_have_themselves(
    tmp_path: Path, tiny_config: Config
) -> None:
    own = replace(Config(train=tiny_config.train), conversation="template", vision=VisionConfig(max_tokens=300))
    (tmp_path / "config.yaml").write_text(text := render_config(own))
    assert load_config(tmp_path / "config.yaml") == own
    assert yaml.safe_load(text)["vision"] == {"max_tokens": 300}
    assert not {"language", "sam"} & set(yaml.safe_load(text))
    tall = replace(own, sam=tiny_config.sam)  # a SAM 1 has its sizes here
    (tmp_path / "config.yaml").write_text(render_config(tall))
    assert load_config(tmp_path / "config.yaml") == tall


def test_the_tree_of_a_config_is_plain_yaml(tiny_config: Config) -> None:
    tree = config_tree(tiny_config)
    assert yaml.safe_load(yaml.safe_dump(tree)) == tree
    assert build_config(tree) == tiny_config


def _other_than(default: Any) -> Any:
    """Another value that every setting of the default's type accepts."""
    if isinstance(default, bool):
        return not default
    if isinstance(default, int) and abs(default) > 1:
        return default // 2
    return {float: 0.5, str: "muon", tuple: [0]}.get(type(default), -2 if default == -1 else 3)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_settings_are_known_by_their_old_names(tmp_path: Path, old: str, new: str) -> None:
    value = _other_than(attrgetter(new)(Config()))
    trees = [{"scratch": {"prototype_loss": 1.0}} if "_steps" in new else {} for _ in range(2)]
    for tree, name in zip(trees, (old, new), strict=True):
        section, key = name.split(".")
        tree.setdefault(section, {})[key] = value
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    expected = load_config(tmp_path / f"{new}.yaml")
    assert expected != Config()
    assert load_config(tmp_path / f"{old}.yaml") == expected
    assert load_config(tmp_path / f"{new}.yaml", (f"{old}={value}",)) == expected


def test_a_setting_under_both_its_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("train: {optimizer: muon}\nscratch: {optimizer: adamw}\n")
    with pytest.raises(ConfigError, match=r"`train\.optimizer` is an old name of `scratch\.optimizer`"):
        load_config(tmp_path / "config.yaml")


def test_a_config_without_a_training_from_scratch_does_not_mention_it(tmp_path: Path, tiny_config: Config) -> None:
    assert "scratch" not in render_config(tiny_config)
    assert yaml.safe_load(render_config(load_config("tiny")))["scratch"]["optimizer"] == "muon"


def test_the_prompt_follows_the_chain() -> None:
    assert load_config("tiny", ("chain.stages=1", "context=none")).prompt.chain == ("[SEG]",)


@pytest.mark.parametrize(
    "setting",
    [
        "language.num_attention_heads=5",
        "vision.patch_size=0",
        "vision.image_size=100",
        "sam.num_heads=3",
        "sam.prompt_embed_dim=60",
    ],
)
def test_sizes_that_do_not_fit_together_are_named(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.split("=")[0]):
        load_config("tiny", (setting,))


def test_tiny_goes_on_from_tiny_sam() -> None:
    """They are one model but for the size of SAM's images."""
    first, second = load_config("tiny-sam"), load_config("tiny")
    for name in ("language", "vision", "chain", "context", "wording", "data"):
        assert getattr(first, name) == getattr(second, name)
    assert replace(first.sam, image_size=second.sam.image_size) == second.sam
    assert first.train.steps == first.scratch.sam_steps


MODERN = {
    "cores-qwen3vl-2b": "qwen3_vl",
    "cores-qwen3vl-4b": "qwen3_vl",
    "cores-qwen3vl-8b": "qwen3_vl",
    "cores-qwen2.5vl-7b": "qwen2_5_vl",
    "cores-internvl3.5-4b": "internvl",
    "cores-internvl3.5-8b": "internvl",
    "cores-smolvlm2-500m": "smolvlm",
    "cores-smolvlm2-2.2b": "smolvlm",
}
"""Presets on the models of the hub's families."""


@pytest.mark.parametrize("name", MODERN)
def test_a_modern_preset_trains_as_the_paper_does_on_another_model(name: str) -> None:
    config, paper = load_config(name), load_config("cores-7b-llava1.5")
    assert published_config(str(config.base.mllm)).model_type == MODERN[name]
    assert config.base.sam == "sam2.1-large"
    assert config.lora == replace(paper.lora, vocabulary="rows")
    assert config.vision.max_tokens == 576
    same = {"micro_batch_size": paper.train.micro_batch_size, "activation_checkpointing": False}
    assert config.train.activation_checkpointing
    assert replace(config.train, **same) == paper.train
    for section in ("chain", "context", "wording", "loss", "data", "mixture", "engine"):
        assert getattr(config, section) == getattr(paper, section)


def test_every_line_of_a_modern_preset_has_its_source() -> None:
    folder = resources.files("cores_core") / "presets"
    for name in MODERN:
        lines = (folder / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        assert [line for line in lines if "#" not in line and line not in ("lora:", "train:")] == lines[-2:-1]
