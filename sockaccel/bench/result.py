"""What a benchmark found out: the model, and its one form as JSON. Pure.

Samples are kept raw: every run with its metrics, histogram, errors and proof.
benchmarks/result.schema.json describes the JSON. Units are in the names of fields
and metrics; a time is in seconds (``_s``, ``seconds``) or microseconds (``_us``).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from sockaccel.bench.codec import decode, encode
from sockaccel.errors import InputError

NAME, VERSION = "sockaccel.bench", 1
LARGEST = 1e18
"""What no metric exceeds in its unit."""
SCHEMA = f"{NAME}/{VERSION}"
BASELINE = "baseline"
ACCELERATED = "accelerated"
MESSAGE_BYTES = "message_bytes"
"""The parameter of a case by which ratios are plotted."""


class Better(StrEnum):
    """Which way a metric improves."""

    HIGHER = "higher"
    LOWER = "lower"


class Load(StrEnum):
    """What a latency was measured under; the two are never compared or mixed.

    SATURATION: a closed loop that sends as fast as it is answered, so that the
    latency is that of a queue which the load itself keeps full. FIXED_RATE: an open
    loop that sends by the clock, and counts from when a request was due.
    """

    SATURATION = "saturation"
    FIXED_RATE = "fixed-rate"


@dataclass(frozen=True)
class Metric:
    """Something measured in every run. The first metric of a case is what it is about."""

    name: str  # as in gates: "req_s", "latency_p99_us"
    title: str  # for people, with the unit if that is a rate: "requests/s", "latency p99"
    unit: str  # "1/s", "us", "bytes", "bytes/request", "s/million requests", ...
    better: Better

    @property
    def label(self) -> str:
        """What stands beside a figure: the title, and the unit where neither shows it."""
        shown = "/" in self.unit or self.unit == "bytes"
        return self.title if shown else f"{self.title}, {self.unit}"


@dataclass(frozen=True)
class Latency:
    """The histogram of a run: what occurred, and how often; exact to one part in a hundred.

    Percentiles among the metrics are of the exact values where the client tells them.
    """

    load: Load
    histogram: list[tuple[float, int]]  # [microseconds, count], ascending


@dataclass(frozen=True)
class Cpu:
    """Processor time during a run."""

    seconds_total: float  # user and system, of the measured processes and their children
    machine_busy_seconds: float  # of all cores, whoever used them
    steal_seconds: float  # taken by the hypervisor, of all cores
    other_seconds: float  # used by processes that are no part of the measurement
    per_million_requests: float | None  # seconds_total; None where nothing is requested


@dataclass(frozen=True)
class ContextSwitches:
    """Of the measured processes during a run."""

    voluntary: int
    involuntary: int


@dataclass(frozen=True)
class Memory:
    """Memory at the end of a run."""

    peak_rss_bytes: int  # sum over the measured processes
    tcp_bytes: int  # of the kernel for TCP, whole machine


@dataclass(frozen=True)
class Proof:
    """Which way the bytes went, by counters that do not depend on the load generator."""

    active: bool  # whether sockaccel was on at the end of the run
    redirected_bytes: int
    tcp_bytes: int
    interface_bytes: int  # of all ports of the topology, in and out


@dataclass(frozen=True)
class Run:
    """One run of one arm. Warm-ups are kept, and never counted."""

    derived: ClassVar[tuple[str, ...]] = ("valid",)

    round: int  # one run of each arm, next to each other in time; from 1, 0 for warm-ups
    position: int  # in the round, from 1
    arm: str
    warm_up: bool
    seconds: float
    metrics: dict[str, float]
    proof: Proof
    latency: Latency | None = None
    errors: dict[str, int] = field(default_factory=dict)  # by class; any but 0 is a problem
    cpu: Cpu | None = None
    context_switches: ContextSwitches | None = None
    memory: Memory | None = None
    problems: list[str] = field(default_factory=list)  # why it does not count

    @property
    def valid(self) -> bool:
        """Whether it measured what it says it measured."""
        return not self.problems


@dataclass(frozen=True)
class Ratio:
    """An arm divided by another one, over the rounds of a case."""

    derived: ClassVar[tuple[str, ...]] = ("distinguishable",)

    arm: str
    to: str
    metric: str
    median: float  # of the rounds' ratios
    low: float  # of the interval
    high: float
    level: float  # at which the interval covers, 0.95
    minimum: float  # of the rounds' ratios
    maximum: float
    pairs: int

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes 'no difference'."""
        return not self.low <= 1.0 <= self.high


@dataclass(frozen=True)
class Advice:
    """A warning: what was seen, its likely cause, and what to do next."""

    kind: str  # "noisy-host", "few-runs", "cpu-steal", "frequency-scaling", "other-load", ...
    value: float  # the number behind it, in the unit that `finding` names
    finding: str
    cause: str
    next_step: str


@dataclass(frozen=True)
class CaseResult:
    """One case of a scenario: its arms, its runs, and what they add up to."""

    derived: ClassVar[tuple[str, ...]] = ("valid",)

    scenario: str
    case: str  # unique in its scenario; names without '.' and '/'
    title: str  # what the scenario measures, in one line
    topology: str
    parameters: dict[str, Any]
    commands: dict[str, list[str]]  # who runs what: role -> argv
    arms: list[str]
    metrics: list[Metric]
    runs: list[Run]
    problems: list[str] = field(default_factory=list)  # of the case as a whole
    ratios: list[Ratio] = field(default_factory=list)  # none where the case is not valid
    warnings: list[Advice] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The name in gates and tables."""
        return f"{self.scenario}/{self.case}"

    @property
    def valid(self) -> bool:
        """Whether every run counts, and what they add up to has been found."""
        every_run_counts = not self.problems and all(run.valid for run in self.runs)
        return every_run_counts and bool(self.ratios)

    @property
    def all_problems(self) -> list[str]:
        """Every reason why it is not valid."""
        found = [*self.problems, *(problem for run in self.runs for problem in run.problems)]
        return found if found or self.valid else ["not measured"]

    def of_arm(self, arm: str) -> list[Run]:
        """Return the counted runs of an arm, by round."""
        runs = [run for run in self.runs if run.arm == arm and not run.warm_up]
        return sorted(runs, key=lambda run: run.round)

    def values(self, arm: str, metric: str) -> list[float]:
        """Return what the counted runs of an arm measured, by round."""
        return [run.metrics[metric] for run in self.of_arm(arm) if metric in run.metrics]

    def ratio(self, arm: str, to: str, metric: str) -> Ratio | None:
        """Return an arm divided by another of a metric, if there is such a ratio."""
        wanted = (arm, to, metric)
        found = (each for each in self.ratios if (each.arm, each.to, each.metric) == wanted)
        return next(found, None)

    def gain(self, metric: str) -> Ratio | None:
        """Return accelerated / baseline of a metric, if there is such a ratio."""
        return self.ratio(ACCELERATED, BASELINE, metric)


@dataclass(frozen=True)
class LeftOut:
    """A scenario that this machine could not run."""

    scenario: str
    reason: str
    hint: str  # one thing to type


@dataclass(frozen=True)
class Result:
    """All that one `bench run` found out."""

    derived: ClassVar[tuple[str, ...]] = ("valid",)

    id: str
    started: str  # ISO 8601, UTC
    finished: str | None  # None: it was interrupted
    commit: str | None  # of the source tree, "+changes" after it if it had any
    command: list[str]
    machine: dict[str, Any]  # cpu, cores, memory_bytes, architecture, kernel, governor, ...
    versions: dict[str, str | None]
    parameters: dict[str, Any]  # seed, pairs, seconds, quick, topology, arms, ...
    cases: list[CaseResult]
    left_out: list[LeftOut] = field(default_factory=list)
    warnings: list[Advice] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        """Whether it came to its end and every case is valid."""
        return (
            self.finished is not None
            and bool(self.cases)
            and all(case.valid for case in self.cases)
        )


def as_json(result: Result) -> dict[str, Any]:
    """Return the result as an object for JSON, what follows from its data included."""
    return {"schema": SCHEMA, **encode(result)}


def dumps(result: Result) -> str:
    """Return the text of a result file: indented, with one line for each histogram."""
    text = json.dumps(as_json(result), indent=2, allow_nan=False)
    # Lists of lists of numbers; a text in JSON holds neither a newline nor a bare quote.
    lists = r'\[\s+\[[^]["]*\](?:,\s+\[[^]["]*\])*\s+\]'
    return re.sub(lists, lambda found: re.sub(r"\s+", "", found[0]), text) + "\n"


def loads(text: str, source: str) -> Result:
    """Return the result in the text of a file; source names it in errors.

    Raises:
        InputError: it is no result, one of a newer schema, or one that contradicts itself.

    """
    try:
        data: Any = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise _unreadable(source, f"no JSON: {error}") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    name, _, version = schema.partition("/") if isinstance(schema, str) else ("", "", "")
    if name != NAME or not version.isdecimal() or len(version) > 9:
        raise _unreadable(source, f"its schema is {schema!r:.60}, not '{SCHEMA}'")
    if int(version) != VERSION:
        raise InputError(
            f"cannot read result '{source}': its schema is '{schema}', this version reads"
            f" '{SCHEMA}'",
            "use the version of sockaccel that wrote it, or a later one",
        )
    try:
        result = decode(Result, data)
        _check(result)
    except (ValueError, OverflowError, RecursionError) as error:
        raise _unreadable(source, str(error)) from error
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _check(result: Result) -> None:
    """Raise ValueError for what fits the schema and no measurement."""
    for case in result.cases:
        if len(case.arms) < 2 or not case.metrics:
            raise ValueError(
                f"{case.id!r} has nothing to compare: fewer than two arms, or no metric"
            )
        for run in case.runs:
            for name, value in run.metrics.items():
                if not 0 <= value <= LARGEST:
                    raise ValueError(f"{name} of a run of {case.id!r} is {value:g}")
    texts = [
        *(text for case in result.cases for text in (case.scenario, case.case, case.title)),
        result.id,
        result.started,
        *map(str, result.machine.values()),
    ]
    for text in texts:
        if not text.isprintable():
            raise ValueError(f"{text!r:.60} has characters that cannot be shown")


def _unreadable(source: str, why: str) -> InputError:
    return InputError(
        f"cannot read result '{source}': {why}",
        "sockaccel bench run --save FILE writes one; benchmarks/result.schema.json describes it",
    )
