"""Results of benchmarks that were never run, for the tests of what is made of a result."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sockaccel.bench.histogram import percentiles
from sockaccel.bench.result import (
    ACCELERATED,
    BASELINE,
    Better,
    CaseResult,
    ContextSwitches,
    Cpu,
    Latency,
    LeftOut,
    Load,
    Memory,
    Metric,
    Proof,
    Result,
    Run,
)
from sockaccel.bench.summary import conclude

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUESTS = Metric("req_s", "requests/s", "1/s", Better.HIGHER)
P99 = Metric("latency_p99_us", "latency p99 at saturation", "us", Better.LOWER)
MACHINE = {
    "cpu": "Some CPU",
    "cores": 2,
    "memory_bytes": 8 << 30,
    "architecture": "x86_64",
    "kernel": "6.18.0",
    "virtualisation": "QEMU",
    "governor": None,
    "frequency_mhz": None,
}


def run(arm: str, number: int, position: int, rate: float, rng: random.Random, values: int) -> Run:
    """Return a run of an arm that answers so many requests a second."""
    counts: dict[float, int] = {}
    for _ in range(values):
        value = float(round(rng.lognormvariate(math.log(1e8 / rate), 0.4)))
        counts[value] = counts.get(value, 0) + 1
    histogram = sorted(counts.items())
    on = arm == ACCELERATED
    return Run(
        round=number,
        position=position,
        arm=arm,
        warm_up=number == 0,
        seconds=2.0,
        metrics={REQUESTS.name: rate, P99.name: percentiles(histogram, [0.99])[0]},
        proof=Proof(on, 1999 * on * 1000, on * 1000, 4_000_000),
        latency=Latency(Load.SATURATION, histogram),
        errors={"status": 0},
        cpu=Cpu(3.0, 3.5, 0.0, 0.1, 3e6 / rate),
        context_switches=ContextSwitches(1000, 10),
        memory=Memory(50 << 20, 1 << 20),
    )


def case(
    scenario: str,
    name: str,
    rates: Mapping[str, float],
    *,
    pairs: int = 6,
    spread: float = 0.02,
    seed: int = 1,
    values: int = 200,
    **parameters: Any,
) -> CaseResult:
    """Return a case, concluded: rates by arm, their spread, and the case's parameters."""
    rng = random.Random(f"{scenario}/{name}/{seed}")
    runs = [
        run(arm, number, position, round(rate * rng.lognormvariate(0, spread), 3), rng, values)
        for number in range(pairs + 1)
        for position, (arm, rate) in enumerate(rates.items(), 1)
    ]
    return conclude(
        CaseResult(
            scenario=scenario,
            case=name,
            title=f"how fast is {scenario}",
            topology="netns",
            parameters=parameters,
            commands={"client": ["wrk", "-d2s"]},
            arms=list(rates),
            metrics=[REQUESTS, P99],
            runs=runs,
        )
    )


def invalid(broken: CaseResult, problem: str) -> CaseResult:
    """Return a case whose last run does not count."""
    runs = [*broken.runs[:-1], replace(broken.runs[-1], problems=[problem])]
    return conclude(replace(broken, runs=runs))


def result(*cases: CaseResult, **changes: Any) -> Result:
    """Return a result of these cases."""
    made = Result(
        id="2026-01-01T00-00-00-0123",
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:10:00+00:00",
        commit="0123456789ab",
        command=["sockaccel", "bench", "run"],
        machine=MACHINE,
        versions={"sockaccel": "0.1.0", "wrk": "4.1.0", "redis": None},
        parameters={"seed": 7, "pairs": 6, "seconds": 2.0},
        cases=list(cases),
    )
    return replace(made, **changes)


def load_balancer(*, pairs: int = 6, gain: float = 1.7, **options: Any) -> CaseResult:
    """Return a case as nginx's: two arms."""
    rates = {BASELINE: 40_000.0, ACCELERATED: 40_000.0 * gain}
    return case("nginx-lb", "keepalive-on", rates, pairs=pairs, connections=100, **options)


def echo(message_bytes: int, gain: float, **options: Any) -> CaseResult:
    """Return a case as echo's: four arms, one message size."""
    rates = {
        BASELINE: 50_000.0,
        ACCELERATED: 50_000.0 * gain,
        "textbook": 52_000.0 * gain,
        "unix": 51_000.0 * gain,
    }
    return case("echo", f"{message_bytes}B", rates, message_bytes=message_bytes, **options)


def full() -> Result:
    """Return a result with everything that a report may have to show."""
    unaffected = case(
        "nginx-lb", "keepalive-off", {BASELINE: 14_000.0, ACCELERATED: 14_050.0}, spread=0.06
    )
    slower = case("stream", "1B", {BASELINE: 9e6, ACCELERATED: 8e6}, message_bytes=1)
    return result(
        load_balancer(),
        unaffected,
        *(echo(size, gain) for size, gain in [(1, 1.9), (64, 1.85), (1024, 1.8), (65536, 1.2)]),
        slower,
        invalid(case("redis", "get", {BASELINE: 9e4, ACCELERATED: 1e5}), "accelerated: no byte"),
        left_out=[LeftOut("postgres", "there is no 'pgbench'", "apt-get install postgresql")],
    )
