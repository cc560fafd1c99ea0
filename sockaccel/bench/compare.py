"""Two results next to each other: what changed from one to the other. Pure.

Their runs were not made in pairs, so the interval is that of series which are not
paired; what changed on the machine in between is part of what it measures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, ClassVar

from sockaccel.bench.result import ACCELERATED, BASELINE
from sockaccel.bench.stats import MIN_PAIRS, rank_sum_interval
from sockaccel.bench.summary import round_ratios
from sockaccel.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sockaccel.bench.result import Better, CaseResult, Metric, Result

GAIN = f"{ACCELERATED} / {BASELINE}"
TIMES = "x"
"""The unit of a ratio."""
SAME = ("cpu", "cores", "memory_bytes", "kernel", "virtualisation", "governor")
"""What of a machine must be equal, or the comparison is one of machines."""
SAME_PARAMETERS = ("seconds", "quick", "policy")


@dataclass(frozen=True)
class Change:
    """One metric of one arm of a case: B divided by A."""

    derived: ClassVar[tuple[str, ...]] = ("distinguishable",)

    case: str  # "scenario/case"
    arm: str
    metric: str
    label: str  # of the metric, for people
    unit: str
    better: Better
    before: float  # median of A's runs
    after: float  # of B's
    ratio: float  # of the medians
    low: float
    high: float

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes 'no difference'."""
        return not self.low <= 1.0 <= self.high


@dataclass(frozen=True)
class Comparison:
    """All that changed, and why one should not believe it."""

    changes: list[Change]
    doubts: list[str]


def compare(a: Result, b: Result) -> Comparison:
    """Compare the cases that both have and that are valid in both.

    Raises:
        InputError: there is no such case.

    """
    theirs = {case.id: case for case in b.cases}
    pairs = [(case, theirs[case.id]) for case in a.cases if case.id in theirs]
    valid = [(mine, other) for mine, other in pairs if mine.valid and other.valid]
    changes = [change for mine, other in valid for change in _changes(mine, other)]
    if not changes:
        raise InputError(
            f"cannot compare '{a.id}' with '{b.id}': no case is in both of them and valid",
            "sockaccel bench report FILE shows what is in a file",
        )
    return Comparison(changes, [*_differences(a, b), *_cases(a, b)])


def _changes(a: CaseResult, b: CaseResult) -> Iterator[Change]:
    known = {metric.name for metric in b.metrics}
    for arm in a.arms:
        for metric in a.metrics:
            if arm in b.arms and metric.name in known:
                before, after = a.values(arm, metric.name), b.values(arm, metric.name)
                if _comparable(before, after):
                    yield _change(a.id, arm, metric, before, after)
    for metric in a.metrics:
        if metric.name in known:
            before, after = (round_ratios(case, ACCELERATED, BASELINE, metric) for case in (a, b))
            if _comparable(before, after):
                yield _change(a.id, GAIN, replace(metric, unit=TIMES), before, after)


def _comparable(before: Sequence[float], after: Sequence[float]) -> bool:
    """Return whether there is enough of a metric, which a run need not have, for an interval."""
    return min(len(before), len(after)) >= MIN_PAIRS and min(before) > 0


def _change(
    case: str, arm: str, metric: Metric, before: Sequence[float], after: Sequence[float]
) -> Change:
    ratio = median(after) / median(before)
    interval = rank_sum_interval(before, after).including(ratio)
    return Change(
        case=case,
        arm=arm,
        metric=metric.name,
        label=metric.label,
        unit=metric.unit,
        better=metric.better,
        before=median(before),
        after=median(after),
        ratio=ratio,
        low=interval.low,
        high=interval.high,
    )


def _differences(a: Result, b: Result) -> Iterator[str]:
    for what, names, mine, other in (
        ("machines", SAME, a.machine, b.machine),
        ("measurements", SAME_PARAMETERS, a.parameters, b.parameters),
    ):
        for name in names:
            before, after = mine.get(name), other.get(name)
            if before != after:
                yield f"the {what} differ: {name} is {before} in A and {after} in B"


def _cases(a: Result, b: Result) -> Iterator[str]:
    of_a, of_b = ({case.id: case for case in result.cases} for result in (a, b))
    for file, alone in (("A", of_a.keys() - of_b.keys()), ("B", of_b.keys() - of_a.keys())):
        if alone:
            yield f"only in {file}: {', '.join(sorted(alone))}"
    for name in (each for each in of_a if each in of_b):
        mine, other = of_a[name], of_b[name]
        for file, case in (("A", mine), ("B", other)):
            if not case.valid:
                yield f"{name} is INVALID in {file}: {case.all_problems[0]}"
        one, two = ({"topology": case.topology, **case.parameters} for case in (mine, other))
        for key in sorted({*one, *two}):
            before, after = one.get(key), two.get(key)
            if before != after:
                yield f"{name} was not the same: {key} is {before} in A and {after} in B"
