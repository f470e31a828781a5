"""Scores as ratios of sums over items, and their confidence intervals by a bootstrap over images.

Items of the same image (several questions) are correlated, so images are resampled, not items. Source: Efron, "Better
Bootstrap Confidence Intervals" (1987).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVEL = 0.95
_DRAWS_AT_ONCE = 200


@dataclass(frozen=True)
class Ratio:
    """A score: for each of R rows sum(over) / sum(under), averaged over the rows with a nonzero denominator.

    Attributes:
        over, under: (R, N) numerators and denominators, a column per item. A mean has R = 1 and denominators of one; a
            mean over categories has a row per category.
    """

    over: Floats
    under: Floats

    @property
    def value(self) -> float | None:
        """The score of all items; None if all denominators are zero."""
        value = float(quotient(self.over.sum(axis=1)[None], self.under.sum(axis=1)[None])[0])
        return None if np.isnan(value) else value


@dataclass(frozen=True)
class Interval:
    """Confidence interval of a score at `LEVEL`."""

    low: float
    high: float


def mean_of(values: Sequence[float] | Floats, counted: NDArray[np.bool_] | None = None) -> Ratio:
    """The mean of N values, restricted to those where `counted` is True."""
    over = np.asarray(values, dtype=np.float64)
    under = np.ones(len(over)) if counted is None else counted.astype(np.float64)
    return Ratio((over * under)[None], under[None])


def quotient(over: Floats, under: Floats) -> Floats:
    """(S,) scores of S resamples from their (S, R) sums; NaN where all denominators are zero."""
    filled = under > 0
    rows = np.divide(over, under, out=np.zeros_like(over), where=filled)
    count = filled.sum(axis=1)
    scores: Floats = np.divide(rows.sum(axis=1), count, out=np.full(len(rows), np.nan), where=count > 0)
    return scores


def bootstrap(
    ratios: Mapping[str, Ratio], images: Sequence[str], draws: int = 2000, seed: int = 0
) -> Mapping[str, Floats]:
    """Compute scores of `draws` bootstrap resamples of the images (same number, with replacement).

    Args:
        ratios: scores over the same N items. images: the image of each of the N items.

    Returns:
        For each score its (draws,) values, paired: entry `i` of all scores comes from the same resample.
    """
    units = np.unique(np.asarray(images, dtype=str), return_inverse=True)[1] if len(images) else np.zeros(0, dtype=int)
    count = int(units.max()) + 1 if len(units) else 0
    sums = {
        name: [_by_unit(part, units, count) for part in (ratio.over, ratio.under)] for name, ratio in ratios.items()
    }
    rng, found = np.random.default_rng(seed), {name: np.full(draws, np.nan) for name in ratios}
    for start in range(0, draws if count else 0, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, draws - start)
        times = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        for name, (over, under) in sums.items():
            found[name][start : start + size] = quotient(times @ over, times @ under)
    return found


def interval_of(samples: Floats, images: int) -> Interval | None:
    """Percentile interval of bootstrap values, ignoring NaN; None if all are NaN.

    The percentiles are expanded for small samples: plain ones are too narrow by the ratio of the normal to Student's t
    distribution. Source: Hesterberg, "What Teachers Should Know About the Bootstrap" (2015).

    Args:
        samples: values of one score from `bootstrap`.
        images: number of distinct images.
    """
    known = samples[~np.isnan(samples)]
    if not len(known):
        return None
    freedom = max(images - 1, 1)
    normal = NormalDist().inv_cdf((1 - LEVEL) / 2)
    student = normal * (1 + (normal**2 + 1) / (4 * freedom))
    tail = NormalDist().cdf(student * math.sqrt(1 + 1 / freedom))
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _by_unit(values: Floats, units: NDArray[np.intp], count: int) -> Floats:
    """Sum (R, N) values of items per image, (count, R)."""
    sums = np.zeros((count, len(values)))
    np.add.at(sums, units, values.T)
    return sums
