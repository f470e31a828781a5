"""Steps of `cores prepare-data` before data sets are read: downloads, and generation of questions."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer
from rich.progress import Progress, TaskID

from cores_cli import console


@dataclass(frozen=True)
class WriterChoice:
    """Question generator, number of questions for each part, random seed."""

    endpoint: str | None
    llm: str | None
    per_part: int
    seed: int


def fetch_all(names: Sequence[str], data_root: Path) -> None:
    """Download the archives of these data sets that need no login, and show where to get the rest."""
    from cores_core.data.archives import ARCHIVES
    from cores_core.data.download import fetch_archive
    from cores_core.data.registry import DATASETS

    for archive in dict.fromkeys(archive for name in names for archive in ARCHIVES.get(name, ())):
        with console.byte_progress_bar() as progress:
            task = progress.add_task(archive.name, total=archive.size)
            fetch_archive(archive, data_root, partial(progress.advance, task))
    for name in names:
        spec = DATASETS.get(name)
        if spec is not None and any(spec.missing(data_root, split) for split in spec.splits):
            console.say(f"get the rest of {name} from {spec.homepage} ({spec.licence})", style="yellow")
            console.say(f"    and put it at: {' '.join(f'{data_root}/{path}' for path in spec.layout)}")


def generate_questions(names: Sequence[str], data_root: Path, choice: WriterChoice) -> None:
    """Generate questions for the part data sets among these names; `reasonpart` stands for both of its halves."""
    from cores_core.data.questions.generate import Assignment
    from cores_core.data.questions.generate import generate_questions as generate
    from cores_core.data.questions.topics import SETS, list_examples, list_topics, questions_path
    from cores_core.data.questions.writers import EndpointWriter, LocalWriter
    from cores_core.locks import locked

    if choice.llm is None:
        raise typer.BadParameter("name the model that writes the questions", param_hint="--llm")
    wanted = dict.fromkeys(part for name in names for part in (SETS[:2] if name == "reasonpart" else (name,)))
    unknown = [name for name in wanted if name not in SETS]
    if unknown:
        raise typer.BadParameter(f"questions can be generated for reasonpart, {', '.join(SETS)}, not for {unknown[0]}")
    key = os.environ.get("OPENAI_API_KEY")
    writer = EndpointWriter(choice.endpoint, choice.llm, key) if choice.endpoint else LocalWriter(choice.llm)
    assignment = Assignment(choice.per_part, list_examples(), choice.seed)
    for name in wanted:
        topics, path = list_topics(name), questions_path(data_root, name)
        with locked(path, beside=True), console.progress_bar() as progress:
            task = progress.add_task(f"questions for {name}", total=len(topics) * choice.per_part)
            report = generate(topics, writer, path, assignment, _advance(progress, task))
        rows = [("accepted", str(report.accepted)), *((f"refused: {why}", str(n)) for why, n in report.refused.items())]
        console.show_table(f"{path}", ("questions", "count"), rows)
        if report.short:
            console.say(
                f"{len(report.short)} parts have too few, such as {report.short[0]}: repeat the command", "yellow"
            )
        console.say(f"to add them to the training questions: cores prepare-data {name} --data-root {data_root}")


def _advance(progress: Progress, task: TaskID) -> Callable[[str, int], None]:
    return lambda _, more: progress.advance(task, more)
