"""Gates: what a result must reach. Pure.

    nginx-lb.req_s.ratio>=1.5           every case of the scenario
    echo/64.req_s.low>=1.4              one case, the lower end of the interval
    redis.latency_p99_us.median<=900    the accelerated arm itself, in the metric's unit

``ratio``, ``low`` and ``high`` are of accelerated divided by baseline.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from statistics import median
from typing import TYPE_CHECKING

from sockaccel.bench.result import ACCELERATED
from sockaccel.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from sockaccel.bench.result import CaseResult, Result

EXAMPLE = "nginx-lb.req_s.ratio>=1.5"
FIELDS = ("ratio", "low", "high", "median")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_PATTERN = re.compile(
    r"\s*(?P<scenario>[^\s./]+)(/(?P<case>[^\s./]+))?\.(?P<metric>[^\s./<>=]+)\.(?P<field>[^\s./<>=]+)"
    r"\s*(?P<operator>[<>]=?)\s*(?P<number>\d+(\.\d+)?)\s*"
)


@dataclass(frozen=True)
class Gate:
    """One condition."""

    scenario: str
    case: str | None  # None: every case of the scenario that has the metric
    metric: str
    field: str
    operator: str
    number: float

    def __str__(self) -> str:
        case = f"/{self.case}" if self.case else ""
        name = f"{self.scenario}{case}.{self.metric}.{self.field}"
        return f"{name}{self.operator}{self.number:.12g}"

    def covers(self, case_id: str) -> bool:
        """Return whether it is about a case."""
        scenario, _, case = case_id.partition("/")
        return scenario == self.scenario and self.case in (None, case)


@dataclass(frozen=True)
class Outcome:
    """What a gate found in one case."""

    gate: Gate
    passed: bool
    text: str  # one line for people


def parse(text: str) -> Gate:
    """Return the gate that a text such as ``nginx-lb.req_s.ratio>=1.5`` states.

    Raises:
        InputError: it states none.

    """
    found = _PATTERN.fullmatch(text)
    if found is None:
        raise InputError(
            f"cannot use gate '{text}': it is not SCENARIO[/CASE].METRIC.FIELD>=NUMBER",
            f"--gate '{EXAMPLE}'",
        )
    gate = Gate(
        scenario=found["scenario"],
        case=found["case"],
        metric=found["metric"],
        field=found["field"],
        operator=found["operator"],
        number=float(found["number"]),
    )
    _check(gate, "field", FIELDS)
    return gate


def check_names(gates: Sequence[Gate], metrics: Mapping[str, Collection[str]]) -> None:
    """Refuse gates that name nothing.

    metrics: the names of the metrics of each case, by "scenario/case"; of all cases that
    there are or will be, also of those that cannot be measured here.

    Raises:
        InputError: no case or metric has that name; the hint has the nearest one.

    """
    for gate in gates:
        _check(gate, "scenario", {name.partition("/")[0] for name in metrics})
        cases = [name for name in metrics if name.partition("/")[0] == gate.scenario]
        _check(gate, "case", {None, *(name.partition("/")[2] for name in cases)})
        covered = [name for name in cases if gate.covers(name)]
        _check(gate, "metric", {metric for name in covered for metric in metrics[name]})


def _check(gate: Gate, part: str, known: Collection[str | None]) -> None:
    name = getattr(gate, part)
    if name in known:
        return
    near = get_close_matches(name, [each for each in known if each], n=1, cutoff=0.0)
    raise InputError(
        f"cannot use gate '{gate}': there is no {part} '{name}'",
        f"--gate '{replace(gate, **{part: near[0]})}'" if near else "sockaccel bench list",
    )


def judge(gates: Sequence[Gate], result: Result) -> list[Outcome]:
    """Return what each gate finds, case by case; INVALID and not measured never pass.

    Raises:
        InputError: a gate names nothing that is in the result or was left out of it.

    """
    left_out = {each.scenario: each.reason for each in result.left_out}
    present = {case.id: [metric.name for metric in case.metrics] for case in result.cases}
    check_names([gate for gate in gates if gate.scenario not in left_out], present)
    return [outcome for gate in gates for outcome in _outcomes(gate, result, left_out)]


def _outcomes(gate: Gate, result: Result, left_out: Mapping[str, str]) -> Iterator[Outcome]:
    if gate.scenario in left_out:
        yield Outcome(gate, False, f"{gate}: not measured: {left_out[gate.scenario]}")
        return
    for case in result.cases:
        named = any(metric.name == gate.metric for metric in case.metrics)
        if gate.covers(case.id) and (named or gate.case):
            passed, found = _found(gate, case)
            yield Outcome(gate, passed, f"{replace(gate, case=case.case)}: {found}")


def _found(gate: Gate, case: CaseResult) -> tuple[bool, str]:
    if not case.valid:
        return False, f"INVALID: {case.all_problems[0]}"
    value = _value(gate, case)
    if value is None:
        return False, "there is no such value"
    return _OPERATORS[gate.operator](value, gate.number), f"it is {value:.10g}"


def _value(gate: Gate, case: CaseResult) -> float | None:
    if gate.field == "median":
        values = case.values(ACCELERATED, gate.metric)
        return median(values) if values else None
    ratio = case.gain(gate.metric)
    if ratio is None:
        return None
    return {"ratio": ratio.median, "low": ratio.low, "high": ratio.high}[gate.field]
