"""What people see: stdout is data that can be piped, stderr is talk. User text is never read as markup."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cores_core.errors import CoresError

out = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
talk = Console(stderr=True, markup=False, highlight=False, emoji=False)


def say(message: str, style: str | None = None) -> None:
    """A line for the person at the terminal."""
    talk.print(message, style=style, soft_wrap=True)


def show_error(error: CoresError) -> None:
    """One error: what is wrong, and what to do next."""
    talk.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
    if error.hint:
        talk.print(Text.assemble(("hint: ", "bold"), error.hint), soft_wrap=True)


def show_json(value: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout."""
    out.file.write(json.dumps(value, ensure_ascii=False) + "\n")


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress]:
    """A progress display on stderr; plain when stderr is no terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=talk, disable=quiet or not talk.is_terminal) as progress:
        yield progress


def percent(value: float | None) -> str:
    """A share as a percentage, or a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"
