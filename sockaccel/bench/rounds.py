"""Rounds of the echo measurement: what they add up to. Pure.

A round is one run of each arm, next to each other in time; the arms differ in
exactly one thing. See proof.py for when a run counts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from sockaccel.bench.arms import Arm
from sockaccel.bench.stats import RatioSummary, summarise_ratios
from sockaccel.render.table import render_table
from sockaccel.render.units import times_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sockaccel.bench.accelerator import Counters

SCHEMA = "sockaccel.echo/1"


@dataclass(frozen=True)
class Sample:
    """What one run measured. A message is sent and comes back: `size` bytes, twice."""

    arm: Arm
    size: int
    round_trips: int
    seconds: float
    counters: Counters
    interface_bytes: int

    @property
    def round_trips_per_s(self) -> float:
        """The rate."""
        return self.round_trips / self.seconds

    @property
    def round_trip_us(self) -> float:
        """The mean time of a round trip."""
        return self.seconds / self.round_trips * 1e6

    @property
    def sent_bytes(self) -> int:
        """What the two ends wrote."""
        return 2 * self.size * self.round_trips

    @property
    def interface_bytes_per_round_trip(self) -> float:
        """What the lab's interfaces carried, each port in and out."""
        return self.interface_bytes / self.round_trips


@dataclass(frozen=True)
class Comparison:
    """A ratio of rates that is stated, and what it has to be, if anything."""

    arm: Arm
    to: Arm
    target: float | None
    meaning: str


COMPARISONS = (
    Comparison(Arm.ACCELERATED, Arm.BASELINE, 1.6, "the gain"),
    Comparison(Arm.ACCELERATED, Arm.UNIX, 0.9, "what is left to gain"),
    Comparison(Arm.ACCELERATED, Arm.TEXTBOOK, None, "the price of safety"),
)


@dataclass(frozen=True)
class Ratio:
    """A comparison, measured."""

    comparison: Comparison
    summary: RatioSummary

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        target = self.comparison.target
        return None if target is None else self.summary.median >= target


@dataclass
class Result:
    """All that one measurement found out."""

    started: str
    machine: dict[str, Any]
    versions: dict[str, str | None]
    parameters: dict[str, Any]
    rounds: list[list[Sample]] = field(default_factory=list)
    unfinished: list[Sample] = field(default_factory=list)  # of a round that was not completed
    problems: list[str] = field(default_factory=list)
    ratios: list[Ratio] | None = None

    @property
    def valid(self) -> bool:
        """Whether every run counts."""
        return self.ratios is not None

    @property
    def targets_met(self) -> bool:
        """Whether it is valid and no target is missed."""
        return self.ratios is not None and all(ratio.met is not False for ratio in self.ratios)


def of_arm(rounds: Sequence[Sequence[Sample]], arm: Arm) -> list[Sample]:
    """Return the runs of an arm, one for each round."""
    return [next(sample for sample in samples if sample.arm is arm) for samples in rounds]


def summarise(rounds: Sequence[Sequence[Sample]]) -> list[Ratio]:
    """Return the ratios of rates, round by round, over rounds that count."""
    rates = {arm: [each.round_trips_per_s for each in of_arm(rounds, arm)] for arm in Arm}
    return [Ratio(each, summarise_ratios(rates[each.to], rates[each.arm])) for each in COMPARISONS]


def as_json(result: Result) -> dict[str, Any]:
    """Return the result as an object for JSON, with every sample."""
    return {
        "schema": SCHEMA,
        "valid": result.valid,
        "targets_met": result.targets_met,
        "started": result.started,
        "machine": result.machine,
        "versions": result.versions,
        "parameters": result.parameters,
        "problems": result.problems,
        "arms": {str(arm): _arm(of_arm(result.rounds, arm)) for arm in Arm}
        if result.valid
        else None,
        "ratios": [
            {
                "arm": str(ratio.comparison.arm),
                "to": str(ratio.comparison.to),
                "target": ratio.comparison.target,
                "met": ratio.met,
                **asdict(ratio.summary),
            }
            for ratio in result.ratios or []
        ],
        "rounds": [[_sample(sample) for sample in samples] for samples in result.rounds],
        "unfinished": [_sample(sample) for sample in result.unfinished],
    }


def _arm(samples: Sequence[Sample]) -> dict[str, float]:
    return {
        "round_trip_us": median(each.round_trip_us for each in samples),
        "round_trips_per_s": median(each.round_trips_per_s for each in samples),
        "interface_bytes_per_round_trip": median(
            each.interface_bytes_per_round_trip for each in samples
        ),
    }


def _sample(sample: Sample) -> dict[str, Any]:
    return {
        "arm": str(sample.arm),
        "round_trips": sample.round_trips,
        "duration_s": sample.seconds,
        "round_trips_per_s": sample.round_trips_per_s,
        "sent_bytes": sample.sent_bytes,
        "redirected_bytes": sample.counters.redirected_bytes,
        "tcp_bytes": sample.counters.tcp_bytes,
        "interface_bytes": sample.interface_bytes,
    }


def as_text(result: Result) -> str:
    """Return the result for people: two tables, and no ratio that does not count."""
    parameters, machine = result.parameters, result.machine
    title = (
        f"echo of {parameters['size_bytes']} bytes between two namespaces, both ends on one core"
    )
    if result.ratios is None:
        problems = result.problems or ["not measured"]
        return "\n".join([title, *(f"  INVALID  {problem}" for problem in problems)])
    arms = [(arm, _arm(of_arm(result.rounds, arm))) for arm in Arm]
    rates = render_table(
        ["", "us/round trip", "round trips/s", "interface bytes/round trip"],
        [
            [
                arm.label,
                f"{figures['round_trip_us']:.2f}",
                f"{figures['round_trips_per_s']:,.0f}",
                f"{figures['interface_bytes_per_round_trip']:,.1f}",
            ]
            for arm, figures in arms
        ],
        align_right=range(1, 4),
    )
    ratios = render_table(
        ["round trips/s", "", "ratio", "95% interval", "min to max", "target"],
        [_ratio_row(ratio) for ratio in result.ratios],
        align_right=range(2, 5),
    )
    footer = [
        f"{len(result.rounds)} rounds of {parameters['seconds']:g} s runs, random balanced order.",
        "us, round trips/s: medians; ratio: median of the rounds' ratios, interval by rank.",
        f"{machine['cores']} cores of {machine['cpu']}, Linux {machine['kernel']}.",
    ]
    return "\n".join([title, rates, "", ratios, "", *footer])


def _ratio_row(ratio: Ratio) -> list[str]:
    comparison, summary = ratio.comparison, ratio.summary
    target = ""
    if comparison.target is not None:
        target = f">= {times_text(comparison.target)} {'met' if ratio.met else 'MISSED'}"
    return [
        f"{comparison.arm} / {comparison.to}",
        comparison.meaning,
        times_text(summary.median),
        f"{times_text(summary.interval.low)} to {times_text(summary.interval.high)}",
        f"{times_text(summary.minimum)} to {times_text(summary.maximum)}",
        target,
    ]
