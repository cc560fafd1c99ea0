from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import bench_samples as samples
import jsonschema
import pytest

from sockaccel.bench import result as model
from sockaccel.bench.advice import with_advice
from sockaccel.bench.result import as_json, dumps, loads
from sockaccel.errors import InputError

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
SCHEMA = json.loads((ROOT / "benchmarks" / "result.schema.json").read_text())
OBJECTS = {
    "case": model.CaseResult,
    "metric": model.Metric,
    "run": model.Run,
    "proof": model.Proof,
    "latency": model.Latency,
    "cpu": model.Cpu,
    "contextSwitches": model.ContextSwitches,
    "memory": model.Memory,
    "ratio": model.Ratio,
    "advice": model.Advice,
    "leftOut": model.LeftOut,
}


@pytest.fixture(scope="module")
def full() -> model.Result:
    return with_advice(samples.full())


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


def names(kind: type[Any]) -> set[str]:
    return {field.name for field in fields(kind)} | set(getattr(kind, "derived", ()))


def test_a_result_is_as_the_schema_says(
    full: model.Result, validator: jsonschema.Draft202012Validator
) -> None:
    validator.validate(json.loads(dumps(full)))


def test_the_schema_describes_every_property_and_no_other() -> None:
    described = SCHEMA["$defs"]
    assert set(described) == set(OBJECTS)
    for name, kind in OBJECTS.items():
        assert set(described[name]["properties"]) == names(kind), name
        assert set(described[name]["required"]) == names(kind), name
    assert set(SCHEMA["properties"]) == {"schema"} | names(model.Result)
    assert set(SCHEMA["required"]) == {"schema"} | names(model.Result)


def test_the_schema_and_the_classes_know_the_same_words() -> None:
    described = SCHEMA["$defs"]
    assert described["metric"]["properties"]["better"]["enum"] == list(model.Better)
    assert described["latency"]["properties"]["load"]["enum"] == list(model.Load)
    assert SCHEMA["properties"]["schema"]["const"] == model.SCHEMA


def optional(kind: type[Any]) -> set[str]:
    return {name for name, hint in get_type_hints(kind).items() if type(None) in _args(hint)}


def _args(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__args__", ())


def test_the_schema_and_the_classes_agree_on_what_may_be_null() -> None:
    for kind, described in [
        (model.Result, SCHEMA),
        *((OBJECTS[name], each) for name, each in SCHEMA["$defs"].items()),
    ]:
        nullable = {
            name for name, each in described["properties"].items() if {"type": "null"} in _any(each)
        }
        assert nullable == optional(kind) - {"versions"}, kind


def _any(described: dict[str, Any]) -> list[Any]:
    found: list[Any] = described.get("anyOf", [])
    return found


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("schema",), "sockaccel.bench/2"),
        (("cases", 0, "case"), "with.dot"),
        (("cases", 0, "runs", 0, "position"), "first"),
        (("cases", 0, "runs", 0, "metrics", "req_s"), -1),
        (("cases", 0, "runs", 0, "latency", "histogram", 0), [1.0]),
        (("cases", 0, "metrics", 0, "better"), "faster"),
        (("cases", 0, "unknown"), 1),
        (("valid",), None),
    ],
)
def test_the_schema_refuses_what_no_result_has(
    full: model.Result,
    validator: jsonschema.Draft202012Validator,
    where: tuple[Any, ...],
    value: object,
) -> None:
    data = json.loads(dumps(full))
    spot = data
    for step in where[:-1]:
        spot = spot[step]
    spot[where[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(data)


def test_what_was_written_is_read_again(full: model.Result) -> None:
    assert loads(dumps(full), "file") == full
    assert json.loads(dumps(full)) == json.loads(json.dumps(as_json(full)))


def test_golden_json() -> None:
    made = with_advice(samples.result(samples.load_balancer(values=20)))
    assert dumps(made) == (GOLDEN / "bench.json").read_text()


def test_a_histogram_takes_one_line() -> None:
    text = dumps(samples.result(samples.load_balancer()))
    lines = [line for line in text.splitlines() if '"histogram"' in line]
    assert len(lines) == 14
    assert all(line.endswith("]]") for line in lines)
    assert max(len(line) for line in text.splitlines() if '"histogram"' not in line) < 120


def test_lists_of_texts_that_look_like_numbers_are_left_alone() -> None:
    odd = ["[[1, 2], [3, 4]]", "]\n[", '[["']
    made = samples.result(samples.load_balancer(), command=odd)
    assert loads(dumps(made), "file").command == odd


def said(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        loads(text, "some.json")
    assert str(caught.value).startswith("cannot read result 'some.json': ")
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[]", "its schema is None, not 'sockaccel.bench/1'"),
        ("{}", "its schema is None"),
        ('{"schema": 1}', "its schema is 1"),
        ('{"schema": "sockaccel.status/1"}', "its schema is 'sockaccel.status/1'"),
        ('{"schema": "sockaccel.bench/x"}', "its schema is 'sockaccel.bench/x'"),
        ('{"schema": "sockaccel.bench/1"}', "id is missing"),
        (f'{{"schema": "sockaccel.bench/{"9" * 5000}"}}', "its schema is 'sockaccel.bench/999"),
        ("[" * 200_000, "no JSON"),
        ('{"schema": 1e999}', "no JSON: 1e999 is not a finite number"),
        ('{"schema": NaN}', "no JSON: NaN is not a finite number"),
    ],
)
def test_what_is_no_result_is_refused(text: str, reason: str) -> None:
    assert reason in str(said(text))


def test_a_newer_schema_is_refused_with_what_helps() -> None:
    error = said('{"schema": "sockaccel.bench/2"}')
    assert "its schema is 'sockaccel.bench/2', this version reads 'sockaccel.bench/1'" in str(error)
    assert "version of sockaccel that wrote it" in str(error.hint)


def test_a_result_that_contradicts_itself_is_refused(full: model.Result) -> None:
    data = json.loads(dumps(full))
    data["cases"][-1]["valid"] = True
    assert "cases[7].valid is True, but the rest of it says False" in str(said(json.dumps(data)))


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("cases.0.metrics", [], "has nothing to compare: fewer than two arms, or no metric"),
        ("cases.0.arms", [], "has nothing to compare: fewer than two arms, or no metric"),
        ("cases.0.runs.0.metrics.req_s", -1.0, "req_s of a run of"),
        ("cases.0.runs.0.metrics.req_s", 1e300, "req_s of a run of"),
        ("cases.0.runs.0.seconds", 10**400, "too large"),
        ("cases.0.title", "\x1b[2J", "has characters that cannot be shown"),
        ("machine.cpu", "\ud800", "has characters that cannot be shown"),
    ],
)
def test_what_no_measurement_can_have_found_is_refused(
    full: model.Result, path: str, value: object, reason: str
) -> None:
    data = json.loads(dumps(full))
    *steps, last = path.split(".")
    place = data
    for step in steps:
        place = place[int(step)] if step.isdecimal() else place[step]
    place[last] = value
    assert reason in str(said(json.dumps(data)))


def test_a_case_that_was_not_concluded_is_not_valid() -> None:
    made = replace(samples.load_balancer(), ratios=[])
    assert not made.valid
    assert made.all_problems == ["not measured"]


def test_a_result_is_valid_if_it_came_to_its_end_and_every_case_is() -> None:
    good = samples.load_balancer()
    broken = samples.invalid(good, "why")
    assert samples.result(good).valid
    assert not samples.result(good, finished=None).valid
    assert not samples.result(good, broken).valid
    assert not samples.result().valid


@pytest.mark.parametrize(
    ("title", "unit", "label"),
    [
        ("requests/s", "1/s", "requests/s"),
        ("latency p99", "us", "latency p99, us"),
        ("memory", "bytes", "memory"),
        ("CPU s/million requests", "s/million requests", "CPU s/million requests"),
    ],
)
def test_a_label_shows_the_unit_where_nothing_else_does(title: str, unit: str, label: str) -> None:
    assert model.Metric("x", title, unit, model.Better.LOWER).label == label


def test_warm_ups_are_kept_and_not_counted() -> None:
    case = samples.load_balancer()
    assert len(case.runs) == 14
    assert [run.round for run in case.of_arm("baseline")] == [1, 2, 3, 4, 5, 6]
    assert len(case.values("accelerated", "req_s")) == 6
