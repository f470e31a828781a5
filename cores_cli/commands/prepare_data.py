"""`cores prepare-data`: bring a data set into the form that training and evaluation read."""

from pathlib import Path
from typing import Annotated

import typer

from cores_cli import console
from cores_cli.options import DataRootOption


def prepare_data(
    name: Annotated[str, typer.Argument(help="The data set: partworld.")],
    data_root: DataRootOption = Path("data"),
    images: Annotated[int, typer.Option("--images", min=0, help="Training images to render.")] = 14000,
    val_images: Annotated[int, typer.Option("--val-images", min=0, help="Validation images to render.")] = 300,
    test_images: Annotated[int, typer.Option("--test-images", min=0, help="Test images to render.")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Splits of one seed never share a scene.")] = 0,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; the result is the same.")] = 2,
) -> None:
    """Prepare a data set.

    `partworld` is rendered, not downloaded: scenes of articulated objects with exact part masks, in PartImageNet's
    layout. It resumes where it was interrupted, and gives the same bytes for the same seed.
    """
    from cores_core.data.prepare import prepare_partworld
    from cores_core.errors import DataError

    if name != "partworld":
        raise DataError(f"unknown data set: {name}", hint="known: partworld")
    counts = {"train": images, "val": val_images, "test": test_images}
    wanted = {split: count for split, count in counts.items() if count}
    with console.progress_bar() as progress:
        tasks = {what: progress.add_task(what, total=sum(wanted.values())) for what in ("rendering", "preparing")}
        reports = prepare_partworld(
            data_root, wanted, seed, workers, lambda what, done: progress.advance(tasks[what], done)
        )
    rows = [
        (split, str(report.images), str(report.regions), str(sum(report.rejected.values())))
        for split, report in reports.items()
    ]
    console.show_table(f"partworld in {data_root}", ("split", "images", "regions", "left out"), rows)
