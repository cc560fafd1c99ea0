"""Statistics of paired measurements. Pure: no I/O, no clock, no hidden randomness."""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LEVEL = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float
    level: float


@dataclass(frozen=True)
class RatioSummary:
    """After divided by before, over pairs of runs that were made next to each other."""

    median: float
    minimum: float
    maximum: float
    interval: Interval

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes 'no difference'."""
        return not self.interval.low <= 1.0 <= self.interval.high


def paired_ratios(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Return after/before for each pair; ValueError if there is no such ratio."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} samples before, {len(after)} after: not pairs")
    if any(value <= 0 for value in before):
        raise ValueError("a ratio to a measurement that is not positive")
    return [b / a for a, b in zip(before, after, strict=True)]


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """Return a quantile of sorted values, linear between neighbours."""
    position = fraction * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def bootstrap_median(
    values: Sequence[float],
    *,
    seed: int,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the percentile bootstrap interval of the median of values."""
    if not values:
        raise ValueError("an interval of no values")
    rng = random.Random(seed)
    medians = sorted(median(rng.choices(values, k=len(values))) for _ in range(resamples))
    tail = (1 - level) / 2
    return Interval(quantile(medians, tail), quantile(medians, 1 - tail), level)


def summarise_ratios(before: Sequence[float], after: Sequence[float], *, seed: int) -> RatioSummary:
    """Summarise the paired ratios of two series of measurements."""
    ratios = paired_ratios(before, after)
    return RatioSummary(
        median=median(ratios),
        minimum=min(ratios),
        maximum=max(ratios),
        interval=bootstrap_median(ratios, seed=seed),
    )
