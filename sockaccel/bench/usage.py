"""What processes and the machine have used: processor time, context switches, memory."""

from __future__ import annotations

import re
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable

_PAGE_SIZE = resource.getpagesize()
_SWITCHES = re.compile(r"^(non)?voluntary_ctxt_switches:\s*(\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Usage:
    """Processor time in seconds (user and system), and context switches."""

    cpu_s: float = 0.0
    voluntary: int = 0
    involuntary: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.cpu_s + other.cpu_s,
            self.voluntary + other.voluntary,
            self.involuntary + other.involuntary,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.cpu_s - other.cpu_s,
            self.voluntary - other.voluntary,
            self.involuntary - other.involuntary,
        )

    def or_nothing(self) -> Usage:
        """Return it without what is below 0."""
        return Usage(max(0.0, self.cpu_s), max(0, self.voluntary), max(0, self.involuntary))


def of_ended_children() -> Usage:
    """Return what this process's children and theirs have used that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Usage(used.ru_utime + used.ru_stime, used.ru_nvcsw, used.ru_nivcsw)


def of_running(pids: Iterable[int]) -> Usage:
    """Return what processes, their threads, and their children alive or dead, have used."""
    used = Usage()
    for process in _trees(pids):
        with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            times = process.cpu_times()
            cpu = times.user + times.system + times.children_user + times.children_system
            used += Usage(cpu, *_switches(process.pid))
    return used


def cpu_of_cgroups(cgroups: Iterable[Path]) -> float:
    """Return the processor time of everything that ever ran in cgroups, in seconds: cpu.stat."""
    used = 0
    for cgroup in cgroups:
        found = re.search(r"^usage_usec (\d+)$", (cgroup / "cpu.stat").read_text(), re.M)
        used += int(found.group(1)) if found else 0
    return used / 1e6


def peak_rss_bytes(pids: Iterable[int]) -> int:
    """Return the sum of the highest resident sizes that processes and their children had."""
    return sum(_peak_rss(process.pid) for process in _trees(pids))


def _trees(pids: Iterable[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
    return found


def _switches(pid: int) -> tuple[int, int]:
    voluntary = involuntary = 0
    # psutil's are those of the first thread alone.
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for forced, count in _SWITCHES.findall((thread / "status").read_text()):
            if forced:
                involuntary += int(count)
            else:
                voluntary += int(count)
    return voluntary, involuntary


def _peak_rss(pid: int) -> int:
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found.group(1)) * 1024 if found else 0


def tcp_memory_bytes() -> int:
    """Return what TCP holds for all sockets of all namespaces: proc(5), /proc/net/sockstat."""
    found = re.search(r"^TCP: .*\bmem (\d+)", Path("/proc/net/sockstat").read_text(), re.M)
    return int(found.group(1)) * _PAGE_SIZE if found else 0


@dataclass(frozen=True)
class MachineTime:
    """Processor time of all cores in seconds, whoever used them."""

    busy_s: float
    steal_s: float

    def __sub__(self, other: MachineTime) -> MachineTime:
        return MachineTime(self.busy_s - other.busy_s, self.steal_s - other.steal_s)


def of_machine() -> MachineTime:
    """Return what all cores have done since boot; stolen time is not among the busy."""
    times = psutil.cpu_times()
    # Guests' time is in `user` and `nice` already.
    busy = times.user + times.nice + times.system + times.irq + times.softirq
    return MachineTime(busy, times.steal)


class Watch:
    """Looks at a run now and then: the client's memory and TCP's, at their highest."""

    def __init__(self) -> None:
        self.client_peak_rss_bytes = 0
        self.tcp_peak_bytes = 0

    def __call__(self, pid: int) -> None:
        """Look now; pid is the client's."""
        self.client_peak_rss_bytes = max(self.client_peak_rss_bytes, peak_rss_bytes([pid]))
        self.tcp_peak_bytes = max(self.tcp_peak_bytes, tcp_memory_bytes())
