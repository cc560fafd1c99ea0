"""Fixtures: a laboratory per test, removed afterwards, with proof that nothing was left."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from . import harness
from .harness import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session", autouse=True)
def machine(require: Callable[[str, list[str]], None]) -> None:
    """Skip or fail where the machine cannot run these tests; clear what a killed run left."""
    require("kernel", harness.missing())
    harness.raise_descriptor_limit()
    for path in harness.NETNS.glob("sat*"):
        owner = re.match(r"sat(\d+)_", path.name)
        if owner and not Path("/proc", owner[1]).exists():
            harness.run("ip", "netns", "del", path.name)


@contextlib.contextmanager
def laboratory(mode: str) -> Iterator[Lab]:
    lab = Lab(mode)
    try:
        try:
            yield lab
        finally:
            lab.close()
        left = lab.left_behind()
        assert not left, f"left behind: {left}"
    finally:
        lab.scrub()


@pytest.fixture(params=["plain", "accelerated"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Return a laboratory whose `start` accelerates in one of two runs of the test."""
    with laboratory(request.param) as made:
        yield made


@pytest.fixture
def accelerated_lab() -> Iterator[Lab]:
    """Return a laboratory for tests that make sense only with sockaccel."""
    with laboratory("accelerated") as made:
        yield made
