"""`cores checkpoint`: look into a model, and bring it from one format to another."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cores_cli import console
from cores_cli.interrupts import interrupts
from cores_cli.options import MODEL_HELP, ConversationName, ConversationOption

if TYPE_CHECKING:
    import torch

app = typer.Typer(help="Look into a model, and bring it from one format to another.", no_args_is_help=True)

SourceArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write; must not exist yet.")]


class FileDtypeName(StrEnum):
    """Precision of the weights in the files."""

    same = "same"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


DtypeOption = Annotated[
    FileDtypeName, typer.Option("--dtype", help="Precision of the weights in the files; same: as they are.")
]


@app.command()
def show(model: SourceArgument) -> None:
    """What is in a model: its parts and their sizes, its tokens, where it comes from. Nothing is loaded."""
    from cores_core.model.checkpoint import inspect_checkpoint
    from cores_core.model.plan import count_parameters, describe_checkpoint

    checkpoint = inspect_checkpoint(model)
    sizes = [(name, f"{count:,}") for name, count in count_parameters(checkpoint.model).items()]
    console.show_table(f"{model}: parameters", ("part", "parameters"), sizes)
    console.show_table(f"{model}: facts", ("what", "value"), list(describe_checkpoint(checkpoint).items()))


@app.command()
def convert(
    model: SourceArgument,
    folder: FolderArgument,
    dtype: DtypeOption = FileDtypeName.same,
    conversation: ConversationOption = None,
) -> None:
    """Write released weights, or any model, as a checkpoint of ours, without what only resuming needs."""
    _write_merged(model, folder, dtype, conversation)


@app.command()
def merge(model: SourceArgument, folder: FolderArgument, dtype: DtypeOption = FileDtypeName.same) -> None:
    """Fold the adapter of a LoRA training into the weights, so that the model stands by itself.

    FOLDER/mllm is then a LLaVA that plain transformers loads: LlavaForConditionalGeneration.from_pretrained(...).
    """
    from cores_core.errors import CheckpointError
    from cores_core.model.checkpoint import load_model_config

    if not load_model_config(model).lora.rank:
        hint = f"to write it in another precision: cores checkpoint convert {model} {folder}"
        raise CheckpointError(f"there is no adapter to merge in: {model}", hint=hint)
    _write_merged(model, folder, dtype, None)


@app.command()
def export(model: SourceArgument, folder: FolderArgument, dtype: DtypeOption = FileDtypeName.same) -> None:
    """Write a model in the format of the released LISA and CoReS weights, for other people's scripts."""
    from cores_core.model.checkpoint import LoadOptions, load_checkpoint
    from cores_core.model.weights.export import export_released

    with _writing(folder):
        export_released(load_checkpoint(model, LoadOptions(dtype=None)), folder, _torch_dtype(dtype))
    console.say(f"wrote {folder}")


def _write_merged(model: str, folder: Path, dtype: FileDtypeName, conversation: ConversationName | None) -> None:
    from cores_core.model.checkpoint import (
        LoadOptions,
        find_checkpoint,
        load_checkpoint,
        load_concepts,
        save_checkpoint,
    )

    with _writing(folder):
        options = LoadOptions(dtype=None, conversation=conversation.value if conversation else None)
        checkpoint = load_checkpoint(model, options)
        concepts = load_concepts(find_checkpoint(model)) if "categories" in checkpoint.about else None
        save_checkpoint(folder, checkpoint, _torch_dtype(dtype), concepts=concepts)
    console.say(f"wrote {folder}")


def _torch_dtype(dtype: FileDtypeName) -> "torch.dtype | None":
    import torch

    return None if dtype is FileDtypeName.same else getattr(torch, dtype.value)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Write a folder that must not exist yet; no other process does meanwhile, and an interrupt leaves none."""
    from cores_core.errors import CheckpointError
    from cores_core.locks import locked

    with interrupts.unwinding(), locked(folder, beside=True):
        if folder.exists():
            raise CheckpointError(f"already exists: {folder}", hint="choose another folder, or remove it first")
        yield
