"""Published scores of other systems, shown beside an evaluation: `published.yaml`, with source and protocol of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml


@dataclass(frozen=True)
class PublishedScore:
    """Scores of a system on one split.

    Attributes:
        benchmark: a name in `BENCHMARKS`. part: data set and split, as "mmr/val".
        scores: by name, 0-1. protocol: how they were measured, as far as it is stated. source: where they are.
    """

    benchmark: str
    part: str
    system: str
    scores: Mapping[str, float]
    protocol: str
    source: str


@cache
def published_scores() -> tuple[PublishedScore, ...]:
    """All published scores, in the order of the file."""
    text = (files("cores_core.evaluate") / "published.yaml").read_text(encoding="utf-8")
    return tuple(
        PublishedScore(
            table["benchmark"],
            f"{table['data']}/{split}",
            system,
            {name: value / 100 for name, value in zip(table["columns"], values, strict=True) if value is not None},
            table["protocol"],
            table["source"],
        )
        for table in yaml.safe_load(text)
        for system, splits in table["systems"].items()
        for split, values in splits.items()
    )


def find_published(benchmark: str, parts: Sequence[str]) -> list[PublishedScore]:
    """Published scores of a benchmark on these parts."""
    return [score for score in published_scores() if score.benchmark == benchmark and score.part in parts]
