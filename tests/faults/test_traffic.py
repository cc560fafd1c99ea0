"""The traffic generator itself: every kind of fault is seen, and called by its name."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from .traffic import PORTS, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ADDRESS, BROKEN = "127.0.0.1", "127.0.0.2"
AFTER = 300_000  # bytes of a connection that pass untouched
PIECE = 1500
SOME = -1


class Here:
    """This namespace: what a Host is for its own."""

    name = "here"

    def popen(self, *argv: str | Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([str(word) for word in argv])


class BrokenProxy:
    """Passes on what it gets, and does something to the server's bytes once."""

    def __init__(self, port: int, tamper: Callable[[bytes], bytes | None]) -> None:
        self._tamper = tamper
        self.tampered = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        for number in range(PORTS):
            listener = socket.create_server((BROKEN, port + number), backlog=64)
            self._run(self._accept, listener)

    def _run(self, function: Callable[..., None], *sockets: socket.socket) -> None:
        self._sockets += sockets
        self._threads.append(threading.Thread(target=function, args=sockets))
        self._threads[-1].start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near = listener.accept()[0]
            except OSError:
                return
            far = socket.create_connection((ADDRESS, listener.getsockname()[1]))
            self._run(self._pass_on, near, far)
            self._run(self._pass_on_tampered, far, near)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def _pass_on_tampered(self, source: socket.socket, target: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                changed: bytes | None = data
                if passed > AFTER and len(data) >= 4 * PIECE and not self.tampered.is_set():
                    self.tampered.set()
                    changed = self._tamper(data)
                if changed is None:
                    break
                passed += len(data)
                target.sendall(changed)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for sock in self._sockets:
            sock.close()


def nothing(data: bytes) -> bytes:
    return data


def lose(data: bytes) -> bytes:
    return data[:PIECE] + data[2 * PIECE :]


def lose_a_few(data: bytes) -> bytes:
    return data[:-7]


def end(data: bytes) -> None:
    return None


def duplicate(data: bytes) -> bytes:
    return data[: 2 * PIECE] + data[PIECE:]


def reorder(data: bytes) -> bytes:
    return data[:PIECE] + data[2 * PIECE : 3 * PIECE] + data[PIECE : 2 * PIECE] + data[3 * PIECE :]


def spoil(data: bytes) -> bytes:
    return data[:PIECE] + bytes(len(data) - PIECE)


@pytest.mark.parametrize(
    ("tamper", "seen"),
    [
        (nothing, {}),
        (lose, {"lost": PIECE}),
        (lose_a_few, {"lost": 7}),
        (end, {"lost": SOME}),
        (duplicate, {"duplicated": PIECE}),
        (reorder, {"reordered": PIECE}),
        (spoil, {"corrupt": SOME}),
    ],
)
@pytest.mark.parametrize("blocking", [0, 100], ids=["polling", "blocking"])
def test_what_happens_on_the_way_is_seen_and_named(
    tamper: Callable[[bytes], bytes | None], seen: dict[str, int], blocking: int
) -> None:
    here = Here()
    proxy = BrokenProxy(Traffic.next_port, tamper)
    try:
        options = {"connections": 8, "total": 24, "bytes": 2_000_000, "think": 0}
        options["blocking"] = blocking
        traffic = Traffic(here, here, options, address=ADDRESS, connect_to=BROKEN)
        report = traffic.wait(30)
    finally:
        proxy.close()
    assert proxy.tampered.is_set()
    found = {name: getattr(report, name) for name in ("lost", "duplicated", "reordered", "corrupt")}
    for name, number in found.items():
        wanted = seen.get(name, 0)
        # A byte more or less: the first wrong one may be right by chance.
        assert number > 0 if wanted == SOME else abs(number - wanted) <= 3 * bool(wanted), report
    assert bool(report.faults()) == bool(seen), report
