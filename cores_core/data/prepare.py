"""Prepare data sets: read the raw form once, check it, write a store for each split and a report beside them.

    <data root>/prepared/<name>/<split>.arrow
    <data root>/prepared/<name>/report.json    counts against the official ones, what was left out and why, hashes

A split whose annotations have not changed since is not read again, so a call that was cut off goes on where it was.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import pyarrow as pa

from cores_core.data.partworld.write import write_partworld
from cores_core.data.registry import DatasetSpec, find_dataset
from cores_core.data.sources.reading import Rejections
from cores_core.data.store import Record, report_path, save_store, store_path
from cores_core.errors import DataError
from cores_core.files import save_text

READING = 1
"""Raise this when readers begin to give other records for the same files."""
Progress = Callable[[str, int], None]
"""Called with what is being done and how many images more are done."""


@dataclass(frozen=True)
class SplitReport:
    """What a prepared split holds, and what was left out and why.

    Attributes:
        images, regions: how many there are. expected: the official number of images, or None.
        left_out: for each item its name and the reason.
        fingerprint: of the annotations that were read.
    """

    images: int
    regions: int
    expected: int | None
    left_out: tuple[tuple[str, str], ...]
    fingerprint: str

    @property
    def reasons(self) -> Mapping[str, int]:
        """How many were left out for each reason."""
        return Rejections(list(self.left_out)).counts


def prepare_partworld(
    data_root: Path, images: Mapping[str, int], seed: int, workers: int, progress: Progress
) -> Mapping[str, SplitReport]:
    """Render PartWorld under `<data_root>/partworld` and prepare it.

    Args:
        images: how many for each split. seed: splits of one seed never share a scene.
        workers: processes that render; the files do not depend on it.
    """
    write_partworld(data_root / "partworld", images, seed, workers, lambda done: progress("rendering", done))
    reports = {
        split: prepare_split("partworld", split, data_root, lambda done: progress("preparing", done))
        for split in images
    }
    save_report("partworld", data_root, reports, seed=seed)
    return reports


def prepare_dataset(
    name: str, data_root: Path, workers: int, progress: Progress
) -> Mapping[str, SplitReport | DataError]:
    """Prepare all splits of a data set that are there, several at once; what is wrong with one stops no other.

    Args:
        progress: is told of images with one worker, of whole splits with more.

    Returns:
        For each official split its report, or what kept it from being prepared.
    """
    spec, known = find_dataset(name, data_root), load_reports(name, data_root)
    outcomes: dict[str, SplitReport | DataError] = {}
    waiting = []
    for split in spec.splits:
        missing = spec.missing(data_root, split)
        if missing:
            outcomes[split] = DataError(f"not there: {missing[0]}", hint=f"get it from {spec.homepage}")
        elif _is_current(name, split, data_root, known):
            outcomes[split] = known[split]
        else:
            waiting.append(split)
    for split, outcome in _prepare_all(name, waiting, data_root, workers, progress):
        outcomes[split] = outcome
        if isinstance(outcome, SplitReport):
            save_report(name, data_root, {split: outcome})
    return {split: outcomes[split] for split in spec.splits}


def check_split(name: str, split: str, data_root: Path, progress: Callable[[int], None]) -> SplitReport | DataError:
    """Read a split as `prepare_split` does, and write nothing."""
    spec, rejected, images, regions = find_dataset(name, data_root), Rejections(), 0, 0
    try:
        for record in spec.read(data_root, spec.disk_name(split), rejected):
            images, regions = images + 1, regions + len(record.regions)
            progress(1)
    except DataError as error:
        return error
    return SplitReport(images, regions, spec.splits[split], tuple(rejected.items), fingerprint="")


def prepare_split(name: str, split: str, data_root: Path, progress: Callable[[int], None]) -> SplitReport:
    """Read a split and write its store.

    Raises:
        DataError: the split cannot be read as a whole.
    """
    spec, rejected, regions = find_dataset(name, data_root), Rejections(), 0

    def counted() -> Iterator[Record]:
        nonlocal regions
        for record in spec.read(data_root, spec.disk_name(split), rejected):
            regions += len(record.regions)
            progress(1)
            yield record

    count = save_store(counted(), store_path(data_root, name, split))
    return SplitReport(
        images=count,
        regions=regions,
        expected=spec.splits[split],
        left_out=tuple(rejected.items),
        fingerprint=fingerprint(spec, data_root, split),
    )


def load_reports(name: str, data_root: Path) -> Mapping[str, SplitReport]:
    """What `save_report` wrote, by split; empty if nothing is prepared, or by older readers."""
    path = report_path(data_root, name)
    if not path.is_file():
        return {}
    tree = json.loads(path.read_text(encoding="utf-8"))
    if tree.get("reading") != READING:
        return {}
    reports = {}
    for split, entry in tree["splits"].items():
        known = {key: value for key, value in entry.items() if key != "reasons"}
        reports[split] = SplitReport(**(known | {"left_out": tuple(map(tuple, entry["left_out"]))}))
    return reports


def save_report(name: str, data_root: Path, reports: Mapping[str, SplitReport], seed: int | None = None) -> None:
    """Write the reports of splits into the data set's report, beside those that are there."""
    merged = {**load_reports(name, data_root), **reports}
    about: dict[str, Any] = {"name": name, "reading": READING} | ({} if seed is None else {"seed": seed})
    about["splits"] = {split: asdict(report) | {"reasons": dict(report.reasons)} for split, report in merged.items()}
    about["versions"] = {module.__name__: module.__version__ for module in (cv2, np, pa, PIL)}
    save_text(json.dumps(about, indent=2) + "\n", report_path(data_root, name))


def fingerprint(spec: DatasetSpec, data_root: Path, split: str) -> str:
    """A digest of the annotations of a split: of a file's bytes, of a folder's names and sizes."""
    digest = hashlib.sha256()
    for path in spec.annotation_paths(data_root, split):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        else:
            for entry in sorted(path.rglob("*")):
                digest.update(f"{entry.relative_to(path)} {entry.stat().st_size}\n".encode())
    return digest.hexdigest()


def _is_current(name: str, split: str, data_root: Path, known: Mapping[str, SplitReport]) -> bool:
    if split not in known or not store_path(data_root, name, split).is_file():
        return False
    return known[split].fingerprint == fingerprint(find_dataset(name, data_root), data_root, split)


def _prepare_all(
    name: str, splits: list[str], data_root: Path, workers: int, progress: Progress
) -> Iterator[tuple[str, SplitReport | DataError]]:
    if workers == 1 or len(splits) < 2:
        for split in splits:
            yield split, _attempt(name, split, data_root, partial(progress, split))
        return
    with ProcessPoolExecutor(min(workers, len(splits)), mp_context=get_context("spawn")) as pool:
        tasks = {pool.submit(_attempt, name, split, data_root, _unheard): split for split in splits}
        for task in as_completed(tasks):
            outcome = task.result()
            progress(tasks[task], outcome.images if isinstance(outcome, SplitReport) else 0)
            yield tasks[task], outcome


def _attempt(name: str, split: str, data_root: Path, progress: Callable[[int], None]) -> SplitReport | DataError:
    try:
        return prepare_split(name, split, data_root, progress)
    except DataError as error:
        return error
    except OSError as error:
        return DataError(f"cannot prepare {name} {split}: {error}", hint="free some space, then call this again")


def _unheard(_: int) -> None:
    """Progress in another process goes nowhere; the whole split is told when it is done."""
