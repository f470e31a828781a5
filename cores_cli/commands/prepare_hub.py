"""`cores prepare-data hub/OWNER/NAME`: read a data set in parquet, from the hub or a folder, into the data root."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cores_cli import console
from cores_core.data.parquet.known import HUB
from cores_core.errors import DataError

if TYPE_CHECKING:
    from cores_core.data.parquet.columns import ColumnMap
    from cores_core.data.parquet.convert import ImportReport
    from cores_core.data.parquet.files import ParquetFiles


@dataclass(frozen=True)
class HubChoice:
    """Split, columns as text, and folder of parquet files in place of the hub; None for the defaults."""

    split: str | None
    columns: str | None
    folder: Path | None

    @property
    def is_given(self) -> bool:
        """Whether an option asks for another import than the one that may be there."""
        return self.columns is not None or self.folder is not None


def import_hub_set(name: str, data_root: Path, choice: HubChoice) -> None:
    """Show the columns of a split and write its images and rows; skips what is there if no option says otherwise.

    Raises:
        DataError: it cannot be read, or no column fits.
    """
    from cores_core.data.parquet.convert import import_split
    from cores_core.data.sources.custom import find_splits

    here = find_splits(data_root / name)
    if not choice.is_given and (choice.split in here or (choice.split is None and here)):
        return
    split, files, columns, count = _open(name, choice)
    with console.progress_bar() as progress:
        task = progress.add_task(f"reading {split}", total=count)
        import_split(files, split, columns, data_root / name, partial(progress.advance, task))


def check_hub_set(name: str, choice: HubChoice) -> "Mapping[str, ImportReport]":
    """Show the columns of a split and read it, without writing anything below the data root."""
    from cores_core.data.parquet.convert import check_rows

    split, files, columns, count = _open(name, choice)
    with console.progress_bar() as progress:
        task = progress.add_task(f"reading {split}", total=count)
        return {split: check_rows(files, columns, partial(progress.advance, task))}


def _open(name: str, choice: HubChoice) -> "tuple[str, ParquetFiles, ColumnMap, int]":
    """Split, files, columns and number of rows."""
    from cores_core.data.parquet.columns import NONE, column_type, map_columns, parse_columns
    from cores_core.data.parquet.convert import read_schema
    from cores_core.data.parquet.files import fetch_from_hub, find_in_folder
    from cores_core.data.parquet.known import HUB_SETS
    from cores_core.hub import has_hub_form

    repository = name.removeprefix(HUB)
    if not has_hub_form(repository):
        raise DataError(f"not of the form hub/OWNER/NAME: {name}", hint="OWNER/NAME is the id of a data set of the hub")
    given = {} if choice.columns is None else parse_columns(choice.columns)
    if choice.folder is None:
        split, files = fetch_from_hub(repository, choice.split)
    else:
        split, files = find_in_folder(choice.folder, choice.split)
    schema, count = read_schema(files)
    known = HUB_SETS[repository].columns if repository in HUB_SETS and not given else {}
    columns = map_columns(schema, {**known, **given})
    rows = [
        (
            role,
            column,
            "-" if (role, column) == ("mask", NONE) else str(column_type(schema, column)),
            _origin(role, given, known),
        )
        for role, column in columns.used.items()
    ]
    console.show_text_table(f"{name} {split}: {count} rows", ("role", "column", "type", "chosen"), rows)
    if any(origin == "guessed" for *_, origin in rows):
        console.say("if a guess is wrong, name the columns: --columns image=A,question=B,mask=C")
    return split, files, columns, count


def _origin(role: str, given: Mapping[str, str], known: Mapping[str, str]) -> str:
    return "given" if role in given else "known" if role in known else "guessed"
