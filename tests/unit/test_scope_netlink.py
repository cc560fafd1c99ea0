from __future__ import annotations

import os
import select
import socket
import subprocess
import sys

import pytest

from sockaccel.scope import netlink

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces")

# In a namespace of its own, so that nobody else changes anything there.
WATCH = """
import os, select, subprocess, sys
from sockaccel.scope import netlink
with netlink.changes_of_addresses() as changes:
    def changed():
        return bool(select.select([changes], [], [], 5 if expected else 0)[0])
    expected = False
    assert not changed()
    for words in sys.argv[1].split(";"):
        expected = True
        subprocess.run(["ip", *words.split()], check=True)
        assert changed(), words
        netlink.drain(changes)
        expected = False
        assert not changed(), words
"""


@needs_root
def test_every_change_of_a_link_or_an_address_is_told() -> None:
    commands = [
        "link set lo up",
        "address add 10.1.1.1/32 dev lo",
        "address del 10.1.1.1/32 dev lo",
        "address add fd00::1/128 dev lo nodad",
        "address del fd00::1/128 dev lo",
    ]
    argv = ["unshare", "--net", sys.executable, "-c", WATCH, ";".join(commands)]
    subprocess.run(argv, check=True, timeout=60)


def test_draining_ends_where_nothing_waits_and_when_the_kernel_has_dropped_some() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.setblocking(False)
        netlink.drain(ours)
        for _ in range(5):
            theirs.send(b"x" * 100)
        netlink.drain(ours)
        assert not select.select([ours], [], [], 0)[0]

    class Dropped:
        answers = iter([b"x", OSError(105, "ENOBUFS"), b"x", BlockingIOError()])

        def recv(self, _: int) -> bytes:
            answer = next(self.answers)
            if isinstance(answer, OSError):
                raise answer
            return answer

    netlink.drain(Dropped())  # type: ignore[arg-type]
