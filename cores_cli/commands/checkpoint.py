"""`cores checkpoint`: look into a model, and bring it from one format to another."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cores_cli import console
from cores_cli.options import MODEL_HELP

app = typer.Typer(help="Look into a model, and bring it from one format to another.", no_args_is_help=True)

SourceArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write; must not exist yet.")]


class DtypeName(StrEnum):
    """Precision of the weights in the files."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


DtypeOption = Annotated[DtypeName, typer.Option("--dtype", help="Precision of the weights in the files.")]


@app.command()
def show(model: SourceArgument) -> None:
    """What is in a model: its parts and their sizes, its tokens, where it comes from."""
    from cores_core.model.checkpoint import describe_checkpoint, load_checkpoint

    checkpoint = load_checkpoint(model)
    parts, facts = describe_checkpoint(checkpoint)
    console.show_table(f"{model}: parameters", ("part", "parameters"), [(k, f"{v:,}") for k, v in parts.items()])
    console.show_table(f"{model}: facts", ("what", "value"), list(facts.items()))


@app.command()
def convert(model: SourceArgument, folder: FolderArgument, dtype: DtypeOption = DtypeName.float32) -> None:
    """Write released weights, or any model, as a checkpoint of ours, without what only resuming needs."""
    from cores_core.model.checkpoint import find_checkpoint, load_checkpoint, load_concepts, save_checkpoint
    from cores_core.runtime import resolve_dtype

    _check_free(folder)
    checkpoint = load_checkpoint(model)
    concepts = load_concepts(find_checkpoint(model)) if "categories" in checkpoint.about else None
    save_checkpoint(folder, checkpoint, resolve_dtype(dtype.value), concepts=concepts)
    console.say(f"wrote {folder}")


@app.command()
def export(model: SourceArgument, folder: FolderArgument, dtype: DtypeOption = DtypeName.float32) -> None:
    """Write a model in the format of the released LISA and CoReS weights, for other people's scripts."""
    from cores_core.model.checkpoint import load_checkpoint
    from cores_core.model.export import export_released
    from cores_core.runtime import resolve_dtype

    _check_free(folder)
    export_released(load_checkpoint(model), folder, resolve_dtype(dtype.value))
    console.say(f"wrote {folder}")


def _check_free(folder: Path) -> None:
    from cores_core.errors import CheckpointError

    if folder.exists():
        raise CheckpointError(f"already exists: {folder}", hint="choose another folder, or remove it first")
