"""Write the model card of a checkpoint: README.md for the hub, with the scores of an evaluation in `model-index`.

Source: the hub's model card metadata (huggingface_hub.ModelCardData).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from cores_core.choices import rename_protocol
from cores_core.config import Config
from cores_core.errors import DataError, reason_of
from cores_core.files import read_json

RESULTS_FILE = "results.json"
LIBRARY, TASK = "cores", "image-segmentation"
_METRICS = {
    "giou": "gIoU",
    "ciou": "cIoU",
    "ciou_small": "cIoU, small targets",
    "ciou_medium": "cIoU, medium targets",
    "ciou_large": "cIoU, large targets",
    "miou": "mIoU",
}
"""Scores of `results.json` that a card lists, with their names in the field."""


@dataclass(frozen=True)
class CardFacts:
    """What a card states beyond the checkpoint itself.

    Attributes:
        results: content of an evaluation's `results.json`; None for no scores.
        licence: an identifier of the hub, such as apache-2.0; None if it is not stated.
        base_model: hub id of the model that it was trained from; None if it has none on the hub.
    """

    results: Mapping[str, Any] | None = None
    licence: str | None = None
    base_model: str | None = None


def load_results(folder: Path) -> dict[str, Any]:
    """Read `results.json` of an evaluation.

    Raises:
        DataError: it is missing or damaged.
    """
    path = folder / RESULTS_FILE
    try:
        tree = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"no results in: {folder} ({reason_of(error)})", hint="finish the evaluation with `cores eval`"
        ) from error
    if not isinstance(tree, dict) or "benchmark" not in tree or "protocol" not in tree:
        raise DataError(f"not the results of an evaluation: {path}", hint="give the folder of a `cores eval`")
    return tree | {"protocol": rename_protocol(tree["protocol"])}


def render_card(name: str, config: Config, about: Mapping[str, Any], facts: CardFacts) -> str:
    """The text of README.md: metadata in YAML, then what the model is, how to use it, its scores.

    Args:
        name: hub id of the model.
        about: content of checkpoint.json.
    """
    data = ModelCardData(
        base_model=facts.base_model,
        eval_results=_eval_results(facts.results) if facts.results else None,
        library_name=LIBRARY,
        license=facts.licence,
        model_name=name.split("/")[-1],
        pipeline_tag=TASK,
        tags=["reasoning-segmentation"],
    )
    trained_on = ", ".join(map(str, about.get("data", ()))) or "not stated"
    chain = f"{config.chain.stages} stages, {'with' if config.chain.refiner else 'without'} refiner"
    rows = {
        "base model": facts.base_model or "not stated",
        "trained on": f"{trained_on}; {about.get('step', 'unknown')} steps",
        "chain": chain,
        "prompts": f"context {config.context}, wording {config.wording}, conversation {config.conversation}",
        "licence": facts.licence or "not stated",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    scores = _render_scores(facts.results) if facts.results else "No evaluation was published with it.\n"
    return f"""---
{data.to_yaml()}
---

# {name}

A checkpoint of `cores`, for reasoning segmentation: it answers a question about an image with a mask.

```sh
cores predict photo.jpg "Which part steers it?" --model {name}
```

```python
from cores_core.predict import Predictor

prediction = Predictor.from_checkpoint("{name}").predict("photo.jpg", "Which part steers it?")
```

| | |
|---|---|
{table}

## Scores

{scores}"""


def _values(results: Mapping[str, Any]) -> dict[str, float]:
    """The scores that a card lists, in percent, by key of `_METRICS`."""
    return {key: round(100 * results[key], 2) for key in _METRICS if results.get(key) is not None}


def _protocol(results: Mapping[str, Any]) -> dict[str, Any]:
    """How the scores came about, without paths of the machine."""
    keys = ("protocol", "context", "dtype", "seed", "limit", "count", "images", "data")
    return {key: results[key] for key in keys if results.get(key) is not None}


def _eval_results(results: Mapping[str, Any]) -> list[EvalResult]:
    benchmark, intervals = str(results["benchmark"]), results.get("intervals", {})
    splits = ", ".join(results.get("data", {}))
    found = []
    for key, value in _values(results).items():
        interval = intervals.get(key)
        bounds = [round(100 * interval[end], 2) for end in ("low", "high")] if interval else None
        found.append(
            EvalResult(
                task_type=TASK,
                dataset_type=benchmark,
                dataset_name=f"{results.get('title', benchmark)} ({splits})" if splits else benchmark,
                dataset_args=_protocol(results),
                metric_type=key,
                metric_name=_METRICS[key],
                metric_value=value,
                metric_args={"interval_95": bounds} if bounds else None,
            )
        )
    return found


def _render_scores(results: Mapping[str, Any]) -> str:
    facts = "; ".join(f"{key} {value}" for key, value in _protocol(results).items() if not isinstance(value, dict))
    lines = [f"{results.get('title', results['benchmark'])}: {facts}. In percent.", "", "| score | value | 95 % |"]
    lines.append("|---|---|---|")
    for key, value in _values(results).items():
        interval = results.get("intervals", {}).get(key)
        bounds = f"{100 * interval['low']:.2f}-{100 * interval['high']:.2f}" if interval else ""
        lines.append(f"| {_METRICS[key]} | {value:.2f} | {bounds} |")
    lines += ["", *(f"- data {name}: {digest}" for name, digest in results.get("data", {}).items())]
    lines += [f"- {warning}" for warning in results.get("warnings", ())]
    return "\n".join(lines) + "\n"
