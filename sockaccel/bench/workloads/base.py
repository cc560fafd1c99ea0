"""What a program of a scenario is: a server or a client, and where it runs.

A program is a dataclass. Its fields are the parameters that a scenario may set, by
name and type; what has no default must be set. `message_bytes` is the size that a case
is about, whatever the program calls it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from sockaccel.bench.histogram import percentiles
from sockaccel.bench.machine import program_version
from sockaccel.bench.process import find_tool
from sockaccel.bench.result import Better, Latency, Load, Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sockaccel.bench.process import Child

T = TypeVar("T")
PERCENTILES = (50, 99)


@dataclass(frozen=True)
class Tool:
    """A program that has to be installed, and Debian's package of it."""

    name: str
    package: str
    version_option: str = "--version"

    def find(self) -> str:
        """Return its path; HostError, whose hint installs it, where it is missing."""
        return find_tool(self.name, self.package)

    def version(self) -> str | None:
        """Return what it says of its version; HostError as find()."""
        return program_version(self.find(), self.version_option)


class Place(Protocol):
    """Where a program runs: a node of the lab, and a directory of its own."""

    @property
    def address(self) -> str:
        """The node's IPv4 address."""

    @property
    def directory(self) -> Path:
        """The program's own; it outlives a run."""

    @property
    def socket(self) -> Path | None:
        """Where the Unix socket is that stands for TCP in this run, if one does."""

    def start(self, argv: Sequence[str]) -> Child:
        """Start a server there, which is ended after the run."""

    def load(self, argv: Sequence[str], what: str, seconds: float) -> str:
        """Run a load generator there to its end, watched, and return its stdout."""

    def call(self, function: Callable[[], T]) -> T:
        """Return what a function returns when it is called in the node's network namespace."""


@dataclass(frozen=True)
class Outcome:
    """What a load generator did and found."""

    requests: int  # answered; or messages that arrived
    seconds: float
    payload_bytes: int  # that its connections carried both ways, at the least
    # On each hop, at the least: messages of which none was sent before the one before it had
    # come, so that no two can have shared a packet. 0: unknown, as of streams.
    packets: int
    metrics: dict[str, float]
    argv: list[str]
    errors: dict[str, int] = field(default_factory=dict)
    latency: Latency | None = None
    problems: list[str] = field(default_factory=list)


class Server(Protocol):
    """A program that is started for each run."""

    tools: ClassVar[tuple[Tool, ...]]
    unix: ClassVar[bool]  # whether it can listen on a Unix socket instead
    drops_root: ClassVar[bool]  # whether a process of it is not root, and has files to reach

    def start(self, at: Place, behind: Sequence[Place]) -> None:
        """Start it and return when it listens; behind are the servers that it asks itself."""


class Client(Protocol):
    """A load generator."""

    tools: ClassVar[tuple[Tool, ...]]
    unix: ClassVar[bool]
    unknown: ClassVar[tuple[str, ...]]  # programs at either end that the policy has to be told of

    @property
    def streams(self) -> bool:
        """Whether it counts bytes, and its messages are no requests."""

    @property
    def metrics(self) -> list[Metric]:
        """What it measures; the first is what the case is about."""

    def prepare(self, at: Place, server: Place) -> None:
        """Do once per run what must not be measured."""

    def load(self, at: Place, server: Place, seconds: float) -> Outcome:
        """Load the server for so long."""


def rate_metric(name: str, title: str) -> Metric:
    """Return the metric of a rate per second."""
    return Metric(name, title, "1/s", Better.HIGHER)


def latency_metrics(load: Load) -> list[Metric]:
    """Return the metrics of percentiles, named after the load that they were measured under."""
    name, title = (
        ("latency_us", "latency at a fixed rate")
        if load is Load.FIXED_RATE
        else ("latency_saturated_us", "latency, saturated")
    )
    return [
        Metric(f"{name}_p{percent}", f"{title}, p{percent}", "us", Better.LOWER)
        for percent in PERCENTILES
    ]


def latency_values(latency: Latency) -> dict[str, float]:
    """Return the values of latency_metrics()."""
    names = [metric.name for metric in latency_metrics(latency.load)]
    shares = [percent / 100 for percent in PERCENTILES]
    return dict(zip(names, percentiles(latency.histogram, shares), strict=True))


def compact(histogram: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return a histogram of whole numbers whose neighbours above 256 are joined.

    By the thousand they would make a result of tens of megabytes. A bucket is 1/128 wide and
    named by its middle; what percentiles are made of is exact.
    """
    counts: Counter[float] = Counter()
    for value, count in histogram:
        step = 2 ** max(0, int(value).bit_length() - 8)
        counts[value // step * step + (step - 1) / 2] += count
    return sorted(counts.items())


def per(*, streams: bool) -> tuple[str, str]:
    """Return what costs are reckoned by: as a part of names, and for people."""
    return ("gib", "GiB") if streams else ("million", "million requests")


def cost_metrics(*, streams: bool) -> list[Metric]:
    """Return the metrics of what a run costs, whoever the client is."""
    short, unit = per(streams=streams)
    switches = f"context_switches_per_{short}"
    metrics = [
        Metric(f"cpu_s_per_{short}", f"CPU s/{unit}", f"s/{unit}", Better.LOWER),
        Metric(switches, f"context switches/{unit}", f"1/{unit}", Better.LOWER),
        Metric("tcp_memory_bytes", "TCP's memory, at most", "bytes", Better.LOWER),
        Metric("rss_bytes", "processes' memory, at most", "bytes", Better.LOWER),
    ]
    if streams:
        return metrics
    unit = "bytes/request"
    return [
        *metrics,
        Metric("interface_bytes_per_request", f"interface {unit}", unit, Better.LOWER),
    ]
