"""Short forms of scripts/equivalence, for every change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kernel import harness

from . import cpython, judge, proxies, workloads
from .known import KNOWN
from .report import remarks

if TYPE_CHECKING:
    from collections.abc import Callable

    from .results import Row

POLICY = "safe"


def expected_to_work(name: str) -> bool:
    """Under `--policy all` what is known to fail only costs time; under `safe` nothing is."""
    return POLICY == "safe" or all(known.subject != name for known in KNOWN)


PROXIES = [proxy for proxy in proxies.PROXIES if expected_to_work(proxy.name)]
WORKLOADS = [workload for workload in workloads.workloads() if expected_to_work(workload.name)]


@pytest.fixture(scope="module", autouse=True)
def machine(require: Callable[[str, list[str]], None]) -> None:
    require("kernel", harness.missing())
    harness.raise_descriptor_limit()
    harness.clear_what_killed_runs_left()


def check(row: Row) -> None:
    """Fail, saying all that differs; also where the row proves nothing."""
    assert not row.failures, "\n".join(remarks([row]))
    assert row.passed


def test_cpython_passes_its_own_tests() -> None:
    suites = [cpython.Module(name) for name in cpython.QUICK_MODULES]
    rows = judge.judge("cpython", suites, POLICY, timeout=100)
    for row in rows:
        check(row)
    if POLICY == "all":
        assert sum(row.traffic.redirected for row in rows) > 1000


@pytest.mark.parametrize("proxy", PROXIES, ids=lambda proxy: proxy.name)
def test_bodies_through_proxies_are_whole_and_in_time(proxy: proxies.Proxy) -> None:
    (row,) = proxies.judge(POLICY, quick=True, proxies=[proxy])
    check(row)
    if POLICY == "all":
        assert row.traffic.share > 0.9


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_servers_and_clients_are_redirected(workload: workloads.Workload) -> None:
    check(workloads.judge_one(workload, POLICY, quick=True))


def test_a_broken_program_is_noticed() -> None:
    """splice() is what `--policy all` breaks: the judges must see it, or see nothing."""
    (proxy,) = (proxy for proxy in proxies.PROXIES if proxy.name == "Python, os.splice")
    row = proxies.judge_one(proxy, "all", proxies.cases(quick=True)[:1])
    (failure,) = row.failures
    assert failure.detail.startswith("stalled")
    assert failure.known
    assert failure.known.hazard == "9"
