"""Rows of a job that is not finished: each process appends to a file of its own, one image at a time.

<folder>/unfinished/about.json     what the job is; rows of another job are never continued
<folder>/unfinished/<name>.jsonl   rows; a truncated last row is dropped
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from cores_core.errors import DataError
from cores_core.files import parse_json, save_text

Row = dict[str, Any]


class Journal:
    """The unfinished rows of a job in a folder.

    Attributes:
        folder: of the job.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._folder = folder / "unfinished"
        self._own = self._folder / f"{uuid4().hex}.jsonl"

    @property
    def exists(self) -> bool:
        """Whether a job was begun here and not finished."""
        return (self._folder / "about.json").is_file()

    def begin(self, about: Mapping[str, Any]) -> None:
        """Start a job in the folder, or continue the one that is there.

        Raises:
            DataError: the rows that are there are of another job, or a file has the folder's place.
        """
        path = self._folder / "about.json"
        text = json.dumps(about, sort_keys=True)
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            hint = f"choose another --output, or remove {self._folder}"
            raise DataError(f"another evaluation or prediction was begun in: {self._folder.parent}", hint=hint)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except (NotADirectoryError, FileExistsError) as error:
            raise DataError(f"not a folder: {self.folder}", hint="choose another --output") from error
        save_text(text, path)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append the rows of one image and flush them to disk.

        Raises:
            DataError: the folder is gone.
        """
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        try:
            with self._own.open("ab") as file:
                file.write(text.encode(errors="surrogatepass"))
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError as error:
            raise DataError(f"the folder was removed: {self._folder}", hint="run the command again") from error

    def read(self) -> Iterator[Row]:
        """All complete rows, in no particular order."""
        for path in sorted(self._folder.glob("*.jsonl")):
            with path.open("rb") as lines:
                for line in lines:
                    try:
                        row = parse_json(line)
                    except ValueError:
                        continue  # truncated: its image is asked about again
                    if isinstance(row, dict):
                        yield row

    def count(self) -> int:
        """Number of rows."""
        return sum(path.read_bytes().count(b"\n") for path in self._folder.glob("*.jsonl"))

    def close(self) -> None:
        """Remove the folder, once its rows are saved elsewhere."""
        shutil.rmtree(self._folder, ignore_errors=True)
