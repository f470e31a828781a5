"""Record of a run's settings and data, and of their changes when it was resumed.

<output>/config.yaml     ends with a comment for each change: # after step 60: `train.steps` 60 -> 100
<output>/data.json       the fingerprint of each prepared data set, by which a change of its content is noticed
<output>/metrics.jsonl   the first row after a change has it under `changes`
"""

import json
from collections.abc import Mapping
from pathlib import Path

from cores_core.config import Config
from cores_core.data.prepare import load_reports
from cores_core.files import read_json, save_text
from cores_core.settings import render_config

_MARK = "# after step "
_DATA_FILE = "data.json"


def find_data_changes(config: Config, data_root: Path, output: Path) -> list[str]:
    """Data sets of a run whose prepared content is not what it was when the run began or was resumed."""
    try:
        before = read_json(output / _DATA_FILE)
    except (OSError, ValueError):
        return []
    now = _fingerprints(config, data_root)
    return [f"the content of `{name}`" for name in now if before.get(name, now[name]) != now[name]]


def save_history(config: Config, data_root: Path, output: Path, step: int, changes: tuple[str, ...]) -> None:
    """Write the config of a run with all its changes so far, and what its data is."""
    path = output / "config.yaml"
    before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    marks = [line for line in before if line.startswith(_MARK)]
    marks += [f"{_MARK}{step}: {change}" for change in changes]
    save_text(render_config(config) + "".join(f"{mark}\n" for mark in dict.fromkeys(marks)), path)
    save_text(json.dumps(_fingerprints(config, data_root), indent=2) + "\n", output / _DATA_FILE)


def _fingerprints(config: Config, data_root: Path) -> Mapping[str, str]:
    found = {name: load_reports(name, data_root).get("train") for name in config.data}
    return {name: report.fingerprint for name, report in found.items() if report is not None}
