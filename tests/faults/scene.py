"""Where a fault happens: a laboratory, traffic through it, and what is left at the end."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kernel.harness import Host, KernelObject, Lab, run, wait_until
from kernel.memory import MIB, tcp_memory

from sockaccel.datapath import libbpf, state
from sockaccel.datapath.layout import Config, Counter
from sockaccel.datapath.state import Datapath

from .traffic import Report, Stall, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

MARK = "FAULTS_LABORATORY"
LOOKS = 20
"""Stalls that are looked at, in one scene."""
LEFT_S = 5
"""Within this time nothing may be left."""
MEMORY_NOISE = 8 * MIB
"""What other work on the machine, and the kernel's reserves per processor, may hold of tcp_mem."""


def second_pin_dir(pin_dir: Path) -> Path:
    """Return the pin directory of a second instance."""
    return pin_dir.with_name(f"{pin_dir.name}b")


@dataclass
class Outcome:
    """What one fault was, and what it did."""

    fault: str
    tried: str
    count: int = 0
    seconds: float = 0
    redirected: int = 0
    """Bytes seen to be redirected; the fault proves nothing without."""
    report: Report = field(default_factory=Report)
    left: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        """Return everything that is not as it must be."""
        return [
            *self.report.faults(),
            *(f"left behind: {item}" for item in self.left),
            *self.failures,
        ]


class Scene:
    """A laboratory of two hosts whose traffic is checked. A context manager."""

    def __init__(self, seconds: float | None = None) -> None:
        """Repeat what is repeated no longer than so many seconds."""
        self._until = time.monotonic() + (seconds or math.inf)
        self.report = Report()
        self.left: list[str] = []
        self.redirected = 0
        self.failures: list[str] = []
        self.count = 0
        self.doing = ""
        """What is being done, for the report of a failure."""
        self._traffic: list[Traffic] = []
        self._looks = 0

    def __enter__(self) -> Self:
        self._memory = tcp_memory()
        self.lab = Lab("accelerated")
        # What it starts, and what that starts, is known by this.
        os.environ[MARK] = self.lab.name
        self.client, self.server = self.lab.pair()
        self.scope: list[str | Path] = [
            "enable",
            "--cgroup",
            self.lab.cgroup,
            "--scope=all",
            "--policy=all",
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            try:
                self.settle()
            finally:
                self.lab.close()
            self.left = self.look_for_leftovers()
        finally:
            self.lab.scrub()

    def repeat(self, step: Callable[[Scene, int], None], count: int, each: int = 1) -> None:
        """Do this so often, unless the time is over; each time counts for so many."""
        for number in range(count):
            if time.monotonic() > self._until:
                break
            step(self, number)
            self.count += each

    # Traffic

    def start(
        self, hosts: tuple[Host, Host] | None = None, *, settle_s: float = 0.3, **options: int
    ) -> Traffic:
        """Start traffic between two hosts, the scene's if none are given."""
        client, server = hosts or (self.client, self.server)
        traffic = Traffic(client, server, options, on_stall=self._on_stall)
        self._traffic.append(traffic)
        wait_until(lambda: traffic.started or not traffic.running, 10, "a first connection")
        time.sleep(settle_s)
        return traffic

    def background(self, **options: int) -> None:
        """Start what runs through every fault: connections that last, and ones that come and go."""
        options = {"blocking": 30} | options
        self.start(connections=8, think=30_000, **options)
        self.start(connections=16, think=20_000, total=1 << 20, bytes=1 << 20, **options)

    def finish(self, traffic: Traffic, timeout: float | None = None) -> Report:
        """End this traffic (or wait so long for its end), and add what it saw."""
        self._traffic.remove(traffic)
        report = traffic.finish() if timeout is None else traffic.wait(timeout)
        self.report.add(report)
        return report

    def drop(self, traffic: Traffic) -> None:
        """Kill this traffic with its connections open; nothing is owed then."""
        self._traffic.remove(traffic)
        traffic.kill()

    def settle(self) -> None:
        """End all traffic."""
        for traffic in list(self._traffic):
            self.finish(traffic)

    # sockaccel

    def enable(self, *options: str | Path) -> None:
        """Enable for all that is in the cgroup of this scene, whatever its namespace."""
        self.lab.enabled_once = True
        self.lab.cli(*self.scope, *options)

    def disable(self) -> None:
        """Count what was redirected, and disable."""
        self.redirected += self.redirected_now()
        self.lab.disable()

    def redirected_now(self, pin_dir: Path | None = None) -> int:
        """Return the bytes redirected since it was enabled."""
        datapath = Datapath.open(pin_dir or self.lab.pin_dir)
        assert datapath, "not enabled"
        with datapath:
            live = sum(record.conn.redirected_bytes for record in datapath.records())
            return live + datapath.counters()[Counter.REDIRECTED_BYTES]

    def await_redirection(self, pin_dir: Path | None = None, seconds: float = 10) -> None:
        """Wait until bytes are being redirected."""
        before = self.redirected_now(pin_dir)
        deadline = time.monotonic() + seconds
        while self.redirected_now(pin_dir) <= before:
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"no byte redirected within {seconds} s: {self.lab.status()}; "
                    f"{[traffic.started for traffic in self._traffic]} connections so far"
                )
            time.sleep(0.005)

    def entries(self) -> int:
        """Return how many sockets sock_ops_map holds."""
        datapath = Datapath.open(self.lab.pin_dir)
        assert datapath, "not enabled"
        with datapath:
            return len(datapath.entries())

    # The end

    def look_for_leftovers(self) -> list[str]:
        """Return what is still there after a few seconds: objects, processes, memory."""
        deadline = time.monotonic() + LEFT_S
        left = self.lab.left_behind()
        left = [item for item in left if item not in self._of_others()]
        mark = f"{MARK}={self.lab.name}\0".encode()

        def processes() -> list[str]:
            found = []
            for path in Path("/proc").glob("[0-9]*/environ"):
                with contextlib.suppress(OSError):
                    if mark in path.read_bytes():
                        line = path.with_name("cmdline").read_bytes().replace(b"\0", b" ")
                        found.append(f"process {path.parent.name}: {line.decode()}")
            return found

        def memory() -> int:
            return tcp_memory() - self._memory

        while (processes() or memory() > MEMORY_NOISE) and time.monotonic() < deadline:
            time.sleep(0.1)
        left += processes()
        if (held := memory()) > MEMORY_NOISE:
            left.append(f"{held} bytes of tcp_mem")
        return left

    def _of_others(self) -> set[str]:
        """Return what the instances of other pin directories hold, pinned or not."""
        own = self.lab.pin_dir
        instances = {0, *map(state.instance, (own, second_pin_dir(own)))}
        found = set()
        for number in libbpf.prog_ids():
            with (
                contextlib.suppress(FileNotFoundError),
                libbpf.fd(libbpf.prog_by_id(number)) as program,
            ):
                maps = {}
                for each in libbpf.prog_map_ids(program):
                    with libbpf.fd(libbpf.map_by_id(each)) as descriptor:
                        name = libbpf.map_info(descriptor).name.decode()
                        maps[name] = each
                        if name == "config":
                            value = libbpf.lookup(descriptor, state.KEY_ZERO, ctypes.sizeof(Config))
                            config = Config.from_buffer_copy(value or bytes(ctypes.sizeof(Config)))
                if "config" in maps and config.instance not in instances:
                    found |= {str(KernelObject("map", each, name)) for name, each in maps.items()}
                    found.add(
                        str(KernelObject("prog", number, libbpf.prog_info(program).name.decode()))
                    )
        return found

    # Evidence

    def _on_stall(self, traffic: Traffic, stall: Stall) -> None:
        """Write down what can be seen of a stalled connection while it stalls."""
        if self._looks == LOOKS:
            return
        self._looks += 1
        seen: dict[str, Any] = {"stall": stall.__dict__, "load": Path("/proc/loadavg").read_text()}
        port = f"( sport = :{stall.port} or dport = :{stall.port} )"
        for host in self.lab.hosts:
            with contextlib.suppress(AssertionError, OSError):
                seen[f"ss {host.name}"] = host.execute("ss", "-tanemio", port)
        for process in (traffic.connector, traffic.listener):
            for task in Path(f"/proc/{process.pid}/task").glob("*"):
                with contextlib.suppress(OSError):
                    call, stack = (task / "syscall").read_text(), (task / "stack").read_text()
                    seen[f"stack {process.pid}/{task.name}"] = f"{call}{stack}"
        with contextlib.suppress(OSError):
            seen["pins"] = sorted(os.listdir(self.lab.pin_dir))
        dumped = self.lab.cli("-o", "json", "dump", expect=None).stdout
        with contextlib.suppress(ValueError):
            found = json.loads(dumped)
            seen["entries"] = found["entries"]
            seen["dump"] = [
                connection
                for connection in found["connections"]
                if f":{stall.port}" in json.dumps(connection)
            ]
        seen["programs"] = run("bpftool", "-j", "prog", "show")
        with tempfile.NamedTemporaryFile(
            "w", prefix="sockaccel-stall-", suffix=".json", delete=False
        ) as file:
            json.dump(seen, file, indent=1)
        self.report.details.append({"evidence": file.name})
