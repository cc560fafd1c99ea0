from __future__ import annotations

import math
import random
from itertools import combinations_with_replacement
from statistics import median

import pytest

from sockaccel.bench.stats import (
    Interval,
    RatioSummary,
    paired_ratios,
    rank_sum_interval,
    signed_rank_interval,
    summarise,
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


def test_median_ratio_is_of_the_pairs_and_not_of_the_medians() -> None:
    # The medians are 30 and 35; the pairs' ratios are 3, 1, 1/3, 2, 2 and 2.
    summary = summarise(paired_ratios([10, 30, 90, 20, 40, 30], [30, 30, 30, 40, 80, 60]))
    assert summary.median == 2.0
    assert (summary.minimum, summary.maximum) == (pytest.approx(1 / 3), 3.0)


def test_equal_ratios_leave_no_interval() -> None:
    assert signed_rank_interval([1.8] * 6) == Interval(1.8, 1.8, 0.95)


# Critical values of Wilcoxon's signed-rank test, two-sided 5 %, from its published tables: the
# interval is between the Walsh averages that come next.
@pytest.mark.parametrize(
    ("pairs", "critical"), [(6, 0), (7, 2), (8, 3), (9, 5), (10, 8), (15, 25), (20, 52), (25, 89)]
)
def test_interval_of_pairs_begins_after_the_critical_value_of_the_table(
    pairs: int, critical: int
) -> None:
    rng = random.Random(pairs)
    ratios = [math.exp(rng.gauss(0, 0.1)) for _ in range(pairs)]
    means = sorted(math.sqrt(a * b) for a, b in combinations_with_replacement(ratios, 2))
    interval = signed_rank_interval(ratios)
    assert (interval.low, interval.high) == (means[critical], means[-1 - critical])


def test_interval_of_six_pairs_is_their_range() -> None:
    assert signed_rank_interval([1.1, 1.3, 0.9, 1.2, 1.0, 1.4]) == Interval(0.9, 1.4, 0.95)


def test_interval_may_begin_at_nothing() -> None:
    assert signed_rank_interval([0.0, 0.0, 0.5, 0.5, 0.5, 0.5]).low == 0.0


def test_fewer_than_six_pairs_have_no_interval() -> None:
    with pytest.raises(ValueError, match="5 pairs: at least 6"):
        signed_rank_interval([1.0] * 5)


# Critical values of the Mann-Whitney test, two-sided 5 %, from its published tables.
@pytest.mark.parametrize(
    ("first", "second", "critical"),
    [(4, 4, 0), (6, 6, 5), (6, 10, 11), (8, 8, 13), (10, 10, 23), (20, 20, 127)],
)
def test_interval_without_pairs_begins_after_the_critical_value_of_the_table(
    first: int, second: int, critical: int
) -> None:
    rng = random.Random(first)
    before, after = ([rng.uniform(1, 2) for _ in range(n)] for n in (first, second))
    ratios = sorted(b / a for a in before for b in after)
    interval = rank_sum_interval(before, after)
    assert (interval.low, interval.high) == (ratios[critical], ratios[-1 - critical])


def test_too_few_runs_without_pairs_have_no_interval() -> None:
    with pytest.raises(ValueError, match="too few"):
        rank_sum_interval([1, 2, 3], [1, 2, 3])


def test_one_wild_run_does_not_move_the_interval_of_twelve() -> None:
    ratios = [1.5 + n / 1000 for n in range(11)]
    for wild in (0.001, 1000.0):
        interval = signed_rank_interval([*ratios, wild])
        assert min(ratios) <= interval.low < interval.high <= max(ratios)


TRIALS = 2000
# Three standard errors of a share of 95 % in so many trials.
DOUBT = 3 * math.sqrt(0.95 * 0.05 / TRIALS)


def noisy(rng: random.Random, runs: int, spread: float = 0.05) -> list[float]:
    return [math.exp(rng.gauss(0, spread)) for _ in range(runs)]


def noisy_ratios(rng: random.Random, pairs: int) -> list[float]:
    return paired_ratios(noisy(rng, pairs), [1.7 * value for value in noisy(rng, pairs)])


@pytest.mark.parametrize("pairs", [6, 10, 20])
def test_95_percent_intervals_of_pairs_cover_the_true_ratio(pairs: int) -> None:
    rng = random.Random(pairs)
    intervals = [summarise(noisy_ratios(rng, pairs)).interval for _ in range(TRIALS)]
    covered = sum(each.low <= 1.7 <= each.high for each in intervals) / TRIALS
    # Ranks are whole numbers: the next deeper interval would cover less than 95 %.
    assert 0.95 - DOUBT <= covered <= 0.97 + DOUBT


def test_a_percentile_bootstrap_of_the_median_would_cover_too_little_at_six_pairs() -> None:
    """The reason for ranks: what says 95 % must cover it at the number of pairs that is used."""
    rng = random.Random(6)
    trials, resamples, covered = 1000, 400, 0
    for _ in range(trials):
        ratios = [b / a for a, b in zip(noisy(rng, 6), noisy(rng, 6), strict=True)]
        medians = sorted(median(rng.choices(ratios, k=6)) for _ in range(resamples))
        tail = resamples // 40
        covered += medians[tail] <= 1 <= medians[-1 - tail]
    assert 0.88 < covered / trials < 0.94


@pytest.mark.parametrize("runs", [6, 10, 20])
def test_95_percent_intervals_without_pairs_cover_the_true_ratio(runs: int) -> None:
    rng = random.Random(runs)
    intervals = [
        rank_sum_interval(noisy(rng, runs), [1.7 * value for value in noisy(rng, runs)])
        for _ in range(TRIALS)
    ]
    covered = sum(each.low <= 1.7 <= each.high for each in intervals) / TRIALS
    assert 0.95 - DOUBT <= covered <= 0.97 + DOUBT


def test_interval_is_widened_to_a_median_that_skewed_ratios_have_outside() -> None:
    ratios = [1.0 - n / 1000 for n in range(1, 21)] + [50.0] * 19
    assert signed_rank_interval(ratios).low > median(ratios)
    summary = summarise(ratios)
    assert summary.interval.low == summary.median < 1
    assert not summary.distinguishable


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1.01, 1.2, True), (0.8, 0.99, True), (0.99, 1.01, False), (1.0, 1.2, False)],
)
def test_a_difference_is_told_only_when_the_interval_excludes_one(
    low: float, high: float, expected: bool
) -> None:
    assert RatioSummary(1.1, 0.5, 2.0, Interval(low, high, 0.95)).distinguishable is expected
