"""The quickstart's result as data and as text. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sockaccel.bench.pairs import Arm, MetricSummary, Pair, Sample
from sockaccel.render.table import render_table
from sockaccel.render.units import times_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sockaccel.bench.stats import RatioSummary

SCHEMA = "sockaccel.quickstart/1"
NOTES = (
    "latencies are those of a closed loop at saturation, with wrk's own correction",
    "interface bytes are received plus sent, over all ports of the lab's bridge",
)

TOPOLOGIES = {
    "netns": "Network namespaces on a bridge",
    "docker": "Docker containers on an internal network of their own",
}


@dataclass
class Scenario:
    """One configuration of the lab, and what was measured in it."""

    name: str
    keepalive: bool
    pairs: list[Pair] = field(default_factory=list)
    unpaired: list[Sample] = field(default_factory=list)  # of a pair that was not completed
    problems: list[str] = field(default_factory=list)
    summary: dict[str, MetricSummary] | None = None


@dataclass
class Result:
    """All that one quickstart found out."""

    started: str
    machine: dict[str, Any]
    versions: dict[str, str | None]
    parameters: dict[str, Any]
    scenarios: list[Scenario]

    @property
    def valid(self) -> bool:
        """Whether every scenario has a summary, which only pairs that count have."""
        return bool(self.scenarios) and all(each.summary is not None for each in self.scenarios)


def as_json(result: Result) -> dict[str, Any]:
    """Return the result as an object for JSON, with every sample."""
    return {
        "schema": SCHEMA,
        "valid": result.valid,
        "started": result.started,
        "machine": result.machine,
        "versions": result.versions,
        "parameters": result.parameters,
        "notes": list(NOTES),
        "scenarios": [_scenario(scenario) for scenario in result.scenarios],
    }


def _scenario(scenario: Scenario) -> dict[str, Any]:
    return {
        "name": scenario.name,
        "keepalive": scenario.keepalive,
        "valid": scenario.summary is not None,
        "problems": scenario.problems,
        "summary": scenario.summary
        and {name: asdict(summary) for name, summary in scenario.summary.items()},
        "pairs": [[_sample(sample) for sample in pair.runs] for pair in scenario.pairs],
        "unpaired": [_sample(sample) for sample in scenario.unpaired],
    }


def _sample(sample: Sample) -> dict[str, Any]:
    return {
        "arm": str(sample.arm),
        "requests": sample.wrk.requests,
        "requests_per_s": sample.wrk.requests_per_s if sample.wrk.duration_s else None,
        "duration_s": sample.wrk.duration_s,
        "received_bytes": sample.wrk.bytes,
        "failed_requests": sample.wrk.failed,
        "errors": sample.wrk.errors,
        "latency_us": sample.wrk.latency_us,
        "redirected_bytes": sample.counters.redirected_bytes,
        "tcp_bytes": sample.counters.tcp_bytes,
        "interface_bytes": sample.interface_bytes,
    }


def as_text(result: Result) -> str:
    """Return the result for people: a table per scenario, and no ratio that does not count."""
    return "\n\n".join(
        [_scenario_text(scenario) for scenario in result.scenarios] + [_footer(result)]
    )


def _scenario_text(scenario: Scenario) -> str:
    title = f"nginx load balancer, {scenario.name}"
    if scenario.summary is None:
        problems = scenario.problems or ["not measured"]
        return "\n".join([title, *(f"  INVALID  {problem}" for problem in problems)])
    summary = scenario.summary
    rows = [
        _row("requests/s", summary["requests_per_s"], scale=1, digits=0),
        _row("latency p50, ms", summary["latency_p50_us"], scale=1000, digits=2),
        _row("latency p99, ms", summary["latency_p99_us"], scale=1000, digits=2),
        _row("interface bytes/request", summary["interface_bytes_per_request"], scale=1, digits=0),
        _counts("redirected bytes/request", scenario.pairs, "redirected_bytes_per_request"),
        _failed(scenario.pairs),
    ]
    headers = ["", "before", "after", "ratio", "95% interval", "min to max"]
    table = render_table(headers, rows, align_right=range(1, len(headers)))
    return "\n".join([title, table, "", _verdict(scenario.pairs, summary["requests_per_s"].ratio)])


def _row(name: str, metric: MetricSummary, *, scale: float, digits: int) -> list[str]:
    ratio = metric.ratio
    return [
        name,
        f"{metric.baseline / scale:,.{digits}f}",
        f"{metric.accelerated / scale:,.{digits}f}",
        times_text(ratio.median),
        f"{times_text(ratio.interval.low)} to {times_text(ratio.interval.high)}",
        f"{times_text(ratio.minimum)} to {times_text(ratio.maximum)}",
    ]


def _counts(name: str, pairs: Sequence[Pair], attribute: str) -> list[str]:
    """Return a row of means over the runs of an arm: there is no ratio to nothing."""
    means = [
        sum(getattr(pair.of(arm), attribute) for pair in pairs) / len(pairs)
        for arm in (Arm.BASELINE, Arm.ACCELERATED)
    ]
    return [name, *(f"{mean:,.0f}" for mean in means), "", "", ""]


def _failed(pairs: Sequence[Pair]) -> list[str]:
    failed = [
        sum(pair.of(arm).wrk.failed for pair in pairs) for arm in (Arm.BASELINE, Arm.ACCELERATED)
    ]
    return ["failed requests", *(str(count) for count in failed), "", "", ""]


def _verdict(pairs: Sequence[Pair], ratio: RatioSummary) -> str:
    share = min(pair.of(Arm.ACCELERATED).redirected_share for pair in pairs)
    if not ratio.distinguishable:
        first = f"~ no difference in requests/s that {len(pairs)} pairs can tell."
    elif ratio.median > 1:
        first = f"{times_text(ratio.median)} the requests/s of plain TCP."
    else:
        first = f"SLOWER: {times_text(ratio.median)} the requests/s of plain TCP."
    # Rounded down: "at least" must hold.
    percent = int(share * 1000) / 10
    return f"{first} At least {percent:.1f}% of the bytes were redirected in every run."


def _footer(result: Result) -> str:
    machine, parameters = result.machine, result.parameters
    where = TOPOLOGIES[parameters["topology"]]
    if docker := result.versions.get("docker"):
        where += f", Docker {docker}"
    load = (
        f"{parameters['connections']} connections, {parameters['body_bytes']}-byte page,"
        f" sendfile {'on' if parameters['sendfile'] else 'off'}."
    )
    lines = [
        f"{parameters['pairs']} pairs of {parameters['seconds']} s runs in random balanced order.",
        load,
        "before, after: medians; ratio: median of the pairs' ratios, interval by rank.",
        f"{where}.",
        f"{machine['cores']} cores of {machine['cpu']}, Linux {machine['kernel']}.",
    ]
    return "\n".join([*lines, *(f"Note: {note}." for note in NOTES)])
