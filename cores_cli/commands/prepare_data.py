"""`cores prepare-data`: convert data sets to the form that training and evaluation read."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cores_cli import console
from cores_cli.commands.prepare_hub import HubChoice, check_hub_set, import_hub_set
from cores_cli.commands.prepare_steps import WriterChoice, fetch_all, generate_questions
from cores_cli.interrupts import interrupts
from cores_cli.options import DataRootOption
from cores_core.data.parquet.known import HUB
from cores_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cores_core.data.prepare import SplitReport
    from cores_core.data.survey import DatasetState

    Outcomes = Mapping[str, SplitReport | DataError]

ALL, RENDERED, CUSTOM = "all", "partworld", "custom/"
EXAMPLES_PER_REASON = 3
"""Number of items printed for each reason; `report.json` lists all."""


NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME...",
        help="Data sets, or all that are published. Default: those found under --data-root, else partworld.",
    ),
]
ListOption = Annotated[bool, typer.Option("--list", help="List the data sets found, and how to get the others.")]
CheckOption = Annotated[bool, typer.Option("--check", help="Only read and report; writes nothing.")]
PreviewOption = Annotated[
    int | None, typer.Option("--preview", min=1, help="For each split, write a PNG of this many random samples.")
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="Download data sets that need no login; show how to get the others.")
]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=1, help="Number of processes; the result does not depend on it.")
]
ImagesOption = Annotated[int, typer.Option("--images", min=0, help="partworld: number of training images.")]
ValImagesOption = Annotated[int, typer.Option("--val-images", min=0, help="partworld: number of validation images.")]
TestImagesOption = Annotated[int, typer.Option("--test-images", min=0, help="partworld: number of test images.")]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Random seed of partworld, of previews and of generated questions.")
]
QuestionsOption = Annotated[
    Literal["generate"] | None,
    typer.Option("--questions", help="generate: a language model writes questions for part data sets."),
]
EndpointOption = Annotated[
    str | None, typer.Option("--endpoint", metavar="URL", help="With --questions: URL of an OpenAI-compatible server.")
]
LlmOption = Annotated[
    str | None,
    typer.Option(
        "--llm", metavar="NAME", help="With --questions: name of the model; without --endpoint, of a local one."
    ),
]
SplitOption = Annotated[
    str | None, typer.Option("--split", help="For hub/OWNER/NAME: the split. Default: its only one.")
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="ROLE=COLUMN,...",
        help="For hub/OWNER/NAME: columns by role (image, question, phrase, text, mask). Default: guessed.",
    ),
]
FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="FOLDER", help="For hub/OWNER/NAME: read the parquet files in this folder, without the hub."
    ),
]
PerPartOption = Annotated[int, typer.Option("--per-part", min=1, help="With --questions: number for each part.")]


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
    split: SplitOption = None,
    columns: ColumnsOption = None,
    source: FromOption = None,
) -> None:
    """Prepare data sets.

    Without NAME: list the data sets under DATA_ROOT, prepare those that are not prepared yet, and show how to get the
    others; if there are none, render PartWorld. Each raw data set is read once and checked; damaged items are
    left out and listed. Your own data goes to DATA_ROOT/custom/<name>/<split>.jsonl and is called custom/<name>; it may
    also be COCO JSON, a Label Studio export (.json) or a folder of LabelMe files. hub/OWNER/NAME is a data set of the
    hub in parquet, whose columns are guessed and shown. An interrupted call resumes when it is repeated.
    The API key of --endpoint is read from OPENAI_API_KEY.
    """
    from cores_core.data.survey import survey

    states = survey(data_root)
    if show_list:
        return _show_list(states, data_root)
    _check_options(names, check, fetches=download or questions is not None, draws=preview is not None)
    if not names:
        _show_states(states, data_root)
    wanted = _choose_names(names or [], states, check)
    if questions is not None:
        return generate_questions(wanted, data_root, WriterChoice(endpoint, llm, per_part, seed))
    if download:
        fetch_all(wanted, data_root)
    counts = _count_images(wanted, {"train": images, "val": val_images, "test": test_images})
    left_out, has_usable, choice = 0, False, _choose_import(wanted, HubChoice(split, columns, source))
    for name in wanted:
        if check:
            outcomes = _check(name, data_root, choice)
        elif name == RENDERED:
            outcomes = (_prepare_partworld if names else _complete_partworld)(data_root, counts, seed, workers)
        else:
            outcomes = _prepare(name, data_root, workers, choice)
        has_usable |= _show_outcomes(name, data_root, outcomes, is_optional=not names or names == [ALL])
        left_out += sum(len(outcome.left_out) for outcome in outcomes.values() if not isinstance(outcome, DataError))
        if preview is not None:
            _preview(name, data_root, preview, seed)
    if not has_usable:
        _show_list(survey(data_root), data_root)
        raise DataError(f"no data set under {data_root} could be used", hint="put one where the list above says")
    _show_end(data_root, left_out, check, is_for_all=not names)


def _check_options(names: list[str] | None, check: bool, fetches: bool, draws: bool) -> None:
    """Refuse options that do not go together: a check writes nothing, and only named data sets are fetched."""
    if check and (fetches or draws):
        hint = "writes nothing, so not with --download, --questions or --preview"
        raise typer.BadParameter(hint, param_hint="--check")
    if not names and fetches:
        raise typer.BadParameter("name the data sets", param_hint="NAME")


def _count_images(wanted: list[str], counts: dict[str, int]) -> dict[str, int]:
    """PartWorld's splits that have images, with their number; an error if it is wanted and has none."""
    if RENDERED in wanted and not any(counts.values()):
        raise typer.BadParameter("all are 0: nothing to render", param_hint="--images, --val-images, --test-images")
    return {split: count for split, count in counts.items() if count}


def _show_end(data_root: Path, left_out: int, check: bool, is_for_all: bool) -> None:
    from cores_core.data.survey import survey

    if is_for_all and not check:
        _show_next(survey(data_root), data_root)
    if left_out:
        where = "" if check else f", all items in {data_root}/prepared/NAME/report.json"
        console.say(f"left out {left_out} in all; the reasons are above{where}", style="yellow")


def _choose_names(names: "Sequence[str]", states: "Sequence[DatasetState]", check: bool) -> list[str]:
    """The data sets of a call: those named, all that are downloaded, or without names all that are here."""
    if names == [ALL]:
        return [state.name for state in states if state.name != RENDERED and not state.name.startswith((CUSTOM, HUB))]
    if names:
        return list(names)
    found = [state.name for state in states if state.found]
    if not found and not check:
        console.say(f"no data set is here: rendering {RENDERED}, a few minutes for the default number of images")
        return [RENDERED]
    return found


def _choose_import(wanted: "Sequence[str]", choice: HubChoice) -> HubChoice:
    if choice != HubChoice(None, None, None) and not (wanted and all(name.startswith(HUB) for name in wanted)):
        raise typer.BadParameter("only for hub/OWNER/NAME", param_hint="--split, --columns, --from")
    return choice


def _prepare_partworld(data_root: Path, counts: Mapping[str, int], seed: int, workers: int) -> "Outcomes":
    from cores_core.data.prepare import prepare_partworld

    with console.progress_bar() as progress:
        tasks = {what: progress.add_task(what, total=sum(counts.values())) for what in ("rendering", "preparing")}
        return prepare_partworld(
            data_root, counts, seed, workers, lambda what, done: progress.advance(tasks[what], done)
        )


def _complete_partworld(data_root: Path, counts: Mapping[str, int], seed: int, workers: int) -> "Outcomes":
    """Prepare the splits of PartWorld that are there, as they are, and render the others."""
    from cores_core.data.survey import find_state

    found = find_state(RENDERED, data_root).found
    outcomes = _prepare(RENDERED, data_root, workers) if found else {}
    missing = {split: count for split, count in counts.items() if split not in found}
    try:
        return {**outcomes, **_prepare_partworld(data_root, missing, seed, workers)}
    except DataError as error:  # what is there is of another seed
        return {**outcomes, **dict.fromkeys(missing, error)}


def _prepare(name: str, data_root: Path, workers: int, choice: HubChoice | None = None) -> "Outcomes":
    from cores_core.data.prepare import prepare_dataset
    from cores_core.data.registry import find_dataset

    if name.startswith(HUB) and choice is not None:
        import_hub_set(name, data_root, choice)
    with console.progress_bar() as progress:
        splits = find_dataset(name, data_root).splits
        tasks = {split: progress.add_task(f"{name} {split}", total=count) for split, count in splits.items()}
        return prepare_dataset(name, data_root, workers, lambda split, done: progress.advance(tasks[split], done))


def _show_outcomes(name: str, data_root: Path, outcomes: "Outcomes", is_optional: bool) -> bool:
    """Show the result of a data set. Returns whether it has usable images.

    Raises:
        DataError: it has none, and is not optional.
    """
    from cores_core.errors import MissingDataError

    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, DataError)]
    if len(failures) == len(outcomes):
        if is_optional:
            for failure in (f for f in failures if not isinstance(f, MissingDataError)):
                console.say(f"{name}: {failure.message}", style="yellow")
            return False
        raise min(
            failures, key=lambda error: isinstance(error, MissingDataError)
        )  # a damaged split before a missing one
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
    """A line for each text: its number of items, and the first of them."""
    from cores_core.data.sources.reading import group_items

    for text, items in sorted(group_items(pairs).items(), key=lambda group: -len(group[1])):
        first = ", ".join(items[:EXAMPLES_PER_REASON]) + (", ..." if len(items) > EXAMPLES_PER_REASON else "")
        console.say(f"{start} {len(items)}: {text} ({first})")


def _check(name: str, data_root: Path, choice: HubChoice) -> "Outcomes":
    from cores_core.data.prepare import SplitReport, check_split
    from cores_core.data.registry import find_dataset

    outcomes: dict[str, SplitReport | DataError] = {}
    if name.startswith(HUB):
        for split, found in check_hub_set(name, choice).items():
            outcomes[split] = SplitReport(found.rows, found.targets, None, found.left_out, found.notes, "")
        return outcomes
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


def _show_states(states: "Sequence[DatasetState]", data_root: Path) -> None:
    rows = [
        (s.name, s.spec.group, *(" ".join(splits) or "-" for splits in (s.spec.splits, s.found, s.prepared)))
        for s in states
    ]
    console.show_text_table(f"data sets under {data_root}", ("name", "group", "splits", "found", "prepared"), rows)


def _show_list(states: "Sequence[DatasetState]", data_root: Path) -> None:
    _show_states(states, data_root)
    _show_absent(states, data_root)
    _show_hub_sets()
    console.say(f"To prepare what is under {data_root}, or to render {RENDERED} if there is nothing:")
    console.say(f"    cores prepare-data --data-root {data_root}")


def _show_absent(states: "Sequence[DatasetState]", data_root: Path) -> None:
    """For each data set of which splits are not there: its origin, its paths, and the command that prepares it."""
    from cores_core.data.survey import how_to_get

    for state in states:
        if not state.is_whole and state.name != RENDERED:
            origin = f"{state.name}: {state.spec.homepage} ({state.spec.licence})"
            lines = (origin, " ".join(state.layout(data_root)), how_to_get(state, data_root)[-1])
            console.out.print("\n    ".join(lines))


def _show_hub_sets() -> None:
    from cores_core.data.parquet.known import HUB_SETS

    console.out.print("of the hub, in parquet: cores prepare-data hub/OWNER/NAME; columns are known for")
    for name, known in HUB_SETS.items():
        console.out.print(f"    {HUB}{name}: {known.title} ({known.licence})")


def _show_next(states: "Sequence[DatasetState]", data_root: Path) -> None:
    """How to get what is not here, and the commands that use what is prepared."""
    from cores_core.evaluate.benchmarks import BENCHMARKS

    _show_absent(states, data_root)
    prepared = {state.name: state.prepared for state in states if state.prepared}
    own = [name for name in prepared if name.startswith((CUSTOM, HUB))]
    commands = ["cores train"] if RENDERED in prepared else []
    commands += [f'cores train --preset finetune --set "data=[{name}]"' for name in own]
    if set(prepared) - {RENDERED, *own}:
        commands.append("cores train --gpus 8")
    for benchmark, spec in BENCHMARKS.items():
        known = [name for name, splits in spec.data.items() if set(splits) & set(prepared.get(name, ()))]
        commands += [f"cores eval {benchmark} --data {name}" for name in known[:1]]
    asked = {name: next((split for split in prepared[name] if split != "train"), None) for name in own}
    commands += [
        f"cores eval custom --data {name} --split {split}" for name, split in asked.items() if split is not None
    ]
    console.say(f"prepared under {data_root}: {', '.join(prepared)}. Next, for example:")
    for command in commands:
        console.say(f"    {command} --data-root {data_root}")
