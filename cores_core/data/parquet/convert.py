"""Convert a split in parquet to images and a JSONL file as for users' own data, so that all readers stay the same.

    <data root>/hub/OWNER/NAME/<split>.jsonl            a row per image and target; see `sources/jsonl.py`
    <data root>/hub/OWNER/NAME/images/<split>/          the images, byte for byte; equal ones are written once
    <data root>/hub/OWNER/NAME/import/<split>.json      origin, columns, skipped rows with reasons
    <data root>/hub/OWNER/NAME/import/.<split>.rows/    finished row groups, until all are done

Files are read by row groups, a few rows at a time; a finished row group is kept, so an interrupted call resumes.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cores_core.data.parquet.columns import ColumnMap
from cores_core.data.parquet.files import ParquetFiles
from cores_core.data.parquet.rows import RowReader
from cores_core.data.sources.reading import Rejections
from cores_core.errors import DataError
from cores_core.files import save_text, writing_hint
from cores_core.locks import locked

IMPORTING = 1
"""Version of this reader; increase it when it writes other rows for the same files."""
_ROWS_AT_ONCE = 16
"""Rows decoded together: nested masks of large images take some megabytes each."""
Progress = Callable[[int], None]
"""Called with the number of newly read rows."""


@dataclass(frozen=True)
class ImportReport:
    """What was read from a split in parquet.

    Attributes:
        origin: repository and revision, or folder. columns: as in `ColumnMap`. key: changes with both and the reader.
        rows: number of parquet rows. targets: number of JSONL rows.
        left_out: (row, reason) of skipped rows. notes: (row, assumption).
    """

    origin: str
    columns: str
    key: str
    rows: int
    targets: int
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]


def read_schema(files: ParquetFiles) -> tuple[pa.Schema, int]:
    """Schema of a split, and its number of rows.

    Raises:
        DataError: a file is damaged, or the files have different schemas.
    """
    schemas, count = [], 0
    for path in files.paths:
        with _open(files, path) as file:
            schemas.append(file.schema_arrow.remove_metadata())
            count += file.metadata.num_rows
    for path, schema in zip(files.paths, schemas, strict=True):
        if schema.names != schemas[0].names:
            raise DataError(f"{path} has other columns than {files.paths[0]}: {', '.join(schema.names)}")
    return schemas[0], count


def import_split(files: ParquetFiles, split: str, columns: ColumnMap, folder: Path, progress: Progress) -> ImportReport:
    """Write a split's images and rows, or skip it if they are there.

    Args:
        folder: of the data set, `<data root>/hub/OWNER/NAME`.

    Raises:
        DataError: a file is damaged, or the disk is full or cannot be written.
        LockError: another process is importing it.
    """
    key = _key(files, columns)
    known = load_import(folder, split)
    if known is not None and known.key == key and (folder / f"{split}.jsonl").is_file():
        progress(known.rows)
        return known
    with locked(folder):
        try:
            return _import(files, split, columns, folder, progress)
        except OSError as error:
            message = f"cannot write below {folder} ({error})"
            raise DataError(message, hint=writing_hint(error)) from error


def check_rows(files: ParquetFiles, columns: ColumnMap, progress: Progress) -> ImportReport:
    """Read a split like `import_split`, without writing anything."""
    rejected, rows, targets = Rejections(), 0, 0
    reader = RowReader(columns, files.read, lambda *_: "")
    for path, group, _ in _row_groups(files):
        for _, found in _read_group(files, path, group, reader, rejected):
            rows, targets = rows + 1, targets + len(found)
            progress(1)
    return ImportReport(files.origin, str(columns), "", rows, targets, tuple(rejected.items), tuple(rejected.notes))


def load_import(folder: Path, split: str) -> ImportReport | None:
    """The report written by `import_split`; None if there is none."""
    try:
        tree = json.loads(_report_path(folder, split).read_text(encoding="utf-8"))
        pairs = {name: tuple((item, text) for item, text in tree[name]) for name in ("left_out", "notes")}
        return ImportReport(**tree | pairs)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _import(files: ParquetFiles, split: str, columns: ColumnMap, folder: Path, progress: Progress) -> ImportReport:
    key = _key(files, columns)
    parts = folder / "import" / f".{split}.rows"
    parts.mkdir(parents=True, exist_ok=True)
    for stale in parts.iterdir():
        if not stale.name.startswith(key):
            stale.unlink()
    reader = RowReader(columns, files.read, partial(_write_image, folder / "images" / split))
    groups = list(_row_groups(files))
    paths = [parts / f"{key}-{number:06}.json" for number in range(len(groups))]
    for (path, group, count), part in zip(groups, paths, strict=True):
        if part.is_file():
            progress(count)
            continue
        rejected, rows = Rejections(), []
        for _, found in _read_group(files, path, group, reader, rejected):
            rows += [row | {"image": f"images/{split}/{row['image']}"} for row in found]
            progress(1)
        save_text(json.dumps({"rows": rows, "left_out": rejected.items, "notes": rejected.notes}), part)
    report = _join(paths, split, folder, files, columns)
    shutil.rmtree(parts)
    return report


def _join(paths: Sequence[Path], split: str, folder: Path, files: ParquetFiles, columns: ColumnMap) -> ImportReport:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    rows = [row for part in found for row in part["rows"]]
    pairs = {name: tuple((a, b) for part in found for a, b in part[name]) for name in ("left_out", "notes")}
    count = sum(count for _, _, count in _row_groups(files))
    report = ImportReport(files.origin, str(columns), _key(files, columns), count, len(rows), **pairs)
    save_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), folder / f"{split}.jsonl")
    save_text(json.dumps(asdict(report), indent=2) + "\n", _report_path(folder, split))
    return report


def _report_path(folder: Path, split: str) -> Path:
    return folder / "import" / f"{split}.json"


def _key(files: ParquetFiles, columns: ColumnMap) -> str:
    sizes = [(path, (files.folder / path).stat().st_size) for path in files.paths]
    return hashlib.sha256(repr((IMPORTING, files.origin, sizes, str(columns))).encode()).hexdigest()[:12]


def _row_groups(files: ParquetFiles) -> Iterator[tuple[str, int, int]]:
    """Path, number and number of rows of each row group."""
    for path in files.paths:
        with _open(files, path) as file:
            counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        yield from ((path, group, count) for group, count in enumerate(counts))


def _open(files: ParquetFiles, path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(files.folder / path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        hint = "delete it, then run the command again"
        raise DataError(f"not a parquet file, or damaged: {files.folder / path} ({error})", hint=hint) from error


def _read_group(
    files: ParquetFiles, path: str, group: int, reader: RowReader, rejected: Rejections
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Number and JSONL rows of each parquet row of a row group; none for a rejected one."""
    with _open(files, path) as file:
        first = sum(file.metadata.row_group(number).num_rows for number in range(group))
        names = sorted({name.split(".")[0] for name in reader.needed})
        try:
            batches = file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=names)
            for batch in batches:
                for index in range(batch.num_rows):
                    number, found = first + index, []
                    try:
                        found = reader.read(batch, index)
                    except DataError as error:
                        rejected.add(f"{path}:{number}", error.message)
                    yield number, found
                first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"damaged parquet file: {files.folder / path} ({error})", hint="get it again") from error


def _write_image(folder: Path, name: str, data: bytes) -> str:
    """Write an image unless it is there; its name contains a digest of its bytes."""
    path = folder / name
    if not path.is_file() or path.stat().st_size != len(data):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{name}.tmp")
        temporary.write_bytes(data)
        temporary.replace(path)
    return name
