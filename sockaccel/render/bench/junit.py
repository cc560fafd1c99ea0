"""A benchmark's result as JUnit XML: each case a test, INVALID a failure. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from sockaccel.render.bench.document import interval_text, scenarios
from sockaccel.render.table import printable
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
            name=printable(name),
            timestamp=printable(result.started),
            tests=str(len(cases)),
            failures=str(sum(not case.valid for case in cases)),
            errors="0",
            skipped="0",
        )
        properties = ET.SubElement(suite, "properties")
        for key, value in [*result.machine.items(), *result.parameters.items()]:
            ET.SubElement(
                properties, "property", name=printable(str(key)), value=printable(str(value))
            )
        for case in cases:
            _case(suite, case)
    for left in result.left_out:
        _left_out(root, left, result)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ET.Element, case: CaseResult) -> None:
    seconds = sum(run.seconds for run in case.runs)
    names = {"classname": printable(case.scenario), "name": printable(case.case)}
    test = ET.SubElement(suite, "testcase", names, time=f"{seconds:.3f}")
    if not case.valid:
        problems = [printable(problem) for problem in case.all_problems]
        failure = ET.SubElement(test, "failure", type="INVALID", message=problems[0])
        failure.text = "\n".join(problems)
        return
    lines = []
    for metric in case.metrics:
        ratio = case.gain(metric.name)
        if ratio:
            label = printable(metric.label)
            lines.append(f"{label}: {times_text(ratio.median)} ({interval_text(ratio)})")
    ET.SubElement(test, "system-out").text = "\n".join(lines)


def _left_out(root: ET.Element, left: LeftOut, result: Result) -> None:
    suite = ET.SubElement(
        root,
        "testsuite",
        name=printable(left.scenario),
        timestamp=printable(result.started),
        tests="1",
        failures="0",
        errors="0",
        skipped="1",
    )
    names = {"classname": printable(left.scenario), "name": "all"}
    test = ET.SubElement(suite, "testcase", names, time="0")
    ET.SubElement(test, "skipped", message=printable(f"{left.reason}; {left.hint}"))
