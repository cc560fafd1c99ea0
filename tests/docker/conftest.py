"""Fixtures: one Docker daemon for all tests, a laboratory for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from containers.harness import DockerLab, daemon
from kernel import harness as kernel
from kernel.harness import removed

from sockaccel.bench.dockerd import Dockerd, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session", autouse=True)
def machine(require: Callable[[str, list[str]], None]) -> None:
    """Skip or fail where the machine cannot run these tests; clear what a killed run left."""
    require("docker", [*kernel.missing(), *missing()])
    kernel.raise_descriptor_limit()
    kernel.clear_what_killed_runs_left()


@pytest.fixture(scope="session")
def dockerd(machine: None) -> Iterator[Dockerd]:
    """Return a running daemon; it starts once, because that and its image take seconds."""
    with daemon("--live-restore") as running:
        yield running


@pytest.fixture(scope="session")
def second(machine: None) -> Iterator[Dockerd]:
    """Return another daemon: one without docker-proxy, whose containers end with it."""
    with daemon("--userland-proxy=false") as running:
        yield running


@pytest.fixture
def lab(dockerd: Dockerd) -> Iterator[DockerLab]:
    """Return a laboratory of containers."""
    with removed(DockerLab(dockerd)) as made:
        yield made
