"""`cores prepare-data`: bring data sets into the form that training and evaluation read."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cores_cli import console
from cores_cli.commands.prepare_steps import QuestionsName, WriterChoice, fetch_all, generate_questions
from cores_cli.interrupts import interrupts
from cores_cli.options import DataRootOption
from cores_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cores_core.data.prepare import SplitReport

    Outcomes = Mapping[str, SplitReport | DataError]

ALL, RENDERED = "all", "partworld"
NAMED = 3
"""How many items are named for each reason; `report.json` has all."""


NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME...", help="Required, but for --list: data sets, or all.", show_default=False),
]
ListOption = Annotated[bool, typer.Option("--list", help="Show all data sets: what is here, and where to get it.")]
CheckOption = Annotated[bool, typer.Option("--check", help="Only read and report; write nothing.")]
PreviewOption = Annotated[
    int | None, typer.Option("--preview", min=1, help="Write a picture of so many random samples to look at.")
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="Fetch what can be fetched without a login; say where the rest is.")
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Processes; the result is the same.")]
ImagesOption = Annotated[int, typer.Option("--images", min=0, help="partworld: training images to render.")]
ValImagesOption = Annotated[int, typer.Option("--val-images", min=0, help="partworld: validation images.")]
TestImagesOption = Annotated[int, typer.Option("--test-images", min=0, help="partworld: test images.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="partworld: splits of one seed never share a scene.")]
QuestionsOption = Annotated[
    QuestionsName | None, typer.Option("--questions", help="generate: have a language model write more.")
]
EndpointOption = Annotated[
    str | None, typer.Option("--endpoint", metavar="URL", help="questions: an OpenAI-compatible server.")
]
LlmOption = Annotated[
    str | None, typer.Option("--llm", metavar="NAME", help="questions: its model; without --endpoint, a local one.")
]
PerPartOption = Annotated[int, typer.Option("--per-part", min=1, help="questions: how many for each part.")]


def prepare_data(
    names: NamesArgument = None,
    data_root: DataRootOption = Path("data"),
    show_list: ListOption = False,
    check: CheckOption = False,
    preview: PreviewOption = None,
    download: DownloadOption = False,
    workers: WorkersOption = 2,
    images: ImagesOption = 14000,
    val_images: ValImagesOption = 300,
    test_images: TestImagesOption = 500,
    seed: SeedOption = 0,
    questions: QuestionsOption = None,
    endpoint: EndpointOption = None,
    llm: LlmOption = None,
    per_part: PerPartOption = 10,
) -> None:
    """Prepare data sets.

    Each raw data set is read once and checked; what is damaged is named and left out. `partworld` is rendered, not
    downloaded. Your own data goes to DATA_ROOT/custom/<name>/<split>.jsonl and is called custom/<name>; it may be COCO
    JSON, a Label Studio export (.json) or a folder of LabelMe files instead. A call that was interrupted goes on where
    it was. The key of a server of --endpoint is read from OPENAI_API_KEY.
    """
    from cores_core.data.registry import DATASETS

    if show_list:
        return _show_list(data_root)
    if not names:
        raise typer.BadParameter("name a data set, or all; --list shows them", param_hint="NAME")
    wanted = [name for name in DATASETS if name != RENDERED] if names == [ALL] else names
    if questions is not None:
        return generate_questions(wanted, data_root, WriterChoice(endpoint, llm, per_part, seed))
    if download:
        fetch_all(wanted, data_root)
    counts = {split: count for split, count in (("train", images), ("val", val_images), ("test", test_images)) if count}
    left_out = 0
    some = False
    for name in wanted:
        if check:
            outcomes = _check(name, data_root)
        elif name == RENDERED:
            outcomes = _prepare_partworld(data_root, counts, seed, workers)
        else:
            outcomes = _prepare(name, data_root, workers)
        some |= _show_outcomes(name, data_root, outcomes, is_optional=names == [ALL])
        left_out += sum(len(outcome.left_out) for outcome in outcomes.values() if not isinstance(outcome, DataError))
        if preview is not None:
            _preview(name, data_root, preview, seed)
    if not some:
        _show_list(data_root)
        raise DataError(f"no data set under {data_root} could be used", hint="put one where the list above says")
    if left_out:
        where = "" if check else f", every item in {data_root}/prepared/NAME/report.json"
        console.say(f"left out {left_out} in all; the reasons are above{where}", style="yellow")


def _prepare_partworld(data_root: Path, counts: Mapping[str, int], seed: int, workers: int) -> "Outcomes":
    from cores_core.data.prepare import prepare_partworld

    with console.progress_bar() as progress:
        tasks = {what: progress.add_task(what, total=sum(counts.values())) for what in ("rendering", "preparing")}
        return prepare_partworld(
            data_root, counts, seed, workers, lambda what, done: progress.advance(tasks[what], done)
        )


def _prepare(name: str, data_root: Path, workers: int) -> "Outcomes":
    from cores_core.data.prepare import prepare_dataset
    from cores_core.data.registry import find_dataset

    with console.progress_bar() as progress:
        splits = find_dataset(name, data_root).splits
        tasks = {split: progress.add_task(f"{name} {split}", total=count) for split, count in splits.items()}
        return prepare_dataset(name, data_root, workers, lambda split, done: progress.advance(tasks[split], done))


def _show_outcomes(name: str, data_root: Path, outcomes: "Outcomes", is_optional: bool) -> bool:
    """Show what became of a data set; returns whether anything of it can be used, which one of `all` need not be."""
    from cores_core.errors import MissingDataError

    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, DataError)]
    if len(failures) == len(outcomes):
        if is_optional:
            return False
        raise min(failures, key=lambda error: isinstance(error, MissingDataError))  # what is there, but wrong, first
    _show_reports(name, data_root, outcomes)
    if any(outcome.images for outcome in outcomes.values() if not isinstance(outcome, DataError)):
        return True
    if is_optional:
        return False
    raise DataError(f"nothing in {name} under {data_root} could be used", hint="the reasons are above")


def _show_reports(name: str, data_root: Path, outcomes: "Outcomes") -> None:
    rows = []
    for split, outcome in outcomes.items():
        if isinstance(outcome, DataError):
            rows.append((split, "-", "-", "-", "-"))
            console.say(f"{name} {split}: {outcome.message}", style="yellow")
            continue
        official = "-" if outcome.expected is None else str(outcome.expected)
        rows.append((split, str(outcome.images), official, str(outcome.regions), str(len(outcome.left_out))))
        _say_groups(f"{name} {split}: left out", outcome.left_out)
        _say_groups(f"{name} {split}: note on", outcome.notes)
    console.show_table(f"{name} in {data_root}", ("split", "images", "official", "regions", "left out"), rows)


def _say_groups(start: str, pairs: "Sequence[tuple[str, str]]") -> None:
    """A line for each text: how many items it is said of, and the first ones."""
    from cores_core.data.sources.reading import group_items

    for text, items in sorted(group_items(pairs).items(), key=lambda group: -len(group[1])):
        first = ", ".join(items[:NAMED]) + (", ..." if len(items) > NAMED else "")
        console.say(f"{start} {len(items)}: {text} ({first})")


def _check(name: str, data_root: Path) -> "Outcomes":
    from cores_core.data.prepare import check_split
    from cores_core.data.registry import find_dataset

    outcomes: dict[str, SplitReport | DataError] = {}
    with console.progress_bar() as progress:
        for split, count in find_dataset(name, data_root).splits.items():
            task = progress.add_task(f"{name} {split}", total=count)
            outcomes[split] = check_split(name, split, data_root, partial(progress.advance, task))
    return outcomes


def _preview(name: str, data_root: Path, count: int, seed: int) -> None:
    from PIL import Image

    from cores_core.data.preview import render_preview
    from cores_core.data.registry import find_dataset
    from cores_core.data.store import Store, store_path
    from cores_core.files import replacing

    for split in find_dataset(name, data_root).splits:
        path = store_path(data_root, name, split)
        if not path.is_file():
            continue
        picture = path.with_suffix(".preview.png")
        with interrupts.unwinding(), replacing(picture) as temporary:
            Image.fromarray(render_preview(Store(data_root, name, split), count, seed)).save(temporary, format="PNG")
        console.out.print(f"preview  {picture}")


def _show_list(data_root: Path) -> None:
    from cores_core.data.registry import DATASETS
    from cores_core.data.store import store_path

    rows, absent = [], []
    for name, spec in DATASETS.items():
        here = [split for split in spec.splits if not spec.missing(data_root, split)]
        prepared = [split for split in spec.splits if store_path(data_root, name, split).is_file()]
        rows.append((name, spec.group, *(" ".join(splits) or "-" for splits in (spec.splits, here, prepared))))
        if len(here) < len(spec.splits) and name != RENDERED:
            absent.append((name, " ".join(spec.layout), f"{spec.homepage} ({spec.licence})"))
    console.show_text_table(f"data sets under {data_root}", ("name", "group", "splits", "found", "prepared"), rows)
    for name, places, homepage in absent:
        console.out.print(f"{name}: {homepage}\n    {places}")
    console.say(f"Get what you want to train on, put it where it belongs under {data_root}, then:")
    console.say(f"    cores prepare-data NAME --data-root {data_root}")
    console.say(f"Or begin with rendered scenes: cores prepare-data {RENDERED} --data-root {data_root}")
