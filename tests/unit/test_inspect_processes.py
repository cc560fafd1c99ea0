from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from sockaccel.inspect import processes
from sockaccel.inspect.processes import Owner, owners


def inode(end: socket.socket) -> int:
    return os.fstat(end.fileno()).st_ino


def me() -> Owner:
    return Owner(os.getpid(), psutil.Process().name())


def test_a_socket_belongs_to_the_process_that_holds_it() -> None:
    with socket.socket() as mine, socket.socket() as also_mine:
        sought = {inode(mine), inode(also_mine)}
        assert owners(sought) == dict.fromkeys(sought, me())
        assert owners({inode(mine)}) == {inode(mine): me()}


def test_a_socket_in_another_process_is_found_there() -> None:
    with socket.socket() as passed:
        sought = inode(passed)
        with subprocess.Popen(
            ["sleep", "60"], pass_fds=[passed.fileno()], stdout=subprocess.DEVNULL
        ) as holder:
            try:
                shared = owners({sought})
                passed.close()
                alone = owners({sought})
            finally:
                holder.kill()
    assert shared[sought].pid == min(os.getpid(), holder.pid)
    assert alone == {sought: Owner(holder.pid, "sleep")}


def test_what_nobody_holds_is_missing() -> None:
    with socket.socket() as mine:
        gone = inode(mine)
    assert owners({gone}) == {}
    assert owners(set()) == {}


def test_nothing_is_read_when_nothing_is_sought(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_links", lambda _: pytest.fail("looked"))
    assert owners(set()) == {}


def test_the_search_ends_with_the_last_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def links(pid: int) -> list[str]:
        looked.append(pid)
        return ["/dev/null", "socket:[5]", "socket:[5]"]

    monkeypatch.setattr(processes, "_links", links)
    lowest = min(psutil.pids())
    assert owners({5}) == {5: Owner(lowest, psutil.Process(lowest).name())}
    assert looked == [lowest]


def test_a_process_that_vanishes_while_it_is_named_leaves_the_socket_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = sorted(psutil.pids())[:2]

    class Vanishing(psutil.Process):
        def name(self) -> str:
            if self.pid == first:
                raise psutil.NoSuchProcess(self.pid)
            return "survivor"

    monkeypatch.setattr(psutil, "Process", Vanishing)
    monkeypatch.setattr(processes, "_links", lambda _: iter(["socket:[5]"]))
    assert owners({5}) == {5: Owner(second, "survivor")}


def test_a_process_that_is_gone_holds_nothing() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert list(processes._links(gone.pid)) == []


def test_no_descriptor_is_left_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    owners({1})
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_two_thousand_sockets_in_another_process_are_found_quickly() -> None:
    code = (
        "import os, resource, socket, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
        "held = [socket.socket() for _ in range(2000)]\n"
        "print(*[os.fstat(s.fileno()).st_ino for s in held], flush=True)\n"
        "sys.stdin.read()\n"
    )
    with ExitStack() as stack:
        holder = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )
        stack.callback(holder.kill)
        assert holder.stdout
        sought = {int(word) for word in holder.stdout.readline().split()}
        assert len(sought) == 2000
        start = time.perf_counter()
        found = owners(sought)
        assert time.perf_counter() - start < 0.3
    assert {owner.pid for owner in found.values()} == {holder.pid}
    assert len(found) == 2000
