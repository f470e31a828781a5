"""Terminal output: data on stdout, messages and progress on stderr. User text is never read as markup."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from cores_cli.interrupts import interrupts
from cores_core.errors import CoresError

if TYPE_CHECKING:
    from cores_core.model.plan import MemoryPlan


class CheckedProgress(Progress):
    """A progress display that ends a command whose first interrupt a library has caught."""

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As rich's."""
        interrupts.check()
        super().advance(task_id, advance)


out = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
talk = Console(stderr=True, markup=False, highlight=False, emoji=False)


def say(message: str, style: str | None = None) -> None:
    """Print a line on stderr."""
    talk.print(message, style=style, soft_wrap=True)


def show_error(error: CoresError) -> None:
    """One error: what is wrong, and what to do next."""
    talk.print(Text.assemble(("error: ", "bold red"), _one_line(error.message)), soft_wrap=True)
    for line in error.details:
        talk.print(Text(_one_line(line)), soft_wrap=True)
    if error.hint:
        talk.print(Text.assemble(("hint: ", "bold"), _one_line(error.hint)), soft_wrap=True)


def _one_line(text: str) -> str:
    """A text with its control characters escaped, which names of files may contain."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def show_json(value: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout: UTF-8, or escaped ASCII where stdout has another encoding."""
    encoding = (getattr(out.file, "encoding", None) or "ascii").lower().replace("-", "")
    text = json.dumps(value, ensure_ascii=encoding != "utf8")
    out.file.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)


def show_text_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of text on stdout."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)


def show_memory(title: str, plan: "MemoryPlan") -> None:
    """The parts of a model with their sizes, and the memory that using it takes."""
    training = any(part.trainable for part in plan.parts)
    columns, keep = ("part", "parameters", "trainable", "weights"), (0, 1, 2, 3) if training else (0, 1, 3)
    cells = [(p.name, f"{p.parameters:,}", f"{p.trainable:,}", size_text(p.weight_bytes)) for p in plan.parts]
    count, learning = (sum(getattr(p, name) for p in plan.parts) for name in ("parameters", "trainable"))
    cells.append(("total", f"{count:,}", f"{learning:,}", size_text(plan.weights)))
    show_table(title, [columns[i] for i in keep], [[row[i] for i in keep] for row in cells])
    purposes = {"weights": plan.weights, "gradients": plan.gradients, "optimiser": plan.optimizer}
    purposes |= {"activations (estimate)": plan.activations, "total": plan.total}
    show_table("memory", ("purpose", "size"), [(name, size_text(size)) for name, size in purposes.items() if size])


def size_text(size: int) -> str:
    """Bytes as MiB or GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress]:
    """A progress display on stderr, plain when stderr is no terminal, of work that an interrupt unwinds."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    progress = CheckedProgress(*columns, console=talk, disable=quiet or not talk.is_terminal)
    with interrupts.unwinding(), progress:
        yield progress


@contextmanager
def byte_progress_bar() -> Iterator[Progress]:
    """A progress display of bytes, for downloads."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    progress = CheckedProgress(*columns, TimeRemainingColumn(), console=talk, disable=not talk.is_terminal)
    with interrupts.unwinding(), progress:
        yield progress


def percent(value: float | None) -> str:
    """A fraction as a percentage, or a dash for None."""
    return "-" if value is None else f"{100 * value:.1f}"
