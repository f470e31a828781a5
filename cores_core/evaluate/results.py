"""A finished evaluation: items, scores and provenance.

<folder>/results.json   scores and intervals, by part and category; protocol, model, seed, data, versions, command
<folder>/items.jsonl    a row per query, from which all scores can be recomputed
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cores_core.choices import rename_protocol
from cores_core.errors import DataError, reason_of
from cores_core.evaluate.calibration import Calibration, calibrate
from cores_core.evaluate.items import Item, load_items, save_items
from cores_core.evaluate.scores import Scores, score_items
from cores_core.files import read_json, save_text

RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class Evaluation:
    """Items of an evaluation with their provenance.

    Attributes:
        items: in the order of the benchmark.
        about: benchmark, protocol, model, seed, data_root, data (fingerprint by part), warnings (a list of sentences),
            versions, command; all JSON values.
    """

    items: tuple[Item, ...]
    about: Mapping[str, Any]

    @cached_property
    def scores(self) -> Scores:
        """The scores of all items."""
        return score_items(self.items)

    @cached_property
    def calibration(self) -> tuple[Calibration, ...]:
        """Each confidence of the items against their IoU."""
        return calibrate(self.items)

    @cached_property
    def parts(self) -> Mapping[str, Scores]:
        """Scores by part (data set and split); empty if there is only one part."""
        names = list(dict.fromkeys(item.part for item in self.items))
        if len(names) < 2:
            return {}
        return {name: score_items([item for item in self.items if item.part == name]) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Content of `results.json`: scores by name at the top level, null if there are no items to score."""
        tree = self.scores.to_json()
        parts = {name: scores.to_json() for name, scores in self.parts.items()}
        calibration = {one.name: {"error": one.error, "rank_correlation": one.correlation} for one in self.calibration}
        return {**tree.pop("values"), **tree, "parts": parts, "calibration": calibration, **self.about}


def save_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write `items.jsonl`, then `results.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_items(evaluation.items, folder)
    save_text(json.dumps(evaluation.to_json(), indent=2) + "\n", folder / RESULTS_FILE)


def load_evaluation(folder: Path) -> Evaluation:
    """Read an evaluation written by `save_evaluation`.

    Raises:
        DataError: it is missing, unfinished or damaged.
    """
    items, path = load_items(folder), folder / RESULTS_FILE
    try:
        tree = read_json(path)
        if not isinstance(tree, dict):
            raise ValueError("not a JSON object")
        if not isinstance(tree.get("data_root", ""), str) or not isinstance(tree.get("data", {}), dict):
            raise ValueError("`data_root` must be a text and `data` an object")
    except (OSError, ValueError) as error:
        raise DataError(f"no results in: {folder} ({reason_of(error)})", hint="finish it with `cores eval`") from error
    about = {**tree, "protocol": rename_protocol(tree.get("protocol"))}
    known = {*score_items([], draws=0).values, "count", "images", "intervals", "categories", "parts", "calibration"}
    return Evaluation(tuple(items), {key: value for key, value in about.items() if key not in known})
