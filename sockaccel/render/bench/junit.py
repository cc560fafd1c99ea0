"""A benchmark's result as JUnit XML: each case a test, INVALID a failure. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from sockaccel.render.bench.document import interval_text, scenarios
from sockaccel.render.units import times_text

if TYPE_CHECKING:
    from sockaccel.bench.result import CaseResult, LeftOut, Result


def as_junit(result: Result) -> str:
    """Return the XML: a test suite for each scenario, a skipped test for one left out."""
    root = ET.Element("testsuites", name="sockaccel bench")
    for name, cases in scenarios(result).items():
        suite = ET.SubElement(
            root,
            "testsuite",
            name=name,
            timestamp=result.started,
            tests=str(len(cases)),
            failures=str(sum(not case.valid for case in cases)),
            errors="0",
            skipped="0",
        )
        properties = ET.SubElement(suite, "properties")
        for key, value in [*result.machine.items(), *result.parameters.items()]:
            ET.SubElement(properties, "property", name=str(key), value=_clean(str(value)))
        for case in cases:
            _case(suite, case)
    for left in result.left_out:
        _left_out(root, left, result)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ET.Element, case: CaseResult) -> None:
    seconds = sum(run.seconds for run in case.runs)
    test = ET.SubElement(
        suite, "testcase", classname=case.scenario, name=case.case, time=f"{seconds:.3f}"
    )
    if not case.valid:
        problems = [_clean(problem) for problem in case.all_problems]
        failure = ET.SubElement(test, "failure", type="INVALID", message=problems[0])
        failure.text = "\n".join(problems)
        return
    lines = []
    for metric in case.metrics:
        ratio = case.gain(metric.name)
        if ratio:
            lines.append(f"{metric.label}: {times_text(ratio.median)} ({interval_text(ratio)})")
    ET.SubElement(test, "system-out").text = _clean("\n".join(lines))


def _left_out(root: ET.Element, left: LeftOut, result: Result) -> None:
    suite = ET.SubElement(
        root,
        "testsuite",
        name=left.scenario,
        timestamp=result.started,
        tests="1",
        failures="0",
        errors="0",
        skipped="1",
    )
    test = ET.SubElement(suite, "testcase", classname=left.scenario, name="all", time="0")
    ET.SubElement(test, "skipped", message=_clean(f"{left.reason}; {left.hint}"))


def _clean(text: str) -> str:
    """Return a text without the characters that XML cannot hold."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
