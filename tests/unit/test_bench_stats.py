from __future__ import annotations

import random
from itertools import product
from statistics import median

import pytest

from sockaccel.bench.stats import (
    Interval,
    RatioSummary,
    bootstrap_median,
    paired_ratios,
    quantile,
    summarise_ratios,
)


def test_ratios_are_after_divided_by_before_pair_by_pair() -> None:
    assert paired_ratios([10, 20, 40], [20, 30, 20]) == [2.0, 1.5, 0.5]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [([1], [1, 2], "not pairs"), ([1, 0], [1, 1], "not positive"), ([-1], [1], "not positive")],
)
def test_what_has_no_ratio_is_refused(before: list[float], after: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        paired_ratios(before, after)


@pytest.mark.parametrize(
    ("fraction", "value"), [(0, 10), (0.25, 12.5), (0.5, 15), (0.75, 17.5), (1, 20)]
)
def test_quantile_is_linear_between_neighbours(fraction: float, value: float) -> None:
    assert quantile([10, 20], fraction) == value


def test_median_ratio_is_of_the_pairs_and_not_of_the_medians() -> None:
    # The medians are 30 and 30; the pairs' ratios are 3, 1 and 1/3, 2, 2.
    summary = summarise_ratios([10, 30, 90, 20, 40], [30, 30, 30, 40, 80], seed=1)
    assert summary.median == 2.0
    assert (summary.minimum, summary.maximum) == (pytest.approx(1 / 3), 3.0)


def test_equal_ratios_leave_no_interval() -> None:
    assert bootstrap_median([2.0] * 6, seed=5) == Interval(2.0, 2.0, 0.95)


def test_interval_is_decided_by_the_seed() -> None:
    values = [random.Random(3).gauss(1, 0.1) for _ in range(9)]
    assert bootstrap_median(values, seed=7) == bootstrap_median(values, seed=7)
    few = [bootstrap_median([1.0, 2.0, 3.0, 5.0], seed=seed, resamples=5) for seed in range(20)]
    assert len(set(few)) > 1


def test_interval_matches_the_complete_bootstrap_of_three_values() -> None:
    values = [1.0, 2.0, 4.0]
    every = sorted(median(drawn) for drawn in product(values, repeat=3))
    for level in (0.95, 0.6, 0.4):
        interval = bootstrap_median(values, seed=2, level=level)
        tail = (1 - level) / 2
        assert (interval.low, interval.high) == (quantile(every, tail), quantile(every, 1 - tail))


def test_95_percent_intervals_cover_the_true_median_about_as_often() -> None:
    rng = random.Random(11)
    trials, covered = 200, 0
    for trial in range(trials):
        drawn = [rng.gauss(10, 1) for _ in range(15)]
        interval = bootstrap_median(drawn, seed=trial, resamples=500)
        covered += interval.low <= 10 <= interval.high
    assert 0.88 <= covered / trials <= 0.995


def test_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap_median([], seed=1)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1.01, 1.2, True), (0.8, 0.99, True), (0.99, 1.01, False), (1.0, 1.2, False)],
)
def test_a_difference_is_told_only_when_the_interval_excludes_one(
    low: float, high: float, expected: bool
) -> None:
    assert RatioSummary(1.1, 0.5, 2.0, Interval(low, high, 0.95)).distinguishable is expected
