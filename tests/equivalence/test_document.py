"""docs/semantics.md is what the table says, and every hazard has its tests."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from .behaviours import TABLE
from .report import DOCUMENT, HAZARDS
from .table import DIFFERS, POLICIES, SAME, STAYS, Scenario

ROOT = Path(__file__).parents[2]
SOCKET_ROWS = ["1", "2", "2b", "3", "4", "5", "6", "7", "8", "9", *map(str, range(10, 17)), "26"]
OTHER_ROWS = {  # tests that are no comparison of two runs
    "17": "tests/equivalence/test_rows.py::test_the_programs_never_apply_or_cork",
    "18": "tests/equivalence/test_rows.py::test_a_socket_of_another_owner_stays_with_it",
    "19": "tests/kernel/test_pairing.py::test_a_full_map_leaves_the_rest_on_tcp",
    "20": "tests/kernel/test_stream.py::test_messages_arrive_in_both_directions",
    "21": "tests/kernel/test_pairing.py::test_a_destination_elsewhere_is_not_enrolled",
    "22": "tests/kernel/test_stream.py::test_a_writer_that_resumes_after_eagain_is_counted_exactly",
    "25": "tests/unit/test_bench_wrk.py::test_each_class_of_errors_makes_a_failed_request",
}


def lines() -> dict[str, tuple[str, ...]]:
    """Return the cells of the document's tables, by behaviour."""
    found = {}
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("| ") and not line.startswith("| behaviour |"):
            title, *cells = re.split(r"(?<!\\)\|", line.strip("| "))
            found[title.strip()] = tuple(cell.strip() for cell in cells)
    return found


def verdict_cells(scenario: Scenario) -> set[str]:
    """Return what the column `verdict` may say."""
    allowed = [scenario.verdicts(policy) for policy in POLICIES.values()]
    return {" / ".join(dict.fromkeys(chosen)) for chosen in itertools.product(*allowed)}


@pytest.mark.parametrize("scenario", [pytest.param(each, id=each.name) for each in TABLE])
def test_the_document_shows_the_scenario(scenario: Scenario) -> None:
    found = lines()
    # Where kinds of sockets differ, each has a line.
    titles = [scenario.title, *(f"{scenario.title} ({mode})" for mode in scenario.modes)]
    shown = [found[title] for title in titles if title in found]
    assert shown, "not in docs/semantics.md; run scripts/semantics"
    for cells in shown:
        verdict = cells[len(POLICIES) + 2]  # after row, plain TCP and the policies
        assert verdict in verdict_cells(scenario)


def test_the_document_shows_nothing_else() -> None:
    titles = {scenario.title for scenario in TABLE}
    stray = {re.sub(r" \((non-)?blocking\)$", "", title) for title in lines()} - titles
    assert not stray, "run scripts/semantics"


def test_the_document_names_no_other_verdict() -> None:
    verdicts = {cells[len(POLICIES) + 2] for cells in lines().values()}
    for verdict in verdicts:
        assert set(verdict.split(" / ")) <= {SAME, STAYS, DIFFERS}


@pytest.mark.parametrize("row", SOCKET_ROWS)
def test_every_hazard_of_sockets_has_a_scenario(row: str) -> None:
    assert any(row in scenario.rows for scenario in TABLE)


@pytest.mark.parametrize("row", list(OTHER_ROWS))
def test_every_other_hazard_has_a_test(row: str) -> None:
    path, _, name = OTHER_ROWS[row].partition("::")
    assert f"\ndef {name}(" in (ROOT / path).read_text()


def test_every_row_that_is_named_is_explained() -> None:
    named = {row for scenario in TABLE for row in scenario.rows}
    named |= {scenario.known.row for scenario in TABLE if scenario.known}
    assert named == set(HAZARDS)
