from __future__ import annotations

import bench_samples as samples
import pytest

from sockaccel.bench.gate import Gate, check_names, judge, parse
from sockaccel.bench.result import LeftOut
from sockaccel.errors import InputError


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("nginx-lb.req_s.ratio>=1.5", Gate("nginx-lb", None, "req_s", "ratio", ">=", 1.5)),
        (" echo/64B.p99_us.median < 900 ", Gate("echo", "64B", "p99_us", "median", "<", 900)),
        ("a.b.low>0.95", Gate("a", None, "b", "low", ">", 0.95)),
        ("a.b.median>=1234567.8", Gate("a", None, "b", "median", ">=", 1_234_567.8)),
        ("a.b.high<=2", Gate("a", None, "b", "high", "<=", 2)),
    ],
)
def test_a_gate_is_scenario_case_metric_field_and_bound(text: str, gate: Gate) -> None:
    assert parse(text) == gate
    assert parse(str(gate)) == gate


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nginx-lb",
        "nginx-lb.req_s>=1",
        "a.b.ratio=1",
        "a.b.ratio==1",
        "a.b.ratio>=",
        "a.b.ratio>=x",
        "a.b.ratio>=1.5x",
        "a.b.ratio>=-1",
        "a b.c.ratio>=1",
        "a/b/c.d.ratio>1",
        "a.b.c.ratio>1",
    ],
)
def test_what_is_no_gate_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"cannot use gate '{text}': ")
    assert caught.value.hint == "--gate 'nginx-lb.req_s.ratio>=1.5'"


def test_a_field_that_there_is_not_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="there is no field 'ratios'") as caught:
        parse("a.b.ratios>=1")
    assert caught.value.hint == "--gate 'a.b.ratio>=1'"


METRICS = {
    "nginx-lb/keepalive-on": ["req_s", "latency_p99_us"],
    "nginx-lb/keepalive-off": ["req_s"],
    "echo/64B": ["round_trips_s"],
}


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("nginx-bl.req_s.ratio>1", "scenario 'nginx-bl'", "nginx-lb.req_s.ratio>1"),
        ("nginx-lb/keepalive.req_s.low>1", "case 'keepalive'", "nginx-lb/keepalive-on.req_s.low>1"),
        ("nginx-lb.reqs.ratio>1", "metric 'reqs'", "nginx-lb.req_s.ratio>1"),
        ("echo.req_s.ratio>1", "metric 'req_s'", "echo.round_trips_s.ratio>1"),
        (
            "nginx-lb/keepalive-off.latency_p99_us.ratio<1",
            "metric 'latency_p99_us'",
            "nginx-lb/keepalive-off.req_s.ratio<1",
        ),
    ],
)
def test_a_gate_that_names_nothing_is_refused_with_the_nearest_name(
    text: str, said: str, hint: str
) -> None:
    with pytest.raises(InputError) as caught:
        check_names([parse(text)], METRICS)
    assert str(caught.value) == f"cannot use gate '{text}': there is no {said}"
    assert caught.value.hint == f"--gate '{hint}'"
    assert caught.value.exit_code == 2


def test_gates_that_name_something_are_let_through() -> None:
    texts = ["nginx-lb.latency_p99_us.ratio<1", "echo/64B.round_trips_s.median>1"]
    check_names([parse(text) for text in texts], METRICS)


CASE = samples.load_balancer()
RATIO = CASE.gain("req_s")
assert RATIO


@pytest.mark.parametrize(
    ("field", "value"), [("ratio", RATIO.median), ("low", RATIO.low), ("high", RATIO.high)]
)
def test_bounds_are_kept_at_their_very_value_as_the_operator_says(field: str, value: float) -> None:
    for operator, passes in [(">=", True), ("<=", True), (">", False), ("<", False)]:
        gate = Gate("nginx-lb", None, "req_s", field, operator, value)
        (outcome,) = judge([gate], samples.result(CASE))
        assert outcome.passed is passes, operator


def test_median_is_of_the_accelerated_arm_in_the_metrics_unit() -> None:
    values = sorted(CASE.values("accelerated", "req_s"))
    middle = (values[2] + values[3]) / 2
    for bound, passes in [(middle - 1, True), (middle + 1, False)]:
        gate = Gate("nginx-lb", None, "req_s", "median", ">=", bound)
        assert [each.passed for each in judge([gate], samples.result(CASE))] == [passes]


def test_a_gate_of_a_scenario_asks_every_case_that_has_the_metric() -> None:
    slow = samples.case("nginx-lb", "keepalive-off", {"baseline": 1e4, "accelerated": 1e4})
    outcomes = judge([parse("nginx-lb.req_s.ratio>=1.3")], samples.result(CASE, slow))
    assert [each.passed for each in outcomes] == [True, False]
    assert outcomes[1].text.startswith("nginx-lb/keepalive-off.req_s.ratio>=1.3: it is ")
    only = judge([parse("nginx-lb/keepalive-on.req_s.ratio>=1.3")], samples.result(CASE, slow))
    assert [each.passed for each in only] == [True]


def test_invalid_never_passes() -> None:
    broken = samples.invalid(CASE, "accelerated: no byte was redirected")
    for text in ("nginx-lb.req_s.ratio>=0", "nginx-lb.req_s.median>=0", "nginx-lb.req_s.low<99"):
        (outcome,) = judge([parse(text)], samples.result(broken))
        assert not outcome.passed
        assert outcome.text.endswith(": INVALID: accelerated: no byte was redirected")


def test_what_was_left_out_never_passes() -> None:
    left_out = [LeftOut("redis", "there is no 'redis-benchmark'", "apt-get install redis-tools")]
    made = samples.result(CASE, left_out=left_out)
    (outcome,) = judge([parse("redis.req_s.ratio>=0")], made)
    assert not outcome.passed
    assert outcome.text == "redis.req_s.ratio>=0: not measured: there is no 'redis-benchmark'"


def test_an_arm_that_was_not_measured_never_passes() -> None:
    alone = samples.case("nginx-lb", "keepalive-on", {"baseline": 1e4, "unix": 2e4})
    for field in ("ratio", "median"):
        (outcome,) = judge([parse(f"nginx-lb.req_s.{field}>=0")], samples.result(alone))
        assert not outcome.passed
        assert outcome.text.endswith(": there is no such value")


def test_gates_on_a_result_that_lacks_their_names_are_refused() -> None:
    with pytest.raises(InputError, match="there is no scenario 'redis'"):
        judge([parse("redis.req_s.ratio>=0")], samples.result(CASE))
