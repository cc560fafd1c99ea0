"""Statistics of measurements that are few. Pure: no I/O, no clock, no randomness.

The intervals are those of rank tests on the logarithms of what was measured: of
Wilcoxon's signed-rank test for pairs, of the Mann-Whitney test for two series that
are not paired (Hodges and Lehmann, 1963). They cover what they say at any number of
runs, where a percentile bootstrap of the median that says 95 % covers 92 % at six
pairs; and they assume no more of the noise than that arms which do the same are
exchangeable, which the random order of the runs makes true. From twelve pairs on, a
single wild run does not move them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, combinations_with_replacement
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LEVEL = 0.95
BEYOND = 40
"""One in so many outcomes may lie beyond either end of an interval of that level."""
MIN_PAIRS = 6
"""With fewer, no interval of ranks reaches the level: five equal signs are 1 in 16."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float
    level: float

    def including(self, value: float) -> Interval:
        """Return it widened to hold a value.

        A median can be outside where more than 21 ratios are very skewed; a claim that
        one of the two denies is not made.
        """
        return Interval(min(self.low, value), max(self.high, value), self.level)


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
    _all_positive(before)
    return [b / a for a, b in zip(before, after, strict=True)]


def _all_positive(before: Sequence[float]) -> None:
    if any(value <= 0 for value in before):
        raise ValueError("a ratio to a measurement that is not positive")


def signed_rank_interval(ratios: Sequence[float]) -> Interval:
    """Return the interval of the centre of paired ratios, at 95 %.

    Raises:
        ValueError: there are fewer than six, or a negative one.

    """
    if len(ratios) < MIN_PAIRS:
        raise ValueError(f"{len(ratios)} pairs: at least {MIN_PAIRS} are needed")
    # Walsh averages of the logarithms, as geometric means: a ratio may be 0.
    means = sorted(math.sqrt(a * b) for a, b in combinations_with_replacement(ratios, 2))
    return _middle(means, _signed_rank_counts(len(ratios)))


def rank_sum_interval(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Return the interval of after/before for two series that are not paired, at 95 %.

    Raises:
        ValueError: there are too few values for 95 %, or one that is not positive.

    """
    _all_positive(before)
    ratios = sorted(b / a for a in before for b in after)
    return _middle(ratios, _rank_sum_counts(len(before), len(after)))


def _middle(ordered: Sequence[float], counts: Sequence[int]) -> Interval:
    """Return the interval that leaves out as much at both ends as the level allows.

    counts: in how many of the equally likely outcomes of a rank test its statistic is
    0, 1, 2, ...; it is the number of the ordered values that are on one side of 1.
    """
    every = sum(counts)
    left_out = sum(tail * BEYOND <= every for tail in accumulate(counts))
    if left_out == 0:
        raise ValueError("too few measurements for an interval")
    return Interval(ordered[left_out - 1], ordered[-left_out], LEVEL)


@cache
def _signed_rank_counts(pairs: int) -> Sequence[int]:
    """Return how many of the 2^n choices of signs give each sum of positive ranks."""
    counts = [1]
    for rank in range(1, pairs + 1):
        counts = [sum(pair) for pair in zip(counts + [0] * rank, [0] * rank + counts, strict=True)]
    return counts


@cache
def _rank_sum_counts(first: int, second: int) -> Sequence[int]:
    """Return how many of the orders of two series give each Mann-Whitney count.

    These are the coefficients of the Gaussian binomial: the product of
    (1 - q^(second + i)) / (1 - q^i) for i from 1 to first.
    """
    size = first * second + 1
    counts = [1] + [0] * (size - 1)
    for step in range(1, first + 1):
        for index in range(size - 1, second + step - 1, -1):
            counts[index] -= counts[index - second - step]
        for index in range(step, size):
            counts[index] += counts[index - step]
    return counts


def summarise(ratios: Sequence[float]) -> RatioSummary:
    """Summarise the ratios of pairs of runs.

    Raises:
        ValueError: there are fewer than six.

    """
    return RatioSummary(
        median=median(ratios),
        minimum=min(ratios),
        maximum=max(ratios),
        interval=signed_rank_interval(ratios).including(median(ratios)),
    )
