"""`cores eval`: score a checkpoint on a benchmark."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cores_cli import console
from cores_cli.options import (
    ConversationOption,
    DataRootOption,
    DtypeName,
    DtypeOption,
    LoadInOption,
    ModelOption,
    PlaceName,
    PlaceOption,
    ProtocolName,
    ProtocolOption,
    load_predictor,
)

app = typer.Typer(help="Score a model. Every score names its protocol and its number of queries.", no_args_is_help=True)


class SplitName(StrEnum):
    """Which split of a data set."""

    val = "val"
    test = "test"


@app.callback()
def root() -> None:
    """Score a model. Every score names its protocol and its number of queries."""


@app.command()
def reasonpart(
    model: ModelOption = "tiny",
    data: Annotated[str, typer.Option("--data", help="The part data set: partworld.")] = "partworld",
    split: Annotated[SplitName, typer.Option("--split", help="val or test.")] = SplitName.test,
    protocol: ProtocolOption = ProtocolName.generated,
    data_root: DataRootOption = Path("data"),
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for results.json, items.jsonl.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many images.")] = None,
    device: PlaceOption = PlaceName.auto,
    dtype: DtypeOption = DtypeName.auto,
    load_in: LoadInOption = None,
    conversation: ConversationOption = None,
) -> None:
    """Reasoning questions about parts of objects: gIoU, cIoU by target size, mIoU over parts."""
    from cores_core.data.store import Store
    from cores_core.evaluate import evaluate_store, save_evaluation

    store = Store(data_root, data, split)
    checkpoint = load_predictor(model, device, dtype, load_in, conversation).checkpoint
    images = min(len(store), limit if limit is not None else len(store))
    with console.progress_bar() as progress:
        task = progress.add_task(f"evaluating ({protocol.value})", total=images)
        result = evaluate_store(
            checkpoint, store, protocol.value, limit=limit, progress=lambda done: progress.advance(task, done)
        )
    about = {
        "benchmark": "reasonpart",
        "data": data,
        "split": split.value,
        "images": images,
        "protocol": protocol.value,
        "model": model,
        "seed": store.seed,
    }
    show_scores(f"ReasonPart on {data} {split.value}", about, result.summary())
    if output is not None:
        save_evaluation(result, output, about)
        console.say(f"wrote {output / 'results.json'} and {output / 'items.jsonl'}")


def show_scores(title: str, about: dict[str, Any], scores: dict[str, Any]) -> None:
    """Print the sums and the table of categories."""
    names = {
        "giou": "gIoU",
        "ciou": "cIoU",
        "ciou_small": "cIoU small",
        "ciou_medium": "cIoU medium",
        "ciou_large": "cIoU large",
        "miou": "mIoU over parts",
        "coarse_giou": "C1 gIoU",
        "coarse_ciou": "C1 cIoU",
        "well_formed": "well-formed answers",
    }
    console.show_table(title, ("category", "IoU %"), [(k, console.percent(v)) for k, v in scores["categories"].items()])
    caption = f"{title}: {scores['count']} queries, protocol {about['protocol']}, model {about['model']}"
    console.show_table(caption, ("score", "%"), [(names[key], console.percent(scores[key])) for key in names])
