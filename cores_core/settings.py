"""Reading settings: from a preset or a YAML file, with overrides; and writing them so that they can be read back."""

import dataclasses
import types
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from cores_core.config import Config
from cores_core.errors import ConfigError

T = TypeVar("T")


def list_presets() -> list[str]:
    """Names of the presets that ship with the package."""
    folder = resources.files("cores_core") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(source: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a preset (by name) or a YAML file, then apply `section.key=value` overrides.

    Raises:
        ConfigError: no such preset or file, or a key or value that makes no sense.
    """
    if str(source) in list_presets():
        text = (resources.files("cores_core") / "presets" / f"{source}.yaml").read_text(encoding="utf-8")
    elif Path(source).is_file():
        text = Path(source).read_text(encoding="utf-8")
    else:
        raise ConfigError(f"no preset or file: {source}", hint=f"presets: {', '.join(list_presets())}")
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {source}: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"not a mapping of settings: {source}")
    for override in overrides:
        _apply_override(tree, override)
    return build_config(tree)


def build_config(tree: Mapping[str, Any]) -> Config:
    """Make a `Config` from nested mappings; unknown keys and wrong types are errors that name them."""
    return _build(Config, tree, where="")


def config_tree(config: Config) -> dict[str, Any]:
    """The config as plain nested mappings, ready for YAML; `build_config` reads it back."""
    tree: dict[str, Any] = _plain(dataclasses.asdict(config))
    return tree


def render_config(config: Config) -> str:
    """The whole resolved config as YAML, ready to be written; `load_config` reads the file back."""
    return yaml.safe_dump(config_tree(config), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator:
        raise ConfigError(f"not `section.key=value`: {override}")
    *sections, last = key.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"unknown setting: `{key}`")
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"not a value for `{key}`: {value}") from error


def _build(kind: type[T], tree: Any, where: str) -> T:
    if not isinstance(tree, Mapping):
        raise ConfigError(f"`{where.rstrip('.')}` must be a mapping: {tree!r}")
    hints = get_type_hints(kind)
    unknown = sorted(set(tree) - set(hints))
    if unknown:
        raise ConfigError(f"unknown setting: `{where}{unknown[0]}`", hint=f"known here: {', '.join(hints)}")
    return kind(**{key: _convert(hints[key], value, f"{where}{key}") for key, value in tree.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build(kind, value, where=f"{where}.")
    origin = get_origin(kind)
    if origin is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"`{where}` must be one of {', '.join(map(str, get_args(kind)))}: {value!r}")
        return value
    if origin is tuple:
        items = _as_list(value, where)
        if Ellipsis not in get_args(kind) and len(items) != len(get_args(kind)):
            raise ConfigError(f"`{where}` must have {len(get_args(kind))} values: {value!r}")
        return tuple(_convert(get_args(kind)[0], item, where) for item in items)
    if origin is types.UnionType:
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
