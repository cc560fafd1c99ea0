"""What the statistics can tell at the noise of recorded runs: false alarms, and what is found.

Draws comparisons of an arm's runs with themselves, and counts how often a difference
is called where there is none, and how often a slow-down that was put in is found.
Neighbouring runs are drawn together, as the runs of a pair are made; which of the two
is "before" is chosen at random, as their order is. Pure.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING

from sockaccel.bench.result import BASELINE, Better
from sockaccel.bench.stats import summarise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sockaccel.bench.result import CaseResult, Metric

MIN_RUNS = 20
TRIALS = 200
MAX_FALSE = 0.08
MIN_FOUND = 0.80
LADDER = (6, 8, 10, 12, 15, 20, 25, 30, 40)
SEED = 1


@dataclass(frozen=True)
class Power:
    """The shares of comparisons that call a difference."""

    pairs: int
    false_alarms: float  # where there is none
    found: float  # where one arm was made slower

    @property
    def enough(self) -> bool:
        """Whether false alarms are few and the slow-down is found."""
        return self.false_alarms <= MAX_FALSE and self.found >= MIN_FOUND


@dataclass(frozen=True)
class CasePower:
    """What can be told of a case's first metric, from its baseline runs."""

    case: str  # "scenario/case"
    metric: Metric
    runs: int
    spread: float  # standard deviation, as a share of the mean
    power: Power  # with as many pairs as there are runs, or as was asked for
    needed: int | None  # the fewest pairs that are enough; None: more than 40


def power(runs: Sequence[float], pairs: int, slow_down: float, better: Better) -> Power:
    """Return what 200 comparisons of so many pairs call, drawn from runs in their order.

    slow_down: 0.05 means a throughput 5 % lower, or a time 5 % longer.

    Raises:
        ValueError: there are fewer than two runs, or fewer than six pairs.

    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} runs: a comparison needs two")
    rng = random.Random(SEED)
    neighbours = list(zip(runs[::2], runs[1::2], strict=False))
    factor = 1 - slow_down if better is Better.HIGHER else 1 + slow_down
    false_alarms = found = 0
    for _ in range(TRIALS):
        drawn = [rng.sample(couple, 2) for couple in rng.choices(neighbours, k=pairs)]
        ratios = [after / before for before, after in drawn]
        false_alarms += summarise(ratios).distinguishable
        slowed = summarise([ratio * factor for ratio in ratios])
        # Found as what it is: a gain would be a false alarm.
        found += slowed.distinguishable and (slowed.median > 1) == (factor > 1)
    return Power(pairs, false_alarms / TRIALS, found / TRIALS)


def power_of_case(case: CaseResult, pairs: int | None, slow_down: float) -> CasePower:
    """Return what can be told of a case; pairs: as many as it has baseline runs, if None.

    Raises:
        ValueError: there are fewer than twenty baseline runs, or one that is not positive.

    """
    metric = case.metrics[0]
    runs = case.values(BASELINE, metric.name)
    if len(runs) < MIN_RUNS:
        raise ValueError(f"{len(runs)} baseline runs, at least {MIN_RUNS} are needed")
    if min(runs) <= 0:
        raise ValueError("a baseline run measured nothing")
    steps = (power(runs, each, slow_down, metric.better) for each in LADDER)
    return CasePower(
        case=case.id,
        metric=metric,
        runs=len(runs),
        spread=stdev(runs) / mean(runs),
        power=power(runs, pairs or len(runs), slow_down, metric.better),
        needed=next((each.pairs for each in steps if each.enough), None),
    )
