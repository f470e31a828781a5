"""`cores models`: list the models that are known by name, download and remove their weights."""

import sys
from typing import Annotated

import typer

from cores_cli import console
from cores_cli.interrupts import interrupts

app = typer.Typer(help="List models by name, download and remove their weights.", no_args_is_help=False)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A name from the list, or a hub id.")]


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print a JSON object a model.")] = False
) -> None:
    """List the embedded model, released weights and presets, and what of them is on this machine. Uses no network."""
    if context.invoked_subcommand is not None:
        return
    from cores_core.model.catalog import find_local, known_models
    from cores_core.model.weights.hub import cached_models

    cached, rows = cached_models(), []
    for model in known_models().values():
        local = find_local(model, cached)
        if json:
            console.show_json({**vars(model), "local": local})
        size, memory = (
            console.size_text(value) if value else "-" for value in (2 * (model.parameters or 0), model.memory)
        )
        rows.append((model.name, model.kind, model.hub_id or "-", size, memory, local or "no"))
    if json:
        return
    columns = ("name", "kind", "hub id", "size", "memory", "here")
    console.show_text_table("models", columns, rows)
    console.say(
        "size: weights in bfloat16; memory: to predict; a preset's hub id is its base before training. "
        "More: cores models show NAME; download: cores models download NAME"
    )


@app.command()
def show(name: NameArgument) -> None:
    """Show what is known about a model: licence, prompts, published scores, training on ReasonSeg val, the cache."""
    from cores_core.model.catalog import describe_known, find_known

    model = find_known(name)
    console.show_text_table(model.name, ("what", "value"), list(describe_known(model).items()))


@app.command()
def download(name: NameArgument) -> None:
    """Download weights, and the models that they need, to the Hugging Face cache; resumes interrupted downloads."""
    from cores_core.errors import CheckpointError
    from cores_core.model.catalog import find_known
    from cores_core.model.weights.hub import fetch_model, is_hub_id

    needs: tuple[str, ...] = ()
    if is_hub_id(name):
        hub_id: str | None = name
    else:
        model = find_known(name)
        hub_id, needs = model.hub_id, model.needs
        if hub_id is None:
            hint = "it ships with cores" if model.kind == "embedded" else model.note
            raise CheckpointError(f"nothing to download: {name}", hint=hint)
    for part in (hub_id, *needs):
        with interrupts.unwinding():
            folder = fetch_model(str(part))
        console.say(f"{part}: {folder}")


@app.command()
def remove(name: NameArgument, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Delete a model's weights from the Hugging Face cache. On a terminal it asks first."""
    from cores_core.errors import CheckpointError
    from cores_core.model.catalog import find_known
    from cores_core.model.weights.hub import cached_models, is_hub_id, remove_model

    hub_id = name if is_hub_id(name) else find_known(name).hub_id
    found = cached_models().get(hub_id or "")
    if hub_id is None or found is None:
        raise CheckpointError(f"not in the cache: {name}", hint="`cores models` shows what is")
    if not yes and sys.stdin.isatty():
        typer.confirm(f"delete {hub_id} ({console.size_text(found.size)}) from the cache?", abort=True)
    freed = remove_model(hub_id)
    console.say(f"removed {hub_id}: {freed:,} bytes freed")
