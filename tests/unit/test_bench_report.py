from __future__ import annotations

import json

import pytest

from sockaccel.bench.accelerator import Counters
from sockaccel.bench.pairs import Arm, Pair, Sample, summarise
from sockaccel.bench.report import Result, Scenario, as_json, as_text
from sockaccel.bench.wrk import WrkReport

ERRORS = {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}


def sample(arm: Arm, requests: int) -> Sample:
    on = arm is Arm.ACCELERATED
    report = WrkReport(requests, requests * 850, 1.0, ERRORS, {"p50": 4000.0, "p99": 9000.0})
    counters = Counters(on, 1900 * requests * on, 100 * requests * on)
    return Sample(arm, report, counters, requests * (12 if on else 4000))


def result(*scenarios: Scenario) -> Result:
    parameters = {
        "topology": "netns",
        "pairs": 6,
        "seconds": 3,
        "connections": 100,
        "body_bytes": 612,
        "sendfile": False,
    }
    machine = {"cpu": "Some CPU", "cores": 2, "kernel": "6.18.0"}
    return Result("2000-01-01T00:00:00+00:00", machine, {"wrk": "4.1.0"}, parameters, [*scenarios])


def measured(after: tuple[int, ...] = (19_000, 20_000, 21_000)) -> Scenario:
    runs = [Pair((sample(Arm.BASELINE, 10_000), sample(Arm.ACCELERATED, n))) for n in after * 2]
    return Scenario("upstream keepalive on", True, pairs=runs, summary=summarise(runs))


def invalid() -> Scenario:
    good = measured()
    return Scenario(
        "upstream keepalive off",
        False,
        pairs=good.pairs,
        unpaired=[sample(Arm.ACCELERATED, 10_000)],
        problems=["accelerated: 3 failed requests (3 status)"],
    )


GOLDEN = """\
nginx load balancer, upstream keepalive on
                          before   after   ratio      95% interval        min to max
requests/s                10,000  20,000   2.00x    1.90x to 2.10x    1.90x to 2.10x
latency p50, ms             4.00    4.00   1.00x    1.00x to 1.00x    1.00x to 1.00x
latency p99, ms             9.00    9.00   1.00x    1.00x to 1.00x    1.00x to 1.00x
interface bytes/request    4,000      12  0.003x  0.003x to 0.003x  0.003x to 0.003x
redirected bytes/request       0   1,900
failed requests                0       0

2.00x the requests/s of plain TCP. At least 95.0% of the bytes were redirected in every run.

6 pairs of 3 s runs in random balanced order.
100 connections, 612-byte page, sendfile off.
before, after: medians; ratio: median of the pairs' ratios, interval by rank.
Network namespaces on a bridge.
2 cores of Some CPU, Linux 6.18.0.
Note: latencies are those of a closed loop at saturation, with wrk's own correction.
Note: interface bytes are received plus sent, over all ports of the lab's bridge."""


def test_golden_table() -> None:
    assert as_text(result(measured())) == GOLDEN


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ((9_000, 10_000, 11_000), "~ no difference in requests/s that 6 pairs can tell."),
        ((8_000, 9_000, 9_500), "SLOWER: 0.90x the requests/s of plain TCP."),
        ((10_500, 11_000, 12_000), "1.10x the requests/s of plain TCP."),
    ],
)
def test_verdict_says_no_more_than_the_interval(after: tuple[int, ...], said: str) -> None:
    assert said in as_text(result(measured(after)))


def test_an_invalid_scenario_has_its_reason_and_no_ratio() -> None:
    text = as_text(result(invalid()))
    assert "INVALID  accelerated: 3 failed requests (3 status)" in text
    assert "requests/s" not in text
    assert "x to " not in text


@pytest.mark.parametrize(
    ("scenarios", "valid"),
    [
        ([measured()], True),
        ([measured(), invalid()], False),
        ([Scenario("never reached", False)], False),
        ([], False),
    ],
)
def test_a_result_is_valid_if_every_scenario_was_measured(
    scenarios: list[Scenario], valid: bool
) -> None:
    assert result(*scenarios).valid is valid
    assert as_json(result(*scenarios))["valid"] is valid


def test_json_has_every_sample_and_no_summary_of_what_does_not_count() -> None:
    data = json.loads(json.dumps(as_json(result(measured(), invalid()))))
    assert data["schema"] == "sockaccel.quickstart/1"
    good, bad = data["scenarios"]
    assert good["summary"]["requests_per_s"]["ratio"]["median"] == 2.0
    assert good["summary"]["requests_per_s"]["ratio"]["interval"]["level"] == 0.95
    assert [[run["arm"] for run in pair] for pair in good["pairs"]] == [
        ["baseline", "accelerated"]
    ] * 6
    assert good["pairs"][0][1] == {
        "arm": "accelerated",
        "requests": 19_000,
        "requests_per_s": 19_000.0,
        "duration_s": 1.0,
        "received_bytes": 19_000 * 850,
        "failed_requests": 0,
        "errors": ERRORS,
        "latency_us": {"p50": 4000.0, "p99": 9000.0},
        "redirected_bytes": 1900 * 19_000,
        "tcp_bytes": 100 * 19_000,
        "interface_bytes": 12 * 19_000,
    }
    assert (good["valid"], bad["valid"], bad["summary"]) == (True, False, None)
    assert len(bad["pairs"]) == 6
    assert len(bad["unpaired"]) == 1
