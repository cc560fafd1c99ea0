"""Bare sockets: both ends are benchmarks/sockets.c, which explains the modes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sockaccel.bench import files
from sockaccel.bench.process import last_line, run
from sockaccel.bench.result import Better, Latency, Load, Metric
from sockaccel.bench.workloads.base import (
    Outcome,
    Place,
    Tool,
    latency_metrics,
    latency_values,
    rate_metric,
)
from sockaccel.errors import BenchError, HostError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SOURCE = "sockets.c"
PROGRAM = "sockets"
PORT = 7007
MODES = ("echo", "stream", "connect")
START_TIMEOUT_S = 5.0
LEAST_OF_RATE = 0.95
# How many times its length a run may take whose readers pause. The textbook program queues all
# that they have not read, without a bound: to read it took them 7 times as long on two cores.
DRAIN = 20
COMPILER_PACKAGES = "gcc libc6-dev"
COMPILER = Tool("cc", COMPILER_PACKAGES)


@dataclass
class SocketServer:
    """The end that listens."""

    tools: ClassVar[tuple[Tool, ...]] = (COMPILER,)
    unix: ClassVar[bool] = True
    drops_root: ClassVar[bool] = False

    mode: str
    message_bytes: int
    reader_pause_us: int = 0  # after each read of a stream

    def __post_init__(self) -> None:
        _check_mode(self.mode)

    def start(self, at: Place, behind: Sequence[Place]) -> None:
        """Compile it where that has not been done, start it, and return when it listens."""
        assert not behind
        if at.socket:
            at.socket.unlink(missing_ok=True)
        argv = [str(compiled(at)), self.mode, "server", *_where(at)]
        child = at.start([*argv, str(self.message_bytes), str(self.reader_pause_us)])
        child.await_ready(f"the {self.mode} server", START_TIMEOUT_S)


@dataclass
class SocketClient:
    """The end that connects."""

    tools: ClassVar[tuple[Tool, ...]] = (COMPILER,)
    unix: ClassVar[bool] = True
    unknown: ClassVar[tuple[str, ...]] = (PROGRAM,)

    mode: str
    message_bytes: int
    connections: int = 1
    rate: int = 0  # messages per second and connection; 0: as fast as they are answered
    nodelay: bool = True  # TCP_NODELAY: no write waits to be joined with the next
    reader_pause_us: int = 0  # of the server

    def __post_init__(self) -> None:
        _check_mode(self.mode)

    @property
    def streams(self) -> bool:
        """Whether it is a stream."""
        return self.mode == "stream"

    @property
    def metrics(self) -> list[Metric]:
        """What there is to know: of a stream bytes per second, else messages and latencies."""
        if self.streams:
            return [Metric("bytes_s", "bytes/s", "bytes/s", Better.HIGHER)]
        title = "round trips/s" if self.mode == "echo" else "connections/s"
        latencies = latency_metrics(self._load)
        rate = rate_metric("req_s", title)
        # At a fixed rate the rate says nothing.
        return [*latencies, rate] if self.rate else [rate, *latencies]

    def prepare(self, at: Place, server: Place) -> None:  # noqa: ARG002 - the protocol's
        """Compile it where that has not been done."""
        compiled(at)

    def load(self, at: Place, server: Place, seconds: float) -> Outcome:
        """Exchange messages for so long."""
        argv = [str(compiled(at)), self.mode, "client", *_where(server), str(self.message_bytes)]
        argv += [f"{seconds:g}", str(self.connections), str(self.rate), f"{self.nodelay:d}"]
        limit = DRAIN * seconds if self.reader_pause_us else seconds
        said = parse_client(at.load(argv, f"the {self.mode}", limit))
        return self._outcome(argv, said, seconds)

    @property
    def _load(self) -> Load:
        return Load.FIXED_RATE if self.rate else Load.SATURATION

    def _outcome(self, argv: list[str], said: Said, seconds: float) -> Outcome:
        if self.streams:
            rate = {"bytes_s": said.bytes / said.seconds}
            return Outcome(said.operations, said.seconds, said.bytes, 0, rate, argv)
        latency = Latency(self._load, said.histogram)
        metrics = {"req_s": said.operations / said.seconds, **latency_values(latency)}
        outcome = Outcome(
            said.operations,
            said.seconds,
            said.bytes,
            2 * said.operations,
            metrics,
            argv,
            latency=latency,
        )
        # Not said.seconds: nothing is sent after its time, however late the last answer comes.
        due = self.rate * self.connections * seconds
        if said.operations < LEAST_OF_RATE * due:
            outcome.problems.append(f"{said.operations} messages, {due:.0f} were due")
        return outcome


@dataclass(frozen=True)
class Said:
    """What a client reports: messages, bytes that arrived both ways, seconds, latencies."""

    operations: int
    bytes: int
    seconds: float
    histogram: list[tuple[float, int]]


def parse_client(text: str) -> Said:
    """Return what the client of benchmarks/sockets.c prints.

    Raises:
        BenchError: it is not that, or nothing was done.

    """
    try:
        data: Any = json.loads(text)
        said = Said(
            int(data["operations"]),
            int(data["bytes"]),
            float(data["seconds"]),
            [(float(value), int(count)) for value, count in data["latency_us"]],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"cannot read what the client said: {text[:200]!r}") from error
    if said.operations <= 0 or said.bytes <= 0 or not said.seconds > 0:
        raise BenchError("cannot use what the client said: it did nothing")
    return said


def compiled(at: Place) -> Path:
    """Return the program in a place's directory, which is compiled if it is not there."""
    program = at.directory / PROGRAM
    return program if program.exists() else compile_sockets(at.directory)


def compile_sockets(directory: Path) -> Path:
    """Compile benchmarks/sockets.c into a directory and return the program.

    Raises:
        HostError: there is no compiler, or it refused.

    """
    program = directory / PROGRAM
    argv = [COMPILER.find(), "-O2", "-pthread", "-o", str(program), str(files.find(SOURCE))]
    done = run(argv, timeout_s=60.0)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        cause = errors[0].strip() if errors else last_line(done.stderr, done.returncode)
        raise HostError(
            f"cannot compile '{SOURCE}': {cause}", f"apt-get install {COMPILER_PACKAGES}"
        )
    return program


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"mode is not {', '.join(MODES[:-1])} or {MODES[-1]} but '{mode}'")


def _where(server: Place) -> list[str]:
    if server.socket:
        return ["unix", str(server.socket), "-"]
    return ["tcp", server.address, str(PORT)]
