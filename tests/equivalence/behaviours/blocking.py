"""Blocking calls and what wakes them."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from equivalence.stage import Stage, about, shown
from equivalence.table import BLOCKING, IPV4, Known, scenario

from .endings import RESET

if TYPE_CHECKING:
    from collections.abc import Callable

WAKES = "recv() of a socket in a sockmap waits only once: whatever wakes it, it returns"
EAGAIN = {"recv": "EAGAIN"}


RECVFROM = {"x86_64": "45", "aarch64": "207"}[os.uname().machine]


def in_recv(task: str) -> bool:
    """Return whether a task, named as under /proc, sleeps in recvfrom(2)."""
    return Path("/proc", task, "syscall").read_text().split()[0] == RECVFROM


def receive_with_signals(sock: socket.socket, restart: bool) -> list[object]:
    """Receive while signals come; return what recv(2) gave and how many signals came.

    Without Python's own recv(), which calls again after EINTR.
    """
    seen: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    signal.siginterrupt(signal.SIGUSR1, not restart)
    libc = ctypes.CDLL(None, use_errno=True)
    room = ctypes.create_string_buffer(100)
    count = libc.recv(sock.fileno(), room, 100, 0)
    result = room.raw[:count] if count >= 0 else errno.errorcode[ctypes.get_errno()]
    return [result, len(seen)]


def signalled(s: Stage, client: socket.socket, server: socket.socket, *, restart: bool) -> None:
    """Note what a recv() gives during which a signal comes, and then data."""
    s.ready(server, None)  # with a timeout of the kernel's own, signals end recv() anyway
    task = s.process(receive_with_signals, server, restart)
    waits = f"{task.pid}/task/{task.pid}"
    s.until(lambda: in_recv(waits))
    os.kill(task.pid, signal.SIGUSR1)
    time.sleep(0.1)
    s.send(client, b"after the signal")
    result, signals = task.result()
    s.note("recv", result)
    s.note("signals", signals)


@scenario(
    "A signal with SA_RESTART during recv(): it goes on waiting",
    rows="10",
    modes=(BLOCKING,),
    families=IPV4,
    known=Known("10", WAKES, EAGAIN),
)
def signal_restart(s: Stage) -> None:
    client, server = s.pair()
    signalled(s, client, server, restart=True)


@scenario(
    "A signal without SA_RESTART during recv(): EINTR",
    rows="10",
    modes=(BLOCKING,),
    families=IPV4,
    known=Known("10", WAKES, EAGAIN),
)
def signal_interrupt(s: Stage) -> None:
    client, server = s.pair()
    signalled(s, client, server, restart=False)


def woken(s: Stage, sock: socket.socket, act: Callable[[], object]) -> None:
    """Note what a recv() that waits returns when something happens."""
    thread = s.thread(s.recv, sock, 100)
    with s.asleep_in_call(thread):
        act()
    s.note("recv", thread.result())
    s.note("in time", about(thread.took, 3))


@scenario("recv() waits: data arrives", rows="10", modes=(BLOCKING,))
def woken_by_data(s: Stage) -> None:
    client, server = s.pair()
    woken(s, server, lambda: s.send(client, b"data"))


@scenario("recv() waits: the peer shuts down", rows="10", modes=(BLOCKING,))
def woken_by_the_end(s: Stage) -> None:
    client, server = s.pair()
    woken(s, server, lambda: client.shutdown(socket.SHUT_WR))


@scenario("recv() waits: the peer closes", rows="10", modes=(BLOCKING,))
def woken_by_close(s: Stage) -> None:
    client, server = s.pair()
    woken(s, server, lambda: s.lab.close_one(client))


@scenario(
    "recv() waits: the peer resets",
    rows="10",
    modes=(BLOCKING,),
    known=Known("10", WAKES, EAGAIN),
)
def woken_by_reset(s: Stage) -> None:
    client, server = s.pair()
    client.setsockopt(*RESET)
    woken(s, server, lambda: s.lab.close_one(client))


@scenario(
    "recv() waits: another thread shuts reading",
    rows="10",
    modes=(BLOCKING,),
    known=Known("10", WAKES, EAGAIN),
)
def woken_by_shut_reading(s: Stage) -> None:
    _, server = s.pair()
    woken(s, server, lambda: server.shutdown(socket.SHUT_RD))


@scenario(
    "recv() waits: another thread shuts both directions",
    rows="10",
    modes=(BLOCKING,),
    known=Known("10", WAKES, EAGAIN),
)
def woken_by_shut_both(s: Stage) -> None:
    _, server = s.pair()
    woken(s, server, lambda: server.shutdown(socket.SHUT_RDWR))


@scenario(
    "recv() waits: another thread shuts writing, then the answer comes",
    rows="10",
    modes=(BLOCKING,),
    families=IPV4,
    known=Known("10", WAKES, EAGAIN),
)
def woken_by_shut_writing(s: Stage) -> None:
    client, server = s.pair()

    def act() -> None:
        server.shutdown(socket.SHUT_WR)
        time.sleep(0.15)  # the peer's ACK may be delayed by 40 ms
        s.send(client, b"the answer")

    woken(s, server, act)


@scenario(
    "recv() waits: the same socket, full before, has room to write again",
    rows="10 3",
    modes=(BLOCKING,),
    families=IPV4,
    known=Known("10", WAKES, EAGAIN),
)
def woken_by_room(s: Stage) -> None:
    client, server = s.pair()
    sent, _ = s.fill(server)

    def act() -> None:
        s.note("drained", len(s.read(client, sent)) == sent)
        time.sleep(0.1)
        s.send(client, b"the answer")

    woken(s, server, act)


@scenario("poll(), then a blocking recv(), as many programs do", rows="10", modes=(BLOCKING,))
def poll_then_recv(s: Stage) -> None:
    client, server = s.pair()
    client.setsockopt(*RESET)
    s.send(client, b"data")
    s.note("polls", s.events(server))
    s.note("recv", s.recv(server, 100))
    s.lab.close_one(client)
    s.note("polls again", "IN" in s.events(server))
    s.note("recv again", s.recv(server, 100))


@scenario(
    "Two threads wait in recv(): each message wakes one",
    rows="10",
    modes=(BLOCKING,),
    families=IPV4,
    known=Known("10", WAKES, {"one is left": 0, "got": ["EAGAIN", "one."]}),
)
def two_waiters(s: Stage) -> None:
    client, server = s.pair()
    waiters = [s.thread(s.recv, server, 4) for _ in range(2)]
    with s.asleep_in_call(waiters[0]):
        s.send(client, b"one.")
    s.until(lambda: not all(waiter.is_alive() for waiter in waiters))
    time.sleep(0.1)
    s.note("one is left", sum(waiter.is_alive() for waiter in waiters))
    s.send(client, b"two.")
    s.note("got", sorted(shown(waiter.result()) for waiter in waiters))
