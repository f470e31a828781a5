"""`cores checkpoint`: inspect a model, convert it between formats, upload it, add a published delta to its base."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cores_cli import console
from cores_cli.interrupts import interrupts
from cores_cli.options import MODEL_HELP, ConversationOption, DataRootOption, DtypeOption, ModelDeviceOption
from cores_core.choices import ReleasedConversation

if TYPE_CHECKING:
    import torch

app = typer.Typer(help="Inspect a model, convert it between formats, upload it.", no_args_is_help=True)

SourceArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; must not exist.")]


FileDtype = Literal["same", "float32", "bfloat16", "float16"]
FileDtypeOption = Annotated[
    FileDtype, typer.Option("--dtype", help="Precision of the written weights; same: unchanged.")
]


@app.command()
def show(model: SourceArgument) -> None:
    """Show a model's parts and their sizes, its tokens and its origin, without loading weights."""
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
    dtype: FileDtypeOption = "same",
    conversation: ConversationOption = None,
) -> None:
    """Write released weights, or any model, as a cores checkpoint, without the state that only resuming needs."""
    _write_merged(model, folder, dtype, conversation)


@app.command()
def merge(model: SourceArgument, folder: FolderArgument, dtype: FileDtypeOption = "same") -> None:
    """Merge the LoRA adapter of a checkpoint into the weights: FOLDER needs no base model.

    transformers loads FOLDER/mllm directly, e.g. with LlavaForConditionalGeneration.from_pretrained.
    """
    from cores_core.errors import CheckpointError
    from cores_core.model.checkpoint import load_model_config

    if not load_model_config(model).lora.rank:
        hint = f"to write it in another precision: cores checkpoint convert {model} {folder}"
        raise CheckpointError(f"no adapter to merge in: {model}", hint=hint)
    _write_merged(model, folder, dtype, None)


@app.command()
def export(model: SourceArgument, folder: FolderArgument, dtype: FileDtypeOption = "same") -> None:
    """Write a model in the format of the released LISA and CoReS weights, for the scripts of those projects."""
    from cores_core.model.checkpoint import LoadOptions, load_checkpoint
    from cores_core.model.weights.export import export_released

    with _writing(folder):
        export_released(load_checkpoint(model, LoadOptions(dtype=None)), folder, _torch_dtype(dtype))
    console.say(f"wrote {folder}")


@app.command("apply-delta")
def apply_delta(
    delta: Annotated[str, typer.Argument(metavar="DELTA", help="Published difference of weights: a folder or hub id.")],
    base: Annotated[str, typer.Argument(metavar="BASE", help="LLaMA that it is added to: a folder or hub id.")],
    folder: FolderArgument,
) -> None:
    """Add the published delta of a first-generation LLaVA to LLaMA, which makes the base model of cores-7b.

    Example: cores checkpoint apply-delta liuhaotian/LLaVA-Lightning-7B-delta-v1-1 huggyllama/llama-7b
    LLaVA-Lightning-7B-v1-1
    """
    from cores_core.model.weights.delta import apply_delta as write_sum

    with _writing(folder):
        write_sum(delta, base, folder)
    console.say(f"wrote {folder}")


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A checkpoint.")],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Its name on the hub.")],
    results: Annotated[
        Path | None, typer.Option("--results", help="Folder of an evaluation, whose scores the card lists.")
    ] = None,
    licence: Annotated[str | None, typer.Option("--license", help="Its licence, such as apache-2.0.")] = None,
    base_model: Annotated[str | None, typer.Option("--base-model", help="Hub id of what it was trained from.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Everyone may read it; default: private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files and model card, upload nothing.")] = False,
) -> None:
    """Upload a checkpoint to the Hugging Face hub, with a model card; without the state that only resuming needs.

    Needs a login: hf auth login. Read it back with --model OWNER/NAME.
    """
    from cores_core.model.card import CardFacts, load_results
    from cores_core.model.push import prepare_upload
    from cores_core.model.push import push as upload_all

    facts = CardFacts(load_results(results) if results is not None else None, licence, base_model)
    upload = prepare_upload(folder, name, facts)
    sizes = upload.sizes
    if dry_run:
        rows = [(path, f"{size:,}") for path, size in sizes.items()]
        console.show_table(f"{name}: {'public' if public else 'private'}", ("file", "bytes"), rows)
        console.out.print(upload.card)
        return
    with interrupts.unwinding():
        address = upload_all(upload, private=not public)
    console.say(f"uploaded {len(sizes)} files, {console.size_text(sum(sizes.values()))}: {address}")
    console.say(f"use it, also elsewhere: cores predict IMAGE QUESTION --model {name}")


@app.command()
def calibrate(
    model: SourceArgument,
    folder: FolderArgument,
    data: Annotated[str, typer.Option("--data", help="Prepared data set, in general one the model was trained on.")],
    split: Annotated[str, typer.Option("--split", help="Its split.")] = "train",
    data_root: DataRootOption = Path("data"),
    images: Annotated[int, typer.Option("--images", min=1, help="Maximum number of images to ask about.")] = 1000,
    no_target: Annotated[
        int, typer.Option("--no-target", min=1, help="Further questions of each image about things not in it.")
    ] = 2,
    keep: Annotated[
        float, typer.Option("--keep", min=0, max=1, help="Share of the other answers' IoU that must remain.")
    ] = 0.99,
    device: ModelDeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Teach a model to predict the IoU of its masks, and to reject questions about what is not in an image.

    Only SAM's small head for the IoU is trained, on answers to questions of a data set: minutes, without gradients of
    the rest. Masks that are not rejected stay as they are. Compare with: cores eval ... --no-target 2
    Training a model further ends its rejections; calibrate it again afterwards.

    Example: cores checkpoint calibrate xinlai/LISA-7B-v1 lisa-rejecting --data refcoco
    """
    from cores_core.data.store import Store
    from cores_core.model.checkpoint import find_checkpoint, load_objective, save_checkpoint
    from cores_core.model.source import ModelSource
    from cores_core.runtime import set_up_cpu
    from cores_core.train.calibrate import CalibrationJob, calibrate_rejection

    job = CalibrationJob(data_root, data, split, images, no_target, keep)
    count = min(images, len(Store(data_root, data, split)))
    set_up_cpu()
    with _writing(folder):
        checkpoint = ModelSource(model, device, dtype).load()
        with console.progress_bar() as progress:
            task = progress.add_task("asking", total=count)
            found = calibrate_rejection(checkpoint, job, lambda done: progress.advance(task, done))
        save_checkpoint(folder, found.checkpoint, None, objective=load_objective(find_checkpoint(model)))
    rows = [
        ("questions about what an image shows", str(found.shown)),
        ("questions about what it does not show", str(found.absent)),
        ("mean error of the predicted IoU", f"{found.error:.3f} (of a constant: {found.error_before:.3f})"),
        ("answers are rejected below an IoU of", f"{found.threshold:.3f}"),
        ("gIoU of what is shown", f"{100 * found.giou:.1f} (without rejections: {100 * found.giou_before:.1f})"),
        ("N-acc: rejected, of what is not shown", f"{found.n_acc:.1%}"),
        ("T-acc: not rejected, of what is shown", f"{found.t_acc:.1%}"),
    ]
    console.show_table(f"{model} on a fifth of the images, not learned from", ("what", "value"), rows)
    console.say(f"wrote {folder}")


def _write_merged(model: str, folder: Path, dtype: FileDtype, conversation: ReleasedConversation | None) -> None:
    from cores_core.model.checkpoint import (
        LoadOptions,
        find_checkpoint,
        load_checkpoint,
        load_objective,
        save_checkpoint,
    )

    with _writing(folder):
        options = LoadOptions(dtype=None, conversation=conversation)
        checkpoint = load_checkpoint(model, options)
        save_checkpoint(folder, checkpoint, _torch_dtype(dtype), objective=load_objective(find_checkpoint(model)))
    console.say(f"wrote {folder}")


def _torch_dtype(dtype: FileDtype) -> "torch.dtype | None":
    import torch

    return None if dtype == "same" else getattr(torch, dtype)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Lock a folder that must not exist yet while it is written; an interrupt leaves none."""
    from cores_core.errors import CheckpointError
    from cores_core.locks import locked

    with interrupts.unwinding(), locked(folder, beside=True):
        if folder.exists():
            raise CheckpointError(f"already exists: {folder}", hint="choose another folder, or remove it first")
        yield
