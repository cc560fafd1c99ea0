"""Exact histograms: [value, count] pairs in ascending order. Pure."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Histogram = Sequence[tuple[float, int]]


def merge(histograms: Iterable[Histogram]) -> list[tuple[float, int]]:
    """Return one histogram of all values."""
    counts: Counter[float] = Counter()
    for histogram in histograms:
        for value, count in histogram:
            counts[value] += count
    return sorted(counts.items())


def percentiles(histogram: Histogram, shares: Sequence[float]) -> list[float]:
    """Return, for each share (0 to 1, ascending), the least value that so many do not exceed.

    Raises:
        ValueError: the histogram counts nothing.

    """
    total = sum(count for _, count in histogram)
    if not total:
        raise ValueError("percentiles of no values")
    found: list[float] = []
    for (value, _), reached in zip(
        histogram, accumulate(count for _, count in histogram), strict=True
    ):
        while len(found) < len(shares) and reached >= shares[len(found)] * total:
            found.append(value)
    # A share of 1 may round to more than all.
    return found + [histogram[-1][0]] * (len(shares) - len(found))
