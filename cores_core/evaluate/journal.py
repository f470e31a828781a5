"""The rows of an evaluation that is not finished: each process adds to a file of its own, image by image.

<folder>/unfinished/about.json     what is evaluated; another evaluation never goes on with these rows
<folder>/unfinished/<name>.jsonl   rows; a last one that was cut off is dropped
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from cores_core.errors import DataError
from cores_core.evaluate.items import Item, item_row, parse_item
from cores_core.files import save_text


class Journal:
    """A folder of rows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "unfinished"
        self._own = self._folder / f"{uuid4().hex}.jsonl"

    def begin(self, about: Mapping[str, Any]) -> None:
        """Take the folder, or go on with the rows that are there.

        Raises:
            DataError: they are of another evaluation.
        """
        path = self._folder / "about.json"
        text = json.dumps(about, sort_keys=True)
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            hint = f"choose another --output, or remove {self._folder}"
            raise DataError(f"another evaluation was begun in: {self._folder.parent}", hint=hint)
        self._folder.mkdir(parents=True, exist_ok=True)
        save_text(text, path)

    def add(self, items: Sequence[Item]) -> None:
        """Write the items of one image, and have them on the disk before going on."""
        rows = "".join(f"{json.dumps(item_row(item), ensure_ascii=False)}\n" for item in items)
        with self._own.open("ab") as file:
            file.write(rows.encode())
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> dict[str, Item]:
        """All whole rows by their id."""
        found = {}
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in path.read_bytes().split(b"\n"):
                try:
                    item = parse_item(json.loads(line))
                except (DataError, ValueError):
                    continue  # cut off in the middle: the image is asked about again
                found[item.id] = item
        return found

    def count(self) -> int:
        """How many rows there are, at a glance."""
        return sum(path.read_bytes().count(b"\n") for path in self._folder.glob("*.jsonl"))

    def close(self) -> None:
        """Remove it, when its rows are kept elsewhere."""
        shutil.rmtree(self._folder, ignore_errors=True)
