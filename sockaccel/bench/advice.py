"""What makes a result less certain than it could be: a number, its cause, a next step. Pure."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import mean, stdev
from typing import TYPE_CHECKING

from sockaccel.bench.result import BASELINE, Advice, CaseResult, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sockaccel.bench.result import Cpu

# Shares from which a reader should know.
NOISY = 0.05  # standard deviation of the baseline's runs
WIDE = 0.05  # half an interval, where it tells no difference
VERY_WIDE = 0.10  # half an interval, where it does
STOLEN = 0.01  # of the machine's processor time
BUSY = 0.05  # of the machine's processor time
MAX_PAIRS = 100  # more is not worth advising


def with_advice(result: Result) -> Result:
    """Return a result with its warnings, those of each case included."""
    cases = [replace(case, warnings=list(_of_case(case))) for case in result.cases]
    return replace(result, cases=cases, warnings=list(_of_machine(result)))


def _of_case(case: CaseResult) -> Iterator[Advice]:
    if not case.valid:
        return
    yield from _noise(case)
    yield from _width(case)


def _noise(case: CaseResult) -> Iterator[Advice]:
    metric = case.metrics[0]
    values = case.values(BASELINE, metric.name)
    if len(values) < 2 or not mean(values) > 0:
        return
    spread = stdev(values) / mean(values)
    if spread > NOISY:
        yield Advice(
            kind="noisy-host",
            value=spread,
            finding=f"The standard deviation of {len(values)} baseline runs of {metric.label}"
            f" is {spread:.1%}",
            cause="Other work on this machine or its host, or runs that are too short",
            next_step="Measure again on a quieter machine, or with a longer --seconds",
        )


def _width(case: CaseResult) -> Iterator[Advice]:
    """Warn of an interval so wide that more pairs are worth their time."""
    ratio = case.gain(case.metrics[0].name)
    if ratio is None or not ratio.median:
        return
    half = (ratio.high - ratio.low) / 2 / ratio.median
    allowed = VERY_WIDE if ratio.distinguishable else WIDE
    if half > allowed:
        # The width falls with the square root of the number of pairs.
        wanted = min(math.ceil(ratio.pairs * (half / allowed) ** 2), MAX_PAIRS)
        yield Advice(
            kind="few-runs",
            value=half,
            finding=f"{ratio.pairs} pairs leave the ratio uncertain by {half:.1%} to either side",
            cause="Too few runs for the noise of this machine",
            next_step=f"Measure again with --pairs {wanted}",
        )


def _of_machine(result: Result) -> Iterator[Advice]:
    cores = result.machine.get("cores")
    runs = [run for case in result.cases for run in case.runs if run.cpu and not run.warm_up]
    used = [run.cpu for run in runs if run.cpu]
    available = sum(run.seconds for run in runs) * cores if isinstance(cores, int) else 0.0
    yield from _share(
        used,
        available,
        lambda cpu: cpu.steal_seconds,
        STOLEN,
        Advice(
            kind="cpu-steal",
            value=0.0,
            finding="of the processor time was taken by the hypervisor",
            cause="Other virtual machines on the same host, or a limit on this one",
            next_step="Measure at another time, or on a machine of its own",
        ),
    )
    yield from _share(
        used,
        available,
        lambda cpu: cpu.other_seconds,
        BUSY,
        Advice(
            kind="other-load",
            value=0.0,
            finding="of the processor time went to processes that were not measured",
            cause="Something else runs on this machine",
            next_step="Stop what top shows beside the benchmark, then measure again",
        ),
    )
    yield from _frequency(result)


def _share(
    used: Sequence[Cpu],
    available: float,
    seconds: Callable[[Cpu], float],
    allowed: float,
    advice: Advice,
) -> Iterator[Advice]:
    share = sum(map(seconds, used)) / available if available else 0.0
    if share > allowed:
        yield replace(advice, value=share, finding=f"{share:.1%} {advice.finding}")


def _frequency(result: Result) -> Iterator[Advice]:
    governor = result.machine.get("governor")
    range_mhz = result.machine.get("frequency_mhz")
    if governor in (None, "performance") or not isinstance(range_mhz, list):
        return
    low, high = range_mhz
    if low < high:
        yield Advice(
            kind="frequency-scaling",
            value=high / low,
            finding=f"The cores may run at {low:,.0f} to {high:,.0f} MHz (governor {governor})",
            cause="The kernel changes their frequency with the load",
            next_step="cpupower frequency-set -g performance, then measure again",
        )
