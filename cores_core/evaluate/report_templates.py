"""Jinja2 environment of the report: everything is escaped, and a name that a template does not know is an error."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cores_core.evaluate.scores import Scores


def percent(share: float | None) -> str:
    """A share (0-1) in percent with one decimal, or a dash for None."""
    return "–" if share is None else f"{100 * share:.1f}"


def between(scores: Scores, name: str) -> str:
    """The 95 % interval of a score in percent, or a dash if there is none."""
    interval = scores.intervals.get(name)
    return "–" if interval is None else f"{percent(interval.low)} to {percent(interval.high)}"


def _round(value: Any) -> Any:
    """Floats, which are coordinates, with two decimals and no trailing zeros; other values unchanged."""
    return f"{round(value, 2):g}" if isinstance(value, float) else value


ENVIRONMENT = Environment(
    loader=PackageLoader("cores_core.evaluate"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_round,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters.update(percent=percent, between=between)
