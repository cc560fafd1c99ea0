"""What the runs of a case add up to. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sockaccel.bench.result import ACCELERATED, BASELINE, CaseResult, Metric, Ratio
from sockaccel.bench.stats import MIN_PAIRS, paired_ratios, summarise

if TYPE_CHECKING:
    from collections.abc import Iterator


def conclude(case: CaseResult) -> CaseResult:
    """Return a case with the ratios of its runs, or with the problem that forbids them.

    One run that does not count takes the case with it: what went wrong once may
    have been wrong unseen before.
    """
    if case.problems or not all(run.valid for run in case.runs):
        return replace(case, ratios=[])
    rounds = len(_rounds(case, case.arms))
    if rounds < MIN_PAIRS:
        problem = f"{rounds} rounds were completed, a ratio needs {MIN_PAIRS}"
        return replace(case, ratios=[], problems=[problem])
    return replace(case, ratios=list(_ratios(case)))


def _rounds(case: CaseResult, arms: list[str]) -> list[int]:
    """Return the rounds in which every one of these arms has run."""
    return sorted(set.intersection(*({run.round for run in case.of_arm(arm)} for arm in arms)))


def _comparisons(arms: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (arm, to): everything next to plain TCP, then sockaccel next to everything else."""
    for arm in arms:
        if arm != BASELINE and BASELINE in arms:
            yield arm, BASELINE
    for arm in arms:
        if arm not in (BASELINE, ACCELERATED) and ACCELERATED in arms:
            yield ACCELERATED, arm


def round_ratios(case: CaseResult, arm: str, to: str, metric: Metric) -> list[float]:
    """Return arm divided by to, round by round; nothing where there is no such ratio.

    There is none to nothing, nor of what an arm does not have (a Unix socket no packets).
    """
    rounds = _rounds(case, [arm, to])
    before, after = (
        [
            run.metrics[metric.name]
            for run in case.of_arm(each)
            if run.round in rounds and metric.name in run.metrics
        ]
        for each in (to, arm)
    )
    if not len(before) == len(after) == len(rounds) or not all(value > 0 for value in before):
        return []
    return paired_ratios(before, after)


def _ratios(case: CaseResult) -> Iterator[Ratio]:
    for metric in case.metrics:
        for arm, to in _comparisons(case.arms):
            ratios = round_ratios(case, arm, to, metric)
            if ratios:
                summary = summarise(ratios)
                yield Ratio(
                    arm=arm,
                    to=to,
                    metric=metric.name,
                    median=summary.median,
                    low=summary.interval.low,
                    high=summary.interval.high,
                    level=summary.interval.level,
                    minimum=summary.minimum,
                    maximum=summary.maximum,
                    pairs=len(ratios),
                )
