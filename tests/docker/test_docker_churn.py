"""Containers that come and go, in the short form; `scripts/docker-churn` does the long one."""

from __future__ import annotations

import pytest
from containers.churn import run_churn


@pytest.mark.timeout(600)
def test_the_scope_is_what_docker_runs_and_no_byte_is_lost() -> None:
    outcome = run_churn(30)
    assert not outcome.faults(), outcome
    assert outcome.count == 30
    assert outcome.report.bytes > 0
