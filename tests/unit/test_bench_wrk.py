from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sockaccel.bench.wrk import WrkLoad, WrkReport, parse_report
from sockaccel.errors import BenchError

GOLDEN = (
    '{"schema":"sockaccel.wrk/1","requests":60000,"bytes":51000000,"duration_us":3000000,'
    '"errors":{"connect":0,"read":1,"write":2,"status":4,"timeout":8},'
    '"latency_us":[[55,1],[3900,59998],[20011,1]]}\n'
)


def changed(**fields: Any) -> str:
    return json.dumps({**json.loads(GOLDEN), **fields})


def test_golden_report() -> None:
    report = parse_report(GOLDEN)
    assert report == WrkReport(
        requests=60000,
        bytes=51000000,
        duration_s=3.0,
        errors={"connect": 0, "read": 1, "write": 2, "status": 4, "timeout": 8},
        histogram=[(55.0, 1), (3900.0, 59998), (20011.0, 1)],
    )  # fmt: skip
    assert report.requests_per_s == 20000
    assert report.failed == 15


@pytest.mark.parametrize("error_class", ["connect", "read", "write", "status", "timeout"])
def test_each_class_of_errors_makes_a_failed_request(error_class: str) -> None:
    errors = {**dict.fromkeys(["connect", "read", "write", "status", "timeout"], 0), error_class: 3}
    assert parse_report(changed(errors=errors)).failed == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Running 3s test",
        "[]",
        "{}",
        changed(schema="sockaccel.wrk/2"),
        changed(errors={"connect": 0}),
        changed(latency_us=None),
        changed(latency_us=[[1]]),
        changed(requests=None),
        changed(duration_us=0),
    ],
)
def test_what_is_not_a_report_is_an_error_and_not_a_measurement(text: str) -> None:
    with pytest.raises(BenchError, match="wrk's report"):
        parse_report(text)


def test_command() -> None:
    load = WrkLoad("http://10.0.0.1/", seconds=3, connections=100, threads=2)
    assert load.argv("/bin/wrk", Path("report.lua")) == [
        "/bin/wrk", "-t2", "-c100", "-d3s", "-s", "report.lua", "http://10.0.0.1/",
    ]  # fmt: skip
