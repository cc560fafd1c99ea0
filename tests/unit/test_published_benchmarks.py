"""docs/benchmarks.md shows what is in benchmarks/results, and no figure of its own."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from sockaccel.bench.power import power_of_case
from sockaccel.bench.result import Result, loads
from sockaccel.bench.scenario import load_all
from sockaccel.render.bench.markdown import as_markdown
from sockaccel.render.units import percent_text

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs/benchmarks.md").read_text()
RAW = sorted((ROOT / "benchmarks/results").glob("*.json"))
NOISE = [path for path in RAW if path.stem.endswith("noise")]


@cache
def read(path: Path) -> Result:
    return loads(path.read_text(), path.name)


@pytest.mark.parametrize("path", RAW, ids=lambda path: path.stem)
def test_a_raw_result_is_valid_and_linked(path: Path) -> None:
    result = read(path)
    assert result.valid
    assert not result.left_out
    assert f"(../benchmarks/results/{path.name})" in DOCUMENT


@pytest.mark.parametrize(
    "path", [path for path in RAW if path not in NOISE], ids=lambda path: path.stem
)
def test_the_table_is_that_of_the_raw_result(path: Path) -> None:
    _, _, rest = as_markdown(read(path)).partition("\n### overview")
    table = rest.split("\n\n")[1]
    assert table.count("\n") >= 4
    assert table in DOCUMENT


def test_every_scenario_has_been_measured_with_all_its_cases_and_arms() -> None:
    measured = [(case.id, case.arms) for path in RAW for case in read(path).cases]
    for scenario in load_all().values():
        for case in scenario.cases:
            assert (f"{scenario.name}/{case.name}", [str(arm) for arm in scenario.arms]) in measured


@pytest.mark.parametrize("path", NOISE, ids=lambda path: path.stem)
def test_few_false_alarms_and_5_percent_found_in_real_runs(path: Path) -> None:
    """200 comparisons of real baseline runs with themselves: see sockaccel.bench.power."""
    for case in read(path).cases:
        told = power_of_case(case, None, 0.05)
        assert told.runs >= 20
        assert told.power.false_alarms <= 0.08
        assert told.power.found >= 0.80
        shares = (told.spread, told.power.false_alarms, told.power.found)
        row = " | ".join(map(percent_text, shares))
        assert f"| {case.id} | {row} |" in DOCUMENT


def test_every_ratio_in_the_text_is_in_a_table() -> None:
    text = re.sub(r"(?m)^\|.*$", "", DOCUMENT)
    tables = "\n".join(re.findall(r"(?m)^\|.*$", DOCUMENT))
    shown = set(re.findall(r"(\d\.\d\d)\u00d7", text))
    assert len(shown) > 10
    for ratio in shown:
        assert f"{ratio}x" in tables, ratio
