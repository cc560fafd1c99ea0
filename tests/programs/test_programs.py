"""Short forms of scripts/equivalence, for every change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kernel import harness

from . import cpython, judge, proxies, workloads
from .report import remarks

if TYPE_CHECKING:
    from .results import Row

POLICY = "all"


@pytest.fixture(scope="module", autouse=True)
def machine(require) -> None:
    require("kernel", harness.missing())
    harness.raise_descriptor_limit()
    harness.clear_what_killed_runs_left()


def check(row: Row, share: float) -> None:
    """Fail, saying all that differs; also where the row proves nothing."""
    assert not row.unexplained, "\n".join(remarks([row]))
    assert row.passed
    assert row.traffic.share >= share, row.traffic


@pytest.mark.timeout(240)
def test_cpython_passes_its_own_tests() -> None:
    suites = [cpython.Module(name) for name in cpython.QUICK_MODULES]
    rows = judge.judge("cpython", suites, POLICY, timeout=100)
    for row in rows:
        check(row, 0)
    assert sum(row.traffic.redirected for row in rows) > 1000


@pytest.mark.parametrize("proxy", proxies.PROXIES, ids=lambda proxy: proxy.name)
def test_proxies_serve_whole_bodies_in_time(proxy: proxies.Proxy) -> None:
    (row,) = proxies.judge(POLICY, quick=True, proxies=[proxy])
    check(row, 0.5)


@pytest.mark.parametrize("workload", workloads.workloads(), ids=lambda workload: workload.name)
def test_servers_and_clients_are_redirected(workload: workloads.Workload) -> None:
    check(workloads.judge_one(workload, POLICY, quick=True), 0)
