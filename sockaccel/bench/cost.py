"""The cost of one run, put together from what its processes and the machine have used."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sockaccel.bench.result import ContextSwitches, Cpu, Memory
from sockaccel.bench.usage import (
    MachineTime,
    Usage,
    cpu_of_cgroups,
    of_ended_children,
    of_machine,
    of_running,
    peak_rss_bytes,
    tcp_memory_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sockaccel.bench.usage import Watch
    from sockaccel.bench.workloads.base import Outcome


class Cost:
    """What a run costs, from just before its client starts until its servers have ended.

    The client's share is what the kernel adds to its parent when it ends, exact and with
    all its threads and children. The servers' share is what it adds when they are ended
    right after, less what they had used before the client came. In containers neither is
    a child of this process: there it is what their cgroups say, and nothing of switches.
    """

    def __init__(self, servers: Sequence[int], cgroups: Sequence[Path]) -> None:
        self._servers = servers
        self._cgroups = cgroups
        self.memory = Memory(0, 0)
        self._used = Usage()
        self._machine = MachineTime(0.0, 0.0)

    def begin(self) -> None:
        """Begin, just before the client."""
        self._before = of_running(self._servers)
        self._start = time.monotonic()
        self._machine = of_machine()
        self._ended = of_ended_children()
        self._cpu_s = cpu_of_cgroups(self._cgroups)

    def client_ended(self, watch: Watch) -> None:
        """Take stock."""
        # What was watched for a container is Docker's client.
        client_rss_bytes = 0 if self._cgroups else watch.client_peak_rss_bytes
        self._used = of_ended_children() - self._ended
        self._cpu_s = cpu_of_cgroups(self._cgroups) - self._cpu_s
        self._machine = of_machine() - self._machine
        self._window_s = time.monotonic() - self._start
        self.memory = Memory(
            peak_rss_bytes=peak_rss_bytes(self._servers) + client_rss_bytes,
            tcp_bytes=max(watch.tcp_peak_bytes, tcp_memory_bytes()),
        )

    def end_of(self, end_servers: Callable[[], None]) -> None:
        """End the servers, and add what they have used."""
        ended = of_ended_children()
        end_servers()
        used = of_ended_children() - ended - self._before
        # Before, it was told in ticks; and what was killed may leave children to others.
        self._used += used.or_nothing()

    def cpu(self, outcome: Outcome, *, streams: bool) -> Cpu:
        """Return the processor time."""
        used = self._cpu_s if self._cgroups else self._used.cpu_s
        # The machine was looked at a little longer than the client says that it took.
        part = min(1.0, outcome.seconds / self._window_s)
        busy = self._machine.busy_s * part
        per_request = used / outcome.requests if outcome.requests else 0.0
        return Cpu(
            seconds_total=used,
            machine_busy_seconds=busy,
            steal_seconds=self._machine.steal_s * part,
            other_seconds=max(0.0, busy - used),
            per_million_requests=None if streams else per_request * 1e6,
        )

    @property
    def context_switches(self) -> ContextSwitches | None:
        """The context switches of client and servers, where they are known."""
        if self._cgroups:
            return None
        return ContextSwitches(self._used.voluntary, self._used.involuntary)
