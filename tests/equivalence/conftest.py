"""Fixtures: the laboratories of plain TCP and of one policy at a time, shared by all scenarios."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kernel import harness

from .judge import PLAIN, Judge, world
from .table import POLICIES, Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kernel.harness import Lab


@pytest.fixture(scope="session", autouse=True)
def machine(require: Callable[[str, list[str]], None]) -> None:
    """Skip or fail where the machine cannot run these tests; clear what a killed run left."""
    require("kernel", harness.missing())
    harness.raise_descriptor_limit()
    harness.clear_what_killed_runs_left()


@pytest.fixture(scope="module")
def judge(machine: None) -> Iterator[Judge]:
    with world(PLAIN) as lab:
        yield Judge(lab, {})


@pytest.fixture(scope="module", params=list(POLICIES))
def policy(request: pytest.FixtureRequest) -> Policy:
    return POLICIES[request.param]


@pytest.fixture(scope="module")
def accelerated(policy: Policy, judge: Judge) -> Iterator[Lab]:
    """Return the laboratory of a policy, shared by its scenarios, each on ports of its own."""
    with world(policy) as lab:
        yield lab
