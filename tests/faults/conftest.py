"""These tests need the machine that the tests of the kernel need, and a few tools more."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from kernel import harness

from .build import TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session", autouse=True)
def machine(require: Callable[[str, list[str]], None]) -> None:
    """Skip or fail where the machine cannot run these tests; clear what a killed run left."""
    require("kernel", [*harness.missing(), *(tool for tool in TOOLS if not shutil.which(tool))])
    harness.raise_descriptor_limit()
    harness.clear_what_killed_runs_left()
