"""Pairs of runs: their order, when they count, and what they add up to. Pure.

A pair is one run of each arm, next to each other in time; the arms differ in
exactly one thing. A pair counts only if the counters prove that the accelerated
arm was redirected and the baseline was not: a measurement that did not measure
what it says is invalid, never "0 % faster".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import TYPE_CHECKING

from sockaccel.bench import arms
from sockaccel.bench.stats import RatioSummary, summarise_ratios

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from sockaccel.bench.accelerator import Counters
    from sockaccel.bench.wrk import WrkReport


class Arm(StrEnum):
    """What is compared."""

    BASELINE = "baseline"
    ACCELERATED = "accelerated"


@dataclass(frozen=True)
class Sample:
    """What one run measured."""

    arm: Arm
    wrk: WrkReport
    counters: Counters
    interface_bytes: int

    @property
    def interface_bytes_per_request(self) -> float:
        """What the lab's interfaces carried, each port in and out, per response."""
        return self.interface_bytes / self.wrk.requests

    @property
    def redirected_bytes_per_request(self) -> float:
        """What was redirected, over all hops, per response."""
        return self.counters.redirected_bytes / self.wrk.requests

    @property
    def redirected_share(self) -> float:
        """The redirected part of what sockaccel counted; 0 if it counted nothing."""
        total = self.counters.redirected_bytes + self.counters.tcp_bytes
        return self.counters.redirected_bytes / total if total else 0.0


@dataclass(frozen=True)
class Pair:
    """Two runs next to each other, in the order in which they were made."""

    runs: tuple[Sample, Sample]

    def of(self, arm: Arm) -> Sample:
        """Return the run of an arm."""
        return next(sample for sample in self.runs if sample.arm is arm)


@dataclass(frozen=True)
class Path:
    """What every response must cost on an unaccelerated path."""

    body_bytes: int
    port_crossings: int  # of ports that each byte of the body crosses, in or out

    @property
    def least_interface_bytes(self) -> int:
        """Bytes per response that no plain TCP connection can undercut."""
        return self.body_bytes * self.port_crossings


def balanced_order(pairs: int, rng: random.Random) -> list[tuple[Arm, Arm]]:
    """Return who comes first in each pair: at random, each arm equally often."""
    return [(first, second) for first, second in arms.balanced_order(list(Arm), pairs, rng)]


def problems_of_run(sample: Sample, path: Path) -> list[str]:
    """Return why a run does not count; nothing if it does."""
    arm, wrk, counters = sample.arm, sample.wrk, sample.counters
    problems = []
    if wrk.failed:
        classes = ", ".join(f"{count} {name}" for name, count in wrk.errors.items() if count)
        problems.append(f"{arm}: {wrk.failed} failed requests ({classes})")
    if not wrk.requests:
        return [*problems, f"{arm}: no request was answered"]
    if wrk.bytes < wrk.requests * path.body_bytes:
        problems.append(
            f"{arm}: {wrk.bytes} bytes received by {wrk.requests} requests"
            f" of a page of {path.body_bytes} bytes"
        )
    if arm is Arm.BASELINE:
        if counters.active or counters.redirected_bytes:
            problems.append(f"{arm}: sockaccel was on ({counters.redirected_bytes} bytes)")
        if sample.interface_bytes_per_request < path.least_interface_bytes:
            problems.append(
                f"{arm}: {sample.interface_bytes_per_request:.0f} bytes per request on the"
                f" interfaces, plain TCP needs {path.least_interface_bytes}:"
                " something else redirects"
            )
    elif not counters.active:
        problems.append(f"{arm}: sockaccel was off at the end of the run")
    elif not counters.redirected_bytes:
        problems.append(f"{arm}: no byte was redirected")
    return problems


def problems_of_pair(pair: Pair) -> list[str]:
    """Return why two runs that count do not make a pair; nothing if they do.

    A redirected byte is missing at two ports of the bridge at least, in and out;
    that the interfaces lack one byte for each is asked for, to leave room for noise.
    """
    accelerated = pair.of(Arm.ACCELERATED)
    before = pair.of(Arm.BASELINE).interface_bytes_per_request
    after = accelerated.interface_bytes_per_request
    redirected = accelerated.redirected_bytes_per_request
    if after < before and before - after >= redirected:
        return []
    reason = (
        f"{before:.0f} bytes per request on the interfaces in the baseline and {after:.0f}"
        f" accelerated, but {redirected:.0f} were redirected: the counters contradict each other"
    )
    return [reason]


METRICS: dict[str, Callable[[Sample], float]] = {
    "requests_per_s": lambda sample: sample.wrk.requests_per_s,
    "latency_p50_us": lambda sample: sample.wrk.latency_us["p50"],
    "latency_p99_us": lambda sample: sample.wrk.latency_us["p99"],
    "interface_bytes_per_request": lambda sample: sample.interface_bytes_per_request,
}


@dataclass(frozen=True)
class MetricSummary:
    """Median of each arm, and the ratio of the pairs."""

    baseline: float
    accelerated: float
    ratio: RatioSummary


def summarise(pairs: Sequence[Pair]) -> dict[str, MetricSummary]:
    """Return the summary of each metric over pairs that count."""
    summaries = {}
    for name, metric in METRICS.items():
        before = [metric(pair.of(Arm.BASELINE)) for pair in pairs]
        after = [metric(pair.of(Arm.ACCELERATED)) for pair in pairs]
        summaries[name] = MetricSummary(
            baseline=median(before),
            accelerated=median(after),
            ratio=summarise_ratios(before, after),
        )
    return summaries
