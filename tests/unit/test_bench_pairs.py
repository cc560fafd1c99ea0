from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from sockaccel.bench.accelerator import Counters, parse_status
from sockaccel.bench.pairs import (
    Arm,
    Pair,
    Path,
    Sample,
    balanced_order,
    problems_of_pair,
    problems_of_run,
    summarise,
)
from sockaccel.bench.wrk import WrkReport
from sockaccel.errors import BenchError

PATH = Path(body_bytes=612, port_crossings=4)
OK = {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}
OFF = Counters(active=False, redirected_bytes=0, tcp_bytes=0)


def wrk(requests: int = 1000, **changes: object) -> WrkReport:
    latency = {"p50": 4000.0, "p99": 9000.0}
    report = WrkReport(requests, requests * 850, 1.0, dict(OK), latency)
    return replace(report, **changes)  # type: ignore[arg-type]


def baseline(**changes: object) -> Sample:
    return replace(Sample(Arm.BASELINE, wrk(), OFF, 4_000_000), **changes)  # type: ignore[arg-type]


def accelerated(**changes: object) -> Sample:
    counters = Counters(active=True, redirected_bytes=1_900_000, tcp_bytes=1000)
    sample = Sample(Arm.ACCELERATED, wrk(2000), counters, 20_000)
    return replace(sample, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (baseline(), None),
        (accelerated(), None),
        *(
            (make(wrk=wrk(errors={**OK, name: 2})), f"2 failed requests (2 {name})")
            for make in (baseline, accelerated)
            for name in OK
        ),
        (baseline(wrk=wrk(0)), "no request was answered"),
        (accelerated(wrk=wrk(0)), "no request was answered"),
        (accelerated(wrk=wrk(bytes=611_999)), "611999 bytes received by 1000 requests"),
        (accelerated(wrk=wrk(bytes=612_000)), None),
        (baseline(counters=Counters(True, 0, 5)), "sockaccel was on (0 bytes)"),
        (baseline(counters=Counters(False, 1, 0)), "sockaccel was on (1 bytes)"),
        (baseline(interface_bytes=4 * 612 * 1000 - 1), "something else redirects"),
        (baseline(interface_bytes=4 * 612 * 1000), None),
        (accelerated(counters=OFF), "sockaccel was off"),
        (accelerated(counters=Counters(True, 0, 1_900_000)), "no byte was redirected"),
    ],
)
def test_a_run_counts_only_if_nothing_failed_and_its_arm_is_proved(
    sample: Sample, said: str | None
) -> None:
    problems = problems_of_run(sample, PATH)
    if said is None:
        assert problems == []
    else:
        assert [said in problem for problem in problems] == [True], problems
        assert problems[0].startswith(f"{sample.arm}: ")


def test_all_that_is_wrong_is_said() -> None:
    sample = accelerated(wrk=wrk(errors={**OK, "status": 1, "timeout": 2}), counters=OFF)
    assert len(problems_of_run(sample, PATH)) == 2


@pytest.mark.parametrize(
    ("after", "valid"),
    [
        # The baseline has 4000 bytes per request; 2000 requests redirected 950 each.
        (20_000, True),
        (2 * 3_050_000, True),
        (2 * 3_050_000 + 2, False),  # 3051 per request: fewer than were redirected are missing
        (2 * 4_000_000, False),
        (2 * 5_000_000, False),
    ],
)
@pytest.mark.parametrize("accelerated_first", [True, False])
def test_a_pair_counts_only_if_the_interfaces_lack_what_was_redirected(
    after: int, valid: bool, accelerated_first: bool
) -> None:
    runs = (baseline(), accelerated(interface_bytes=after))
    pair = Pair(runs[::-1] if accelerated_first else runs)
    assert (problems_of_pair(pair) == []) is valid


@pytest.mark.parametrize(("pairs", "fewest"), [(6, 3), (7, 3), (20, 10)])
def test_order_is_random_and_balanced(pairs: int, fewest: int) -> None:
    orders = [balanced_order(pairs, random.Random(seed)) for seed in range(50)]
    for order in orders:
        assert len(order) == pairs
        assert all(set(arms) == set(Arm) for arms in order)
        first = Counter(arms[0] for arms in order)
        assert min(first[arm] for arm in Arm) == fewest
    assert len({tuple(order) for order in orders}) > 10
    assert {order[0][0] for order in orders} == set(Arm)
    assert balanced_order(pairs, random.Random(1)) == balanced_order(pairs, random.Random(1))


def test_summary_divides_pair_by_pair_whatever_their_order() -> None:
    pairs = []
    for n, (before, after) in enumerate([(1000, 2000), (2000, 3000), (500, 1500)] * 2):
        runs = (baseline(wrk=wrk(before)), accelerated(wrk=wrk(after)))
        pairs.append(Pair(runs[::-1] if n % 2 else runs))
    requests = summarise(pairs)["requests_per_s"]
    assert (requests.baseline, requests.accelerated) == (1000, 2000)
    assert requests.ratio.median == 2.0
    assert (requests.ratio.minimum, requests.ratio.maximum) == (1.5, 3.0)


def test_summary_of_interface_bytes_is_per_request() -> None:
    summary = summarise([Pair((baseline(), accelerated()))] * 6)
    metric = summary["interface_bytes_per_request"]
    assert (metric.baseline, metric.accelerated, metric.ratio.median) == (4000, 10, 0.0025)


STATUS = (
    '{"schema":"sockaccel.status/1","active":%s,'
    '"counters":{"redirected_bytes":7,"tcp_bytes":9,"fallbacks":{}}}'
)


def test_status_gives_the_counters() -> None:
    assert parse_status(STATUS % "true") == Counters(True, 7, 9)


@pytest.mark.parametrize(
    "text",
    [STATUS % "false", '{"schema":"sockaccel.status/1","active":false,"counters":null}'],
)
def test_inactive_is_off_whatever_is_still_counted(text: str) -> None:
    assert parse_status(text) == OFF


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema":"x","active":true}',
        '{"schema":"sockaccel.status/1","active":true}',
    ],
)
def test_a_status_without_counters_is_an_error_and_not_zero(text: str) -> None:
    with pytest.raises(BenchError, match="sockaccel's status"):
        parse_status(text)
