"""`cores eval`: score a model on a benchmark, score external predictions, compare evaluations."""

import json
import shlex
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cores_cli import console
from cores_cli.commands.eval_contexts import ContextChoice, ContextOption, EndpointOption, LlmOption
from cores_cli.commands.eval_tables import show_comparison, show_evaluation
from cores_cli.interrupts import interrupts
from cores_cli.options import (
    EMBEDDED_MODEL,
    ConversationOption,
    DataRootOption,
    DtypeOption,
    LoadInOption,
    ModelDeviceOption,
    ModelOption,
    ProtocolOption,
)
from cores_core.data.parquet.known import HUB
from cores_core.errors import DataError
from cores_core.evaluate.benchmarks import BENCHMARKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cores_core.evaluate.results import Evaluation
    from cores_core.evaluate.run import EvalJob
    from cores_core.evaluate.targets import Target
    from cores_core.model.source import ModelSource

app = typer.Typer(no_args_is_help=True)

DataOption = Annotated[str | None, typer.Option("--data", help="Data set. Default: the benchmark's first.")]
SplitOption = Annotated[
    str | None, typer.Option("--split", help="Split. Default: the data set's first; of ReasonPart both halves.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Maximum number of images.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for results.json, items.jsonl and report.html.")
]


@app.callback()
def root() -> None:
    """Score a model. Every score names its protocol, its number of queries and its 95 % interval."""


def _add_benchmark(name: str) -> None:
    def command(
        model: ModelOption = EMBEDDED_MODEL,
        data: DataOption = None,
        split: SplitOption = None,
        protocol: ProtocolOption = "generate",
        context: ContextOption = None,
        endpoint: EndpointOption = None,
        llm: LlmOption = None,
        data_root: DataRootOption = Path("data"),
        output: OutputOption = None,
        limit: LimitOption = None,
        no_target: Annotated[
            int, typer.Option("--no-target", min=0, help="Further questions of each image about things not in it.")
        ] = 0,
        gpus: Annotated[int, typer.Option("--gpus", min=0, help="Number of GPUs that share the work.")] = 0,
        processes: Annotated[int, typer.Option("--processes", min=1, help="Number of CPU processes.")] = 1,
        batch_size: Annotated[
            int, typer.Option("--batch-size", min=1, help="Images read ahead; does not change scores.")
        ] = 4,
        device: ModelDeviceOption = "auto",
        dtype: DtypeOption = "auto",
        load_in: LoadInOption = None,
        conversation: ConversationOption = None,
        compiled: Annotated[
            bool, typer.Option("--compile", help="Compile SAM's encoder: a minute at the start, then faster.")
        ] = False,
        instances: Annotated[
            bool, typer.Option("--instances", help="Also score the connected regions of masks as objects: AP.")
        ] = False,
    ) -> None:
        from cores_core.evaluate.run import EvalJob
        from cores_core.model.source import ModelSource

        source = ModelSource(model, device, dtype, load_in, conversation, compiled)
        parts = _choose_data(name, data, split, data_root)
        job = EvalJob(
            name, data_root, parts, protocol, limit, no_target=no_target, read_ahead=batch_size, instances=instances
        )
        devices = [f"cuda:{number}" for number in range(gpus)] or [device] * processes
        choice = ContextChoice(context, endpoint, llm, output)
        _evaluate(source, job, choice, devices, output)

    app.command(name, help=BENCHMARKS[name].summary)(command)


for _name in BENCHMARKS:
    _add_benchmark(_name)


def _check_benchmark(name: str) -> str:
    if name not in BENCHMARKS:
        raise typer.BadParameter(f"{name} is not one of {', '.join(BENCHMARKS)}")
    return name


BenchmarkOption = Annotated[
    str,
    typer.Option(
        "--benchmark",
        metavar=f"[{'|'.join(BENCHMARKS)}]",
        callback=_check_benchmark,
        help="The benchmark that the predictions answer.",
    ),
]


@app.command()
def score(
    predictions: Annotated[
        Path, typer.Argument(help="JSONL rows of a mask with an id, or an image and a question; or COCO JSON.")
    ],
    benchmark: BenchmarkOption,
    data: DataOption = None,
    split: SplitOption = None,
    data_root: DataRootOption = Path("data"),
    output: OutputOption = None,
    limit: LimitOption = None,
    name: Annotated[str, typer.Option("--name", help="Name of the system in tables.")] = "predictions",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first unusable row.")] = False,
    layout: Annotated[
        Literal["rows", "lisa", "sa2va"],
        typer.Option("--layout", help="rows; lisa: folder of its chat.py; sa2va: results.json of its r2s_eval.py."),
    ] = "rows",
) -> None:
    """Score the predicted masks of any system on a benchmark.

    Exits with 1 if more rows were left out than scored and queries lack a mask.
    """
    from cores_core.evaluate.about import describe_predictions
    from cores_core.evaluate.foreign import score_predictions
    from cores_core.evaluate.results import Evaluation
    from cores_core.evaluate.run import EvalJob, list_all_targets

    job = EvalJob(benchmark, data_root, _choose_data(benchmark, data, split, data_root), "teacher_forced", limit)
    targets = list_all_targets(job)
    with _writing_to(output):
        with _as_rows(predictions, layout, targets) as rows, console.progress_bar() as progress:
            task = progress.add_task("scoring", total=len(targets))
            items, report = score_predictions(targets, rows, partial(progress.advance, task), strict)
        about = describe_predictions(name, job, report.warnings, _command())
        _finish(Evaluation(tuple(items), about), output)
    if report.is_mostly_left_out:
        first = report.problems[0]
        message = f"{len(report.problems)} rows of {predictions} were left out, line {first.line} first: {first.reason}"
        raise DataError(message, hint="the scores above count their queries as empty masks; correct the rows")
    if report.problems:
        console.say(f"left out {len(report.problems)} rows of {predictions}; the reasons are above", style="yellow")


@contextmanager
def _as_rows(predictions: Path, layout: str, targets: "Sequence[Target]") -> "Iterator[Path]":
    """The file of rows, converted in a temporary folder if the predictions have another layout."""
    from cores_core.evaluate.adapters import LAYOUTS
    from cores_core.files import save_text

    if layout == "rows":
        yield predictions
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = LAYOUTS[layout](predictions, targets)
        save_text("".join(f"{json.dumps(row)}\n" for row in rows), Path(folder) / "rows.jsonl")
        yield Path(folder) / "rows.jsonl"


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="A B [C...]", help="Folders of evaluations.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for comparison.json and its picture.")] = Path(
        "comparison"
    ),
    pictures: Annotated[int, typer.Option("--pictures", min=0, help="Number of items in the picture.")] = 12,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap and of the random items.")] = 0,
) -> None:
    """Compare evaluations of the same data: differences with 95 % intervals, and pictures side by side."""
    from PIL import Image

    from cores_core.evaluate.compare import compare as compare_evaluations
    from cores_core.evaluate.compare import render_sheet
    from cores_core.evaluate.report import find_pictures
    from cores_core.evaluate.results import load_evaluation
    from cores_core.files import replacing, save_text

    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    evaluations = {name: load_evaluation(folder) for name, folder in zip(names, folders, strict=True)}
    comparison = compare_evaluations(evaluations, seed=seed)
    with _writing_to(output):
        save_text(json.dumps(comparison.to_json(), indent=2) + "\n", output / "comparison.json")
        show_comparison(comparison)
        if pictures:
            data_root = Path(next(iter(evaluations.values())).about.get("data_root", ""))
            sheet = render_sheet(evaluations, find_pictures(data_root), pictures, seed)
            with replacing(output / "comparison.png") as temporary:
                Image.fromarray(sheet).save(temporary, format="PNG")
    console.say(f"wrote {output / 'comparison.json'}" + (f" and {output / 'comparison.png'}" if pictures else ""))


def _prepared_split(name: str, splits: "Sequence[str]", data_root: Path) -> str:
    """The first split that is prepared, else the first."""
    from cores_core.data.store import store_path

    return next((split for split in splits if store_path(data_root, name, split).is_file()), splits[0])


def _choose_data(benchmark: str, data: str | None, split: str | None, data_root: Path) -> tuple[tuple[str, str], ...]:
    """Data set and splits of a benchmark from the options."""
    known = BENCHMARKS[benchmark].data
    if not known:
        if data is None:
            raise typer.BadParameter("name the data set: custom/<name> or hub/<owner>/<name>", param_hint="--data")
        return ((data, split or "val"),)
    name = data or next(iter(known))
    if name not in known:
        raise typer.BadParameter(f"{benchmark} runs on {', '.join(known)}, not on {name}", param_hint="--data")
    splits = known[name]
    if split is not None and split not in splits:
        raise typer.BadParameter(f"{name} has the splits {', '.join(splits)}, not {split}", param_hint="--split")
    if split is None and name.startswith(HUB):
        return ((name, _prepared_split(name, splits, data_root)),)
    if split is None:
        return tuple((name, half) for half in (splits if name == benchmark == "reasonpart" else splits[:1]))
    return ((name, split),)


def _evaluate(
    source: "ModelSource", job: "EvalJob", context: ContextChoice, devices: "Sequence[str]", output: Path | None
) -> None:
    from cores_core.evaluate.about import describe_evaluation
    from cores_core.evaluate.results import Evaluation
    from cores_core.evaluate.run import list_all_targets, run_evaluation
    from cores_core.runtime import set_up_cpu

    set_up_cpu()
    targets = list_all_targets(job)
    with _writing_to(output):
        if context.name is not None:
            job = replace(job, examples=context.choose(targets))
        with tempfile.TemporaryDirectory() as scratch, console.progress_bar() as progress:
            task = progress.add_task(f"evaluating ({job.protocol})", total=len(targets))
            items = run_evaluation(source, job, output or Path(scratch), devices, partial(progress.advance, task))
        about = describe_evaluation(source, job, context.name or "the model's own", _command())
        _finish(Evaluation(items, about), output)


@contextmanager
def _writing_to(output: Path | None) -> "Iterator[None]":
    """Lock the output folder, if one is given, while it is written; an interrupt leaves no partial file."""
    from cores_core.locks import locked

    with interrupts.unwinding(), nullcontext() if output is None else locked(output):
        yield


def _command() -> str:
    return shlex.join(["cores", *sys.argv[1:]])


def _finish(evaluation: "Evaluation", output: Path | None) -> None:
    """Show an evaluation, and write it."""
    from cores_core.evaluate.report import save_report
    from cores_core.evaluate.results import save_evaluation
    from cores_core.journal import Journal

    if output is not None:
        save_evaluation(evaluation, output)
        report = save_report(evaluation, output, Path(evaluation.about["data_root"]))
        Journal(output).close()
    show_evaluation(evaluation)
    if output is not None:
        console.say(f"wrote {output / 'results.json'}, {output / 'items.jsonl'} and {report}")
