"""Prepare a data set: read the raw form once, check it, write the store and a report beside it."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from cores_core.data.partworld.write import write_partworld
from cores_core.data.sources.parts import read_parts
from cores_core.data.sources.reading import Rejections
from cores_core.data.store import Record, save_store, store_path
from cores_core.files import save_text

Progress = Callable[[str, int], None]
"""Called with what is being done and how many images more are done."""


@dataclass(frozen=True)
class SplitReport:
    """What a prepared split holds, and what was left out and why."""

    images: int
    regions: int
    rejected: Mapping[str, int]
    source_sha256: str


def prepare_partworld(
    data_root: Path, images: Mapping[str, int], seed: int, workers: int, progress: Progress
) -> Mapping[str, SplitReport]:
    """Render PartWorld under `<data_root>/partworld` and prepare it.

    Args:
        images: how many for each split. seed: splits of one seed never share a scene.
        workers: processes that render; the files do not depend on it.
    """
    folder = data_root / "partworld"
    write_partworld(folder, images, seed, workers, lambda done: progress("rendering", done))
    reports: dict[str, SplitReport] = {}
    for split in images:
        reports[split] = _prepare_split(folder, data_root, split, lambda done: progress("preparing", done))
    about = {
        "name": "partworld",
        "seed": seed,
        "splits": {split: vars(report) for split, report in reports.items()},
        "versions": {module.__name__: module.__version__ for module in (cv2, np, pa)},
    }
    save_text(json.dumps(about, indent=2) + "\n", store_path(data_root, "partworld", "train").with_name("report.json"))
    return reports


def _prepare_split(folder: Path, data_root: Path, split: str, progress: Callable[[int], None]) -> SplitReport:
    rejected, regions = Rejections(), 0

    def counted() -> Iterator[Record]:
        nonlocal regions
        for record in read_parts(folder, data_root, split, rejected):
            regions += len(record.regions)
            progress(1)
            yield record

    count = save_store(counted(), store_path(data_root, "partworld", split))
    digest = hashlib.sha256((folder / f"{split}.json").read_bytes()).hexdigest()
    return SplitReport(images=count, regions=regions, rejected=rejected.counts, source_sha256=digest)
