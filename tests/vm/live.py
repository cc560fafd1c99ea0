"""A pytest plugin for slow machines: one JSON line per test as soon as it has ended.

pytest -p vm.live with tests/ on PYTHONPATH. What a test failed of is then known although the
run may be ended before its summary. ``--every N`` takes every Nth test, spread over all files.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_seconds: dict[str, float] = {}
_outcomes: dict[str, tuple[str, str]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every", type=int, default=1, help="take every Nth test")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items[:] = items[:: config.getoption("every")]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = report.nodeid
    _seconds[name] = _seconds.get(name, 0) + report.duration
    if report.failed or name not in _outcomes:
        crash = getattr(report.longrepr, "reprcrash", None)
        cause = crash.message if crash else report.longreprtext
        _outcomes[name] = (report.outcome, " ".join(cause.split())[-300:])
    if report.when == "teardown":
        outcome, cause = _outcomes[name]
        line = {"test": name, "outcome": outcome, "seconds": round(_seconds[name], 1)}
        print("\n" + json.dumps(line | ({"cause": cause} if cause else {})), flush=True)
