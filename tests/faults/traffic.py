"""Checked traffic between two namespaces: runs traffic.c, watches for stalls, reads its result."""

from __future__ import annotations

import json
import mmap
import struct
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from kernel.harness import IPV4_B, wait_until

from .build import build

if TYPE_CHECKING:
    from collections.abc import Callable

SHARED_MEMORY = Path("/dev/shm")
PORTS = 4
GRACE_S = 15
"""How long the connections may take to come to their end."""
STALL_LIMIT_MS = 3000
WORTH_A_LOOK_MS = 1000
"""From here on it is written down what can be seen of a stalled connection."""

# Offsets in struct shared and struct slot, traffic.c.
_STOP, _LISTENING, _STALL, _STARTED = 0, 4, 8, 28
_SLOTS, _SLOT_SIZE, _SLOT_PORT = 4096, 152, 136
_FINISH, _LEAVE = 1, 2


@dataclass
class Report:
    """What one or several runs of the traffic saw."""

    connections: int = 0
    unfinished: int = 0
    bytes: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    corrupt: int = 0
    """Bytes that belong nowhere, or to another connection."""
    spurious_eagain: int = 0
    """EAGAIN from a blocking recv(): row 10 of the hazards, no loss."""
    stall_ms: int = 0
    pause_ms: int = 0
    """How long the watching thread itself was kept from running."""
    errors: dict[str, int] = field(default_factory=dict)
    details: list[Any] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what the connecting side wrote."""
        found = json.loads(path.read_text())
        return cls(
            connections=found["connections"],
            unfinished=found["unfinished"],
            bytes=sum(found["bytes"]),
            lost=found["lost"],
            duplicated=found["duplicated"],
            reordered=found["reordered"],
            corrupt=found["corrupt"] + found["misdelivered"] + found["unclassified"],
            spurious_eagain=found["spurious_eagain"],
            stall_ms=found["stall_ms"],
            pause_ms=found["pause_ms"],
            errors=found["errors"],
            details=[*found["wrong"], found["stall"]],
        )

    def add(self, other: Report) -> None:
        """Add another run's."""
        for name in (
            "connections",
            "unfinished",
            "bytes",
            "lost",
            "duplicated",
            "reordered",
            "corrupt",
            "spurious_eagain",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.stall_ms = max(self.stall_ms, other.stall_ms)
        self.pause_ms = max(self.pause_ms, other.pause_ms)
        for what, number in other.errors.items():
            self.errors[what] = self.errors.get(what, 0) + number
        if other.faults():
            self.details += other.details

    def faults(self) -> list[str]:
        """Return what is wrong, in words; nothing must be."""
        found = [
            f"{getattr(self, name)} {what}"
            for name, what in (
                ("lost", "bytes lost"),
                ("duplicated", "bytes duplicated"),
                ("reordered", "bytes reordered"),
                ("corrupt", "bytes corrupt"),
                ("unfinished", "connections unfinished"),
            )
            if getattr(self, name)
        ]
        found += [f"{number} x {what}" for what, number in self.errors.items()]
        if self.stall_ms > STALL_LIMIT_MS:
            found.append(f"stall of {self.stall_ms} ms")
        return found


class Place(Protocol):
    """Where programs can be started: a Host."""

    def popen(self, *argv: str | Path) -> subprocess.Popen[bytes]:
        """Start a program there."""


@dataclass(frozen=True)
class Stall:
    """A connection that makes no progress although bytes are owed."""

    milliseconds: int
    id: int
    way: int
    port: int


class Traffic:
    """One pair of programs. Options as in traffic.c, without the dash."""

    next_port = 20_000

    def __init__(
        self,
        client: Place,
        server: Place,
        options: dict[str, int],
        *,
        address: str = IPV4_B,
        connect_to: str | None = None,
        on_stall: Callable[[Traffic, Stall], None] | None = None,
    ) -> None:
        self.client, self.server = client, server
        self.port = Traffic.next_port
        Traffic.next_port = 20_000 + (self.port + PORTS - 20_000) % 10_000
        options = {"ports": PORTS, "grace": GRACE_S} | options
        given = [word for name, value in options.items() for word in (f"-{name}", str(value))]
        with tempfile.NamedTemporaryFile(
            prefix="sockaccel-", dir=SHARED_MEMORY, delete=False
        ) as file:
            self._file = Path(file.name)
            file.truncate(_SLOTS)
            self._shared = mmap.mmap(file.fileno(), _SLOTS)
        self._result = self._file.with_suffix(".json")
        self.listener = server.popen(
            "nice", build("traffic.c"), "listen", *self._where(address), *given
        )
        try:
            wait_until(lambda: self._word(_LISTENING) or self.listener.poll() is not None, 10)
            assert self.listener.poll() is None, "the listening side did not start"
            self.connector = client.popen(
                "nice",
                build("traffic.c"),
                "connect",
                *self._where(connect_to or address),
                *given,
                "-result",
                self._result,
            )
        except BaseException:
            self.kill()
            raise
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, args=(on_stall,), daemon=True)
        self._watcher.start()

    def _where(self, address: str) -> list[str | Path]:
        return [address, str(self.port), self._file]

    def _word(self, offset: int) -> int:
        return int(struct.unpack_from("=I", self._shared, offset)[0])

    @property
    def started(self) -> int:
        """How many connections it has begun so far."""
        return self._word(_STARTED)

    @property
    def running(self) -> bool:
        """Whether connections are still to come or under way."""
        return self.connector.poll() is None

    def stall(self) -> Stall:
        """Return what stalls longest at this moment."""
        length, number, way = struct.unpack_from("=QII", self._shared, _STALL)
        port = 0
        with self._file.open("rb") as file:
            file.seek(_SLOTS + number * _SLOT_SIZE + _SLOT_PORT)
            port = int.from_bytes(file.read(4), "little")
        return Stall(length // 1_000_000, number, way, port)

    def _watch(self, on_stall: Callable[[Traffic, Stall], None] | None) -> None:
        told = False
        while not self._done.wait(0.25):
            stall = self.stall()
            if stall.milliseconds < WORTH_A_LOOK_MS:
                told = False
            elif on_stall and not told:
                told = True
                on_stall(self, stall)

    def finish(self, timeout: float = GRACE_S + 15) -> Report:
        """Let every connection come to its end, and return what was seen."""
        struct.pack_into("=I", self._shared, _STOP, _FINISH)
        return self.wait(timeout)

    def wait(self, timeout: float) -> Report:
        """Wait for a number of connections that was given as `total`."""
        try:
            self.connector.wait(timeout)
            return Report.read(self._result)
        except subprocess.TimeoutExpired:
            return Report(unfinished=self.started, errors={f"no end within {timeout:g} s": 1})
        finally:
            self.kill()

    def kill(self) -> None:
        """End both programs at once, with their connections open."""
        if hasattr(self, "_done"):
            self._done.set()
            self._watcher.join()
        for process in (getattr(self, "connector", None), self.listener):
            if process and process.poll() is None:
                process.kill()
            if process:
                process.wait()
        self._file.unlink(missing_ok=True)
        self._result.unlink(missing_ok=True)
