"""Prepare data sets: read and validate the raw annotations once, write a store per split and a report.

    <data root>/prepared/<name>/<split>.arrow
    <data root>/prepared/<name>/report.json    counts and official counts, skipped items with reasons, hashes

Splits with unchanged annotations are skipped; an interrupted split resumes with its finished pieces.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import pyarrow as pa

from cores_core.data.partworld.write import write_partworld
from cores_core.data.pieces import Job, read_in_pieces
from cores_core.data.registry import DatasetSpec, find_dataset
from cores_core.data.sources.reading import WHOLE, Rejections
from cores_core.data.store import report_path, store_path
from cores_core.errors import DataError, MissingDataError
from cores_core.files import read_json, save_text, writing_hint
from cores_core.locks import locked

LARGE_FILE = 500_000_000
"""Bytes of an annotation file beyond which one process reads a split: each worker parses the whole file, and a parsed
JSON file takes about seven times its size in memory."""
READING = 5
"""Version of the readers; increase it when they return other records for the same files."""
Progress = Callable[[str, int], None]
"""Called with the name of the current task and the number of newly finished images."""


@dataclass(frozen=True)
class SplitReport:
    """Counts of a prepared split, and its skipped items.

    Attributes:
        images, regions: their numbers. expected: official number of images, or None.
        left_out: pairs of skipped item and reason.
        notes: pairs of item and the assumption with which it was read.
        fingerprint: hash of the annotations.
    """

    images: int
    regions: int
    expected: int | None
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]
    fingerprint: str

    @property
    def reasons(self) -> Mapping[str, int]:
        """Number of skipped items by reason."""
        return Rejections(list(self.left_out)).counts


def prepare_partworld(
    data_root: Path, images: Mapping[str, int], seed: int, workers: int, progress: Progress
) -> Mapping[str, SplitReport]:
    """Render PartWorld under `<data_root>/partworld` and prepare it.

    Args:
        images: number of images by split. seed: splits of the same seed have no scene in common.
        workers: number of processes; the files do not depend on it.

    Raises:
        LockError: another process is preparing it.
    """
    with _locked("partworld", data_root):
        write_partworld(data_root / "partworld", images, seed, workers, lambda done: progress("rendering", done))
        reports = {
            split: prepare_split("partworld", split, data_root, workers, lambda done: progress("preparing", done))
            for split in images
        }
        save_report("partworld", data_root, reports, seed=seed)
    return reports


def prepare_dataset(
    name: str, data_root: Path, workers: int, progress: Progress
) -> Mapping[str, SplitReport | DataError]:
    """Prepare all available splits of a data set one by one; an error in one does not stop the others.

    Args:
        workers: number of processes that read a split; the files do not depend on it.
        progress: called with the split and the number of newly finished images.

    Returns:
        For each official split its report, or the error that prevented its preparation.

    Raises:
        LockError: another process is preparing it.
    """
    spec = find_dataset(name, data_root)
    outcomes: dict[str, SplitReport | DataError] = {}
    with _locked(name, data_root):
        known = load_reports(name, data_root)
        for split in spec.splits:
            missing = spec.missing(data_root, split)
            if missing:
                outcomes[split] = MissingDataError(f"not found: {missing[0]}", hint=f"get it from {spec.homepage}")
            elif _is_current(name, split, data_root, known):
                outcomes[split] = known[split]
            else:
                try:
                    report = prepare_split(name, split, data_root, workers, partial(progress, split))
                except DataError as error:
                    outcomes[split] = error
                else:
                    outcomes[split] = report
                    save_report(name, data_root, {split: report})
    return outcomes


def _locked(name: str, data_root: Path) -> AbstractContextManager[None]:
    return locked(report_path(data_root, name).parent)


def check_split(name: str, split: str, data_root: Path, progress: Callable[[int], None]) -> SplitReport | DataError:
    """Read and validate a split like `prepare_split`, in this process, without writing anything."""
    spec, rejected, images, regions = find_dataset(name, data_root), Rejections(), 0, 0
    try:
        for record in spec.read(data_root, spec.disk_name(split), rejected, WHOLE):
            images, regions = images + 1, regions + len(record.regions)
            progress(1)
    except DataError as error:
        return error
    return SplitReport(
        images, regions, spec.splits[split], tuple(rejected.items), tuple(rejected.notes), fingerprint=""
    )


def prepare_split(name: str, split: str, data_root: Path, workers: int, progress: Callable[[int], None]) -> SplitReport:
    """Read a split and write its store.

    Raises:
        DataError: the split cannot be read as a whole, or its store cannot be written.
    """
    spec = find_dataset(name, data_root)
    try:
        annotations = fingerprint(spec, data_root, split)
        key = hashlib.sha256(f"{READING} {annotations}".encode()).hexdigest()[:12]
        if any(path.is_file() and path.stat().st_size > LARGE_FILE for path in spec.annotation_paths(data_root, split)):
            workers = 1
        job = Job(name, split, data_root, key, spec.pieces or workers)
        tally = read_in_pieces(job, workers, progress)
    except OSError as error:
        message = f"cannot prepare {name} {split}: {error}"
        raise DataError(message, hint=writing_hint(error)) from error
    return SplitReport(
        images=tally.images,
        regions=tally.regions,
        expected=spec.splits[split],
        left_out=tally.left_out,
        notes=tally.notes,
        fingerprint=annotations,
    )


def load_reports(name: str, data_root: Path) -> Mapping[str, SplitReport]:
    """Read the reports written by `save_report`, by split; empty if there are none, damaged, or of older readers."""
    reports = {}
    try:
        tree = read_json(report_path(data_root, name))
        if tree["reading"] != READING:
            return {}
        for split, entry in tree["splits"].items():
            known = {key: value for key, value in entry.items() if key != "reasons"}
            pairs = {key: tuple((item, text) for item, text in entry[key]) for key in ("left_out", "notes")}
            reports[split] = SplitReport(**(known | pairs))
    except (OSError, AttributeError, LookupError, TypeError, ValueError):
        return {}
    return reports


def save_report(name: str, data_root: Path, reports: Mapping[str, SplitReport], seed: int | None = None) -> None:
    """Add or replace the reports of splits in the data set's report file."""
    merged = {**load_reports(name, data_root), **reports}
    about: dict[str, Any] = {"name": name, "reading": READING} | ({} if seed is None else {"seed": seed})
    about["splits"] = {split: asdict(report) | {"reasons": dict(report.reasons)} for split, report in merged.items()}
    about["versions"] = {module.__name__: module.__version__ for module in (cv2, np, pa, PIL)}
    save_text(json.dumps(about, indent=2) + "\n", report_path(data_root, name))


def fingerprint(spec: DatasetSpec, data_root: Path, split: str) -> str:
    """SHA-256 of the annotations of a split: content of files; for folders names, sizes and the content of JSON."""
    digest = hashlib.sha256()
    besides = [data_root / name for name in spec.besides if (data_root / name).is_file()]
    for path in (*spec.annotation_paths(data_root, split), *besides):
        if path.is_file():
            digest.update(_digest(path))
            continue
        for entry in sorted(path.rglob("*")):
            digest.update(f"{entry.relative_to(path)} {entry.stat().st_size}\n".encode())
            if entry.suffix == ".json" and entry.is_file():
                digest.update(_digest(entry))
    return digest.hexdigest()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _is_current(name: str, split: str, data_root: Path, known: Mapping[str, SplitReport]) -> bool:
    if split not in known or not store_path(data_root, name, split).is_file():
        return False
    return known[split].fingerprint == fingerprint(find_dataset(name, data_root), data_root, split)
