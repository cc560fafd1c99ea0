"""Fixtures: a laboratory per test, removed afterwards, with proof that nothing was left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from . import harness
from .harness import Lab, removed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session", autouse=True)
def machine(require: Callable[[str, list[str]], None]) -> None:
    """Skip or fail where the machine cannot run these tests; clear what a killed run left."""
    require("kernel", harness.missing())
    harness.raise_descriptor_limit()
    harness.clear_what_killed_runs_left()


@pytest.fixture(params=["plain", "accelerated"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Return a laboratory whose `start` accelerates in one of two runs of the test."""
    with removed(Lab(request.param)) as made:
        yield made


@pytest.fixture
def accelerated_lab() -> Iterator[Lab]:
    """Return a laboratory for tests that make sense only with sockaccel."""
    with removed(Lab("accelerated")) as made:
        yield made
