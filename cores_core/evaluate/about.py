"""Provenance of an evaluation: settings, data, versions, and warnings about its scores."""

import re
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from cores_core.data.prepare import fingerprint, load_reports
from cores_core.data.registry import find_dataset
from cores_core.data.store import Store
from cores_core.errors import DataError
from cores_core.evaluate.run import EvalJob
from cores_core.masks import rle_area
from cores_core.model.source import ModelSource

_PACKAGES = ("cores", "torch", "transformers", "segment-anything", "numpy", "pycocotools")
_TRAINED_ON_VAL = re.compile(r"lisa.*-v1\b(?!-)|lisa.*-v1-explanatory", re.IGNORECASE)
"""Names of LISA's released weights that were trained on ReasonSeg train and val, according to its web page."""


def describe_evaluation(source: ModelSource, job: EvalJob, context: str, command: str) -> dict[str, Any]:
    """Entries of `results.json` besides the scores, as JSON values; for `Evaluation.about`."""
    warnings = [*_warn_of_model(source, job), *_warn_of_data(job)]
    about = {"protocol": job.protocol, "context": context, "model": source.name, "dtype": source.dtype}
    return {**_describe_data(job, command), **about, "warnings": warnings}


def describe_predictions(name: str, job: EvalJob, problems: Sequence[str], command: str) -> dict[str, Any]:
    """Like `describe_evaluation`, for predictions of another system (`evaluate/foreign.py`)."""
    warnings = [*problems, *_warn_of_data(job)]
    return {**_describe_data(job, command), "protocol": "from elsewhere", "model": name, "warnings": warnings}


def _describe_data(job: EvalJob, command: str) -> dict[str, Any]:
    fingerprints = {}
    for name, split in job.data:
        report = load_reports(name, job.data_root).get(split)
        fingerprints[f"{name}/{split}"] = "" if report is None else report.fingerprint
    return {
        "benchmark": job.benchmark,
        "title": job.plan.title,
        "seed": next((store.seed for store in job.stores() if store.seed is not None), None),
        "limit": job.limit,
        "no_target": job.no_target,
        "data_root": str(job.data_root),
        "data": fingerprints,
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "command": command,
    }


def _warn_of_model(source: ModelSource, job: EvalJob) -> list[str]:
    val = {("reasonseg", "val"), ("hub/Ricky06662/ReasonSeg_val", "test")}
    if val & set(job.data) and _TRAINED_ON_VAL.search(source.name):
        return [f"{source.name} was trained on ReasonSeg train and val: its val scores are contaminated."]
    return []


def _warn_of_data(job: EvalJob) -> list[str]:
    found = []
    for name, split in job.data:
        if _is_outdated(name, split, job):
            found.append(f"The annotations of {name} {split} have changed since it was prepared: prepare it again.")
    for store in job.stores():
        if job.plan.asked != "all" and (empty := _count_empty(store, job.plan.kinds)):
            found.append(f"{store.name} {store.split}: {empty} images have no target; there an empty mask is right.")
    if job.no_target:
        found.append(f"{job.no_target} questions an image are about something that it does not show.")
    if job.limit is not None:
        found.append(f"Only the first {job.limit} images of each part were asked about.")
    return found


def _is_outdated(name: str, split: str, job: EvalJob) -> bool:
    report = load_reports(name, job.data_root).get(split)
    try:
        spec = find_dataset(name, job.data_root)
    except DataError:
        return False  # the raw data are no longer available
    if report is None or spec.missing(job.data_root, split):
        return False
    return report.fingerprint != fingerprint(spec, job.data_root, split)


def _count_empty(store: Store, kinds: Sequence[str]) -> int:
    return sum(any(r.kind in kinds and not rle_area(r.mask) for r in record.regions) for record in store)
