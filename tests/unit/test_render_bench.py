"""The forms of a benchmark's result besides the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import bench_samples as samples
import pytest

from sockaccel.bench.advice import with_advice
from sockaccel.bench.codec import decode
from sockaccel.bench.compare import compare
from sockaccel.bench.result import Better, Metric, Result, as_json
from sockaccel.render.bench.document import comparison_document, document
from sockaccel.render.bench.github import action_files
from sockaccel.render.bench.junit import as_junit
from sockaccel.render.bench.markdown import as_markdown
from sockaccel.render.bench.page import as_html
from sockaccel.render.bench.text import as_text, text

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTILE = "\x1b[2J\x00\x9b\u202e\ud800"
GOLDEN = Path(__file__).parent / "golden"
FULL = with_advice(samples.full())
GOOD = samples.result(samples.load_balancer())


def test_golden_text() -> None:
    assert as_text(FULL) + "\n" == (GOLDEN / "bench.txt").read_text()


def test_golden_markdown() -> None:
    assert as_markdown(FULL) == (GOLDEN / "bench.md").read_text()


def test_failures_come_first_and_leave_no_figure() -> None:
    lines = as_text(FULL).splitlines()
    assert lines[2] == "INVALID  redis/get: accelerated: no byte"
    (row,) = [line for line in lines if line.startswith("get ")]
    assert row.split() == ["get", "INVALID", "-", "-", "-", "-"]


def test_an_interrupted_measurement_says_so_first() -> None:
    shown = document(replace(GOOD, finished=None))
    assert shown.notices[0].word == "INTERRUPTED"


@pytest.mark.parametrize(
    ("gain", "better", "word"),
    [
        (1.7, Better.HIGHER, "better"),
        (0.6, Better.HIGHER, "WORSE"),
        (1.7, Better.LOWER, "WORSE"),
        (0.6, Better.LOWER, "better"),
        (1.0, Better.HIGHER, "~"),
        (1.0, Better.LOWER, "~"),
    ],
)
def test_the_verdict_knows_which_way_is_better(gain: float, better: Better, word: str) -> None:
    case = samples.load_balancer(gain=gain, spread=0.05)
    metrics = [replace(case.metrics[0], better=better)]
    (section,) = document(samples.result(replace(case, metrics=metrics))).sections
    assert section.tables[0].rows[0][-1] == word


def test_other_arms_have_their_medians_and_no_ratio() -> None:
    others = samples.result(samples.case("a", "b", {"baseline": 100.0, "unix": 123.0}, spread=0.0))
    assert {"100", "123"} <= set(as_text(others).splitlines()[4].split())
    assert document(others).sections[0].tables[0].rows[0][-3:] == ["-", "-", ""]


def test_markdown_shows_every_character_as_it_is() -> None:
    made = samples.result(
        samples.load_balancer(), machine={"cpu": "a|b *c* _d_ <e> ~f~", "kernel": "x"}
    )
    assert r"a\|b \*c\* \_d\_ \<e\> \~f\~" in as_markdown(made)


def test_a_comparison_has_a_row_for_each_arm_and_its_doubts_first() -> None:
    other = samples.result(samples.load_balancer(gain=1.2, seed=2), machine={"cpu": "Another"})
    lines = text(comparison_document(compare(GOOD, other), "a.json", "b.json")).splitlines()
    assert lines[0] == "B next to A. A: a.json, B: b.json"
    assert lines[2] == "WARNING  the machines differ: cpu is Some CPU in A and Another in B"
    rows = {tuple(line.split()[:2]): line.split()[-1] for line in lines if "requests/s" in line}
    assert rows == {
        ("baseline", "requests/s"): "~",
        ("accelerated", "requests/s"): "WORSE",
        ("accelerated", "/"): "WORSE",
    }


def test_githubs_files_are_split_by_which_way_is_better() -> None:
    files = {name: json.loads(content) for name, content in action_files(GOOD).items()}
    assert set(files) == {"customBiggerIsBetter.json", "customSmallerIsBetter.json"}
    bigger = {entry["name"]: entry for entry in files["customBiggerIsBetter.json"]}
    assert set(bigger) == {
        "nginx-lb/keepalive-on baseline: requests/s",
        "nginx-lb/keepalive-on accelerated: requests/s",
        "nginx-lb/keepalive-on accelerated / baseline: requests/s",
    }
    assert all("p99" in entry["name"] for entry in files["customSmallerIsBetter.json"])
    ratio = bigger["nginx-lb/keepalive-on accelerated / baseline: requests/s"]
    gain = GOOD.cases[0].gain("req_s")
    assert gain
    assert (ratio["unit"], ratio["value"]) == ("x", gain.median)
    for entry in [*bigger.values(), *files["customSmallerIsBetter.json"]]:
        assert set(entry) == {"name", "unit", "value", "range", "extra"}
        assert isinstance(entry["value"], float)


def test_githubs_files_do_not_have_what_is_invalid() -> None:
    broken = samples.result(samples.invalid(samples.load_balancer(), "why"))
    assert [json.loads(content) for content in action_files(broken).values()] == [[], []]
    assert "redis" not in "".join(action_files(FULL).values())


def test_junit_has_a_test_for_each_case_and_invalid_is_a_failure() -> None:
    root = ET.fromstring(as_junit(FULL))
    assert root.tag == "testsuites"
    counts = {
        suite.get("name"): tuple(suite.get(key) for key in ("tests", "failures", "skipped"))
        for suite in root
    }
    assert counts == {
        "nginx-lb": ("2", "0", "0"),
        "echo": ("4", "0", "0"),
        "stream": ("1", "0", "0"),
        "redis": ("1", "1", "0"),
        "postgres": ("1", "0", "1"),
    }
    for suite in root:
        cases = suite.findall("testcase")
        assert len(cases) == int(suite.get("tests", "0"))
        assert len(suite.findall("testcase/failure")) == int(suite.get("failures", "0"))
    (failure,) = root.findall(".//failure")
    assert (failure.get("type"), failure.get("message")) == ("INVALID", "accelerated: no byte")
    (skipped,) = root.findall(".//skipped")
    assert "apt-get install postgresql" in (skipped.get("message") or "")
    said = root.findtext(".//testcase[@name='keepalive-on']/system-out") or ""
    assert said.splitlines()[0] == "requests/s: 1.69x (1.65x to 1.73x)"


def test_junit_is_xml_whatever_a_problem_says() -> None:
    broken = samples.invalid(samples.load_balancer(), 'nginx said "\x1b[31m<&>\x00"')
    failure = ET.fromstring(as_junit(samples.result(broken))).find(".//failure")
    assert failure is not None
    assert failure.get("message") == 'nginx said "?[31m<&>?"'


def hostile(value: Any, key: str = "") -> Any:
    """Return JSON with what a terminal or XML would trip over in every text but fixed words."""
    if isinstance(value, dict):
        return {name: hostile(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [hostile(each, key) for each in value]
    fixed = {"schema", "name", "better", "load", "arm", "arms", "to", "metric"}
    return f"{value}{HOSTILE}" if isinstance(value, str) and key not in fixed else value


@pytest.mark.parametrize("form", [as_text, as_markdown, as_html, as_junit])
def test_no_form_hands_on_what_a_terminal_would_act_on(form: Callable[[Result], str]) -> None:
    said = form(decode(Result, hostile(as_json(FULL)) | {"parameters": {HOSTILE: HOSTILE}}))
    assert "[2J" in said
    assert {char for char in said if not char.isprintable()} == {"\n"}
    if form is as_junit:
        ET.fromstring(said)


def test_a_metric_that_a_run_lacks_is_a_dash() -> None:
    case = samples.load_balancer()
    other = Metric("cpu_s", "CPU", "s", Better.LOWER)
    made = samples.result(replace(case, metrics=[*case.metrics, other]))
    rows = document(made).sections[0].tables[0].rows
    assert rows[2] == ["keepalive-on", "CPU, s", "-", "-", "-", "-", ""]
    assert "CPU, s" not in "".join(action_files(made).values())


def test_warnings_of_one_kind_are_one_and_tell_the_worst() -> None:
    noisy = [
        samples.case("a", name, {"baseline": 100.0, "accelerated": 170.0}, spread=spread)
        for name, spread in [("calm", 0.01), ("noisy", 0.07), ("wild", 0.2), ("loud", 0.1)]
    ]
    (warning,) = [
        each
        for each in document(with_advice(samples.result(*noisy))).notices
        if "standard deviation" in each.text
    ]
    assert warning.text.startswith("a/wild: The standard deviation of 6 baseline runs")
    assert ", and 2 more like it. " in warning.text
