"""Reading settings: from a preset or a YAML file, with overrides; and writing them so that they can be read back."""

import dataclasses
import textwrap
import types
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from cores_core.config import Config, SamConfig, ScratchConfig
from cores_core.errors import ConfigError

RENAMED: Mapping[str, str] = {
    "loss.concept": "scratch.prototype_loss",
    "train.pretrain_steps": "scratch.sam_steps",
    "train.pretrain_images": "scratch.sam_images",
    "train.pretrain_queries": "scratch.sam_queries",
    "train.align_steps": "scratch.align_steps",
    "train.joint_rate": "scratch.joint_lr_scale",
    "train.optimizer": "scratch.optimizer",
    "train.matrix_learning_rate": "scratch.muon_learning_rate",
    "train.embedding_rate": "scratch.embedding_lr_scale",
    "train.word_dropout": "scratch.word_dropout",
    "train.images_per_step": "train.global_batch_size",
    "train.images_at_once": "train.micro_batch_size",
    "train.most_skipped": "train.max_skipped",
    "train.keep_images": "train.cache_images",
    "train.checkpoint_activations": "train.activation_checkpointing",
    "language.width": "language.hidden_size",
    "language.layers": "language.num_hidden_layers",
    "language.heads": "language.num_attention_heads",
    "language.key_heads": "language.num_key_value_heads",
    "language.mlp": "language.intermediate_size",
    "language.vocabulary": "language.vocab_size",
    "language.positions": "language.max_position_embeddings",
    "language.norm_epsilon": "language.rms_norm_eps",
    "vision.width": "vision.hidden_size",
    "vision.layers": "vision.num_hidden_layers",
    "vision.heads": "vision.num_attention_heads",
    "vision.mlp": "vision.intermediate_size",
    "vision.read_layer": "vision.feature_layer",
    "sam.width": "sam.embed_dim",
    "sam.heads": "sam.num_heads",
    "sam.window": "sam.window_size",
    "sam.global_blocks": "sam.global_attn_indexes",
    "sam.prompt_width": "sam.prompt_embed_dim",
    "chain.steps": "chain.stages",
    "chain.reasons": "chain.chain_of_thought",
    "train.longest_side": "train.max_image_size",
    "train.mirror": "train.random_flip",
    "train.decay_share": "train.lr_decay_fraction",
    "scratch.joint_rate": "scratch.joint_lr_scale",
    "scratch.embedding_rate": "scratch.embedding_lr_scale",
    "engine.stage": "engine.zero_stage",
}
"""Settings of older files and what they are called today. Old names are read everywhere; none is written."""


def list_presets() -> list[str]:
    """Names of the presets that ship with the package."""
    return _names(resources.files("cores_core") / "presets")


def list_variants() -> list[str]:
    """Names of the variants: changes of a preset, most of them rows of the paper's ablation tables."""
    return _names(resources.files("cores_core") / "presets" / "variants")


def load_config(source: str | Path | None, overrides: tuple[str, ...] = (), variants: tuple[str, ...] = ()) -> Config:
    """Read a preset (by name) or a YAML file, then apply variants, then `section.key=value` overrides.

    Args:
        source: None for the defaults alone.

    Raises:
        ConfigError: no such preset, file or variant, an unknown key or an invalid value.
    """
    presets = resources.files("cores_core") / "presets"
    if source is None:
        tree: dict[str, Any] = {}
    elif str(source) in list_presets():
        tree = _read_tree((presets / f"{source}.yaml").read_text(encoding="utf-8"), source)
    elif Path(source).is_file():
        tree = _read_tree(Path(source).read_text(encoding="utf-8"), source)
    else:
        raise ConfigError(f"no preset or file: {source}", hint=f"presets: {', '.join(list_presets())}")
    for variant in variants:
        if variant not in list_variants():
            raise ConfigError(f"no variant: {variant}", hint=f"variants: {', '.join(list_variants())}")
        _merge(tree, _read_tree((presets / "variants" / f"{variant}.yaml").read_text(encoding="utf-8"), variant))
    for override in overrides:
        _apply_override(tree, override)
    return build_config(tree)


def _names(folder: Traversable) -> list[str]:
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _read_tree(text: str, source: str | Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {source}: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"not a mapping of settings: {source}")
    _rename(tree)
    return tree


def _rename(tree: dict[str, Any]) -> None:
    """Bring a tree of settings to today's names."""
    for old, new in RENAMED.items():
        section, key = old.split(".")
        if not isinstance(tree.get(section), dict) or key not in tree[section]:
            continue
        place, name = new.split(".")
        settings = tree.setdefault(place, {})
        if not isinstance(settings, dict) or name in settings:
            raise ConfigError(f"`{old}` is an old name of `{new}`, and both are set", hint=f"leave out `{old}`")
        settings[name] = tree[section].pop(key)


def _merge(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Change a tree of settings; sections are merged, values replaced."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def build_config(tree: Mapping[str, Any]) -> Config:
    """Make a `Config` from nested mappings; unknown keys and wrong types are errors that name them."""
    config: Config = _build(Config, tree, where="")
    return config


def config_tree(config: Config) -> dict[str, Any]:
    """The config as plain nested mappings, ready for YAML; `build_config` reads it back."""
    tree: dict[str, Any] = _plain(dataclasses.asdict(config))
    return tree


def render_config(config: Config) -> str:
    """The whole resolved config as YAML, ready to be written; `load_config` reads the file back.

    Sections without effect are left out: `scratch` where it is off, sizes of a LLaVA where the model has a chat
    template of its own, and with them those of SAM where they are the defaults.
    """
    tree = config_tree(config)
    if config.scratch == ScratchConfig():
        del tree["scratch"]
    if config.conversation == "template":
        del tree["language"]
        tree["vision"] = {"max_tokens": config.vision.max_tokens}
        if config.sam == SamConfig():
            del tree["sam"]
    return yaml.safe_dump(tree, sort_keys=False)


def document_config(config: Config) -> str:
    """As `render_config`, with the description of each setting as a comment above it."""
    schema, lines = config_schema(), []
    for key, value in yaml.safe_load(render_config(config)).items():
        entry = schema["properties"][key]
        if "$ref" not in entry:
            lines += _documented(key, value, entry)
            continue
        section = schema["$defs"][entry["$ref"].rpartition("/")[2]]
        lines += [*_comment(section["description"]), f"{key}:"]
        for name, item in value.items():
            lines += [f"  {line}" for line in _documented(name, item, section["properties"][name])]
    return "".join(f"{line}\n" for line in lines)


def config_schema() -> dict[str, Any]:
    """JSON schema of a config file, for editors and other programs; it has each setting's type, limits and description.

    The checks of `load_config` are our own because pydantic takes 0.1 s to import, a part of each `cores predict`.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(Config).json_schema()


def _documented(key: str, value: Any, schema: Mapping[str, Any]) -> list[str]:
    return [*_comment(schema["description"]), *yaml.safe_dump({key: value}, width=1000).splitlines()]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), width=116, initial_indent="# ", subsequent_indent="# ")


def find_changes(before: Config, after: Config) -> list[str]:
    """The settings that differ, each as "`train.steps` 60 -> 100"."""
    old, new = _flatten(config_tree(before)), _flatten(config_tree(after))
    differing = [key for key in dict.fromkeys((*old, *new)) if old.get(key) != new.get(key)]
    return [f"`{key}` {old.get(key)} -> {new.get(key)}" for key in differing]


def _flatten(tree: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{start}{key}.") if isinstance(value, Mapping) and value else {f"{start}{key}": value}
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator:
        raise ConfigError(f"not `section.key=value`: {override}")
    *sections, last = RENAMED.get(key.strip(), key.strip()).split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"unknown setting: `{key}`")
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"not a value for `{key}`: {value}") from error


def _build(kind: Any, tree: Any, where: str) -> Any:
    if not isinstance(tree, Mapping):
        raise ConfigError(f"`{where.rstrip('.')}` must be a mapping: {tree!r}")
    hints, known = get_type_hints(kind), [entry.name for entry in dataclasses.fields(kind)]
    for key in tree:
        if key not in known:
            close = "".join(f"did you mean `{where}{name}`? " for name in get_close_matches(str(key), known, n=1))
            raise ConfigError(f"unknown setting: `{where}{key}`", hint=f"{close}known here: {', '.join(known)}")
    return kind(**{key: _convert(hints[key], value, f"{where}{key}") for key, value in tree.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build(kind, value, where=f"{where}.")
    origin = get_origin(kind)
    if origin is Literal:
        if not any(value == option and type(value) is type(option) for option in get_args(kind)):
            raise ConfigError(f"`{where}` must be one of {', '.join(map(str, get_args(kind)))}: {value!r}")
        return value
    if origin is tuple:
        items = _as_list(value, where)
        if Ellipsis not in get_args(kind) and len(items) != len(get_args(kind)):
            raise ConfigError(f"`{where}` must have {len(get_args(kind))} values: {value!r}")
        return tuple(_convert(get_args(kind)[0], item, where) for item in items)
    if origin in (Union, types.UnionType):
        return None if value is None else _convert(get_args(kind)[0], value, where)
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 3e-4 as text
        except ValueError:
            pass
    elif type(value) is kind:
        return value
    raise ConfigError(f"`{where}` must be of type {kind.__name__}: {value!r}")


def _as_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"`{where}` must be a list: {value!r}")
    return list(value)
