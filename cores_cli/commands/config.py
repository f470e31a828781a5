"""`cores config`: show the settings of a preset or a file, and describe all there are."""

import json
from typing import Annotated

import typer

from cores_cli import console

app = typer.Typer(help="Show the settings of a preset or a file, and describe all there are.", no_args_is_help=True)


@app.command()
def show(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[PRESET|FILE]", help="Name of a preset, or a YAML file. Default: the built-in defaults."
        ),
    ] = None,
    variants: Annotated[
        list[str] | None, typer.Option("--variant", metavar="NAME", help="As for `cores train`: lisa, c1-gt, ...")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a setting, such as train.steps=2000; may be repeated."
        ),
    ] = None,
    docs: Annotated[bool, typer.Option("--docs", help="Add the description of each setting as a comment.")] = False,
) -> None:
    """Print all settings as YAML, defaults included; `cores train --preset FILE` reads it.

    `cores config show runs/tiny/config.yaml` shows those of a run, also of one by an older version.
    """
    from cores_core.settings import document_config, load_config, render_config

    config = load_config(source, tuple(settings or ()), tuple(variants or ()))
    console.out.print(document_config(config) if docs else render_config(config), end="")


@app.command()
def schema() -> None:
    """Print the JSON schema of a config file: type, limits, default and description of each setting.

    Editors use it for completion and checks: `cores config schema > cores.json`, and as the first line of a YAML file
    `# yaml-language-server: $schema=cores.json`.
    """
    from cores_core.settings import config_schema

    console.out.print(json.dumps(config_schema(), indent=2))
