from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from sockaccel.scope.docker import Container
from sockaccel.scope.members import members
from sockaccel.scope.netns import netns_cookie

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces")


@pytest.fixture
def other() -> Iterator[int]:
    """Return the pid of a process in a fresh network namespace."""
    command = ["unshare", "--net", "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        yield holder.pid
        holder.kill()


def test_each_container_has_the_cookie_of_its_namespace(other: int) -> None:
    inside = Container("a" * 64, "web", other, "bridge")
    host = Container("b" * 64, "host", os.getpid(), "host")
    gone = Container("c" * 64, "gone", 2**22 + 1, "bridge")  # above the highest pid there can be
    assert members([inside, host, gone]) == [
        (netns_cookie(f"/proc/{other}/ns/net"), inside),
        (netns_cookie(), host),
        (None, gone),
    ]
