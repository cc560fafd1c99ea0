from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from sockaccel.agent.notify import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """Return the socket on which a service manager listens."""
    address = str(tmp_path / "notify")
    if request.param == "abstract":
        address = f"\0sockaccel-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(5)
        yield listener


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    name = manager.getsockname()
    return {"NOTIFY_SOCKET": "@" + name[1:].decode() if isinstance(name, bytes) else name, **more}


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_what_is_said_is_what_the_protocol_asks_for(manager: socket.socket) -> None:
    notifier = Notifier(environment(manager))
    notifier.ready("3 namespaces")
    assert heard(manager) == ["READY=1", "STATUS=3 namespaces"]
    notifier.status("Docker is away")
    assert heard(manager) == ["STATUS=Docker is away"]
    notifier.alive()
    assert heard(manager) == ["WATCHDOG=1"]
    notifier.extend_timeout(1.5)
    assert heard(manager) == ["EXTEND_TIMEOUT_USEC=1500000"]
    notifier.stopping()
    assert heard(manager) == ["STOPPING=1"]


def test_a_reload_carries_the_time_at_which_it_began(manager: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    Notifier(environment(manager)).reloading()
    first, second = heard(manager)
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_a_status_is_one_line_whatever_it_quotes(manager: socket.socket) -> None:
    Notifier(environment(manager)).status("lost\nREADY=1")
    assert heard(manager) == ["STATUS=lost READY=1"]


def test_without_a_service_manager_nothing_is_said() -> None:
    notifier = Notifier({})
    notifier.ready("nobody listens")
    assert notifier.watchdog_s is None


def test_a_service_manager_that_has_gone_or_does_not_read_keeps_nobody_from_working(
    tmp_path: Path,
) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}).ready("x")
    address = str(tmp_path / "deaf")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(address)
        notifier = Notifier({"NOTIFY_SOCKET": address})
        began = time.monotonic()
        for _ in range(2000):  # more than its queue takes
            notifier.alive()
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_ours_only_where_it_says_so(
    variables: dict[str, str], seconds: float | None
) -> None:
    assert Notifier(variables).watchdog_s == seconds
