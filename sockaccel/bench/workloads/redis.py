"""Redis, loaded by its own redis-benchmark."""

from __future__ import annotations

import csv
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from sockaccel.bench.process import last_line
from sockaccel.bench.result import Better, Metric
from sockaccel.bench.workloads.base import Outcome, Place, Tool, rate_metric
from sockaccel.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT = 6379
# By the server's name of what counts those that did their work. redis-benchmark ends at an error,
# but takes the answer that there is no such key for as good as any.
COMMANDS = {"get": "keyspace_hits", "set": "total_commands_processed"}
START_TIMEOUT_S = 10.0
FIRST_REQUESTS = 20_000
# redis-benchmark's own name of the one key that it uses without -r.
KEY = "key:__rand_int__"
_COLUMNS = {
    "latency_saturated_us_p50": "p50_latency_ms",
    "latency_saturated_us_p99": "p99_latency_ms",
}


@dataclass
class RedisServer:
    """redis-server that saves nothing."""

    tools: ClassVar[tuple[Tool, ...]] = (Tool("redis-server", "redis-server"),)
    unix: ClassVar[bool] = True
    drops_root: ClassVar[bool] = False

    def start(self, at: Place, behind: Sequence[Place]) -> None:
        """Start it; return when it answers."""
        assert not behind
        argv = [self.tools[0].find(), "--save", "", "--appendonly", "no"]
        argv += ["--protected-mode", "no", "--dir", str(at.directory)]
        if at.socket:
            argv += ["--port", "0", "--unixsocket", str(at.socket)]
        else:
            argv += ["--bind", at.address, "--port", str(PORT)]
        child = at.start(argv)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                ask(at, at, "PING")
                return
            except BenchError as error:
                if not child.running():
                    done = child.wait(1.0)
                    said = last_line(done.stderr or done.stdout, done.returncode)
                    raise BenchError(f"cannot start redis-server: {said}") from error
                if time.monotonic() > deadline:
                    raise BenchError(f"cannot start redis-server: {error}") from error
                time.sleep(0.01)


@dataclass
class RedisBenchmark:
    """redis-benchmark, a closed loop.

    It counts requests and not seconds: the first load finds the rate, and all others
    are of as many requests as it would make in their time, whatever the arm.
    """

    tools: ClassVar[tuple[Tool, ...]] = (Tool("redis-benchmark", "redis-tools"),)
    unix: ClassVar[bool] = True
    unknown: ClassVar[tuple[str, ...]] = ()
    streams: ClassVar[bool] = False

    message_bytes: int  # of a value
    command: str  # "get" or "set"
    clients: int
    pipeline: int = 1

    def __post_init__(self) -> None:
        if self.command not in COMMANDS:
            raise ValueError(f"command is not {' or '.join(COMMANDS)} but '{self.command}'")
        self._rate: float | None = None
        self._done_before = 0

    @property
    def metrics(self) -> list[Metric]:
        """Requests per second, and the latencies of clients that never wait."""
        return [
            rate_metric("req_s", "requests/s"),
            *(
                Metric(name, f"latency, saturated, {name[-3:]}", "us", Better.LOWER)
                for name in _COLUMNS
            ),
        ]

    def prepare(self, at: Place, server: Place) -> None:
        """Store the value that GET is to find, and note how many commands were done before."""
        if ask(at, server, f"SET {KEY} {'x' * self.message_bytes}") != "+OK":
            raise BenchError(f"cannot store '{KEY}' in redis: it does not say OK")
        self._done_before = commands_done(at, server, self.command)

    def load(self, at: Place, server: Place, seconds: float) -> Outcome:
        """Let redis-benchmark load it."""
        requests = FIRST_REQUESTS
        if self._rate is not None:
            requests = max(1000, int(self._rate * seconds))
        if server.socket:
            where = ["-s", str(server.socket)]
        else:
            where = ["-h", server.address, "-p", str(PORT)]
        argv = [self.tools[0].find(), *where, "-t", self.command, "-n", str(requests)]
        argv += ["-c", str(self.clients), "-P", str(self.pipeline), "-d", str(self.message_bytes)]
        # It may be much slower in one arm than in another.
        said = at.load([*argv, "--csv"], "redis with redis-benchmark", 4 * seconds + 10)
        figures = parse_csv(said, self.command)
        self._rate = self._rate or figures["rps"]
        done = commands_done(at, server, self.command) - self._done_before
        problems = []
        if done < requests:
            problems = [f"redis has done {done} of {requests} commands ({COMMANDS[self.command]})"]
        return Outcome(
            requests=requests,
            seconds=requests / figures["rps"],
            payload_bytes=requests * exchange_bytes(self.command, self.message_bytes),
            # What is pipelined goes together, and its answers come together.
            packets=2 * (requests // self.pipeline),
            metrics={
                "req_s": figures["rps"],
                **{name: figures[column] * 1000 for name, column in _COLUMNS.items()},
            },
            argv=[*argv, "--csv"],
            problems=problems,
        )


def exchange_bytes(command: str, value_bytes: int) -> int:
    """Return what a command of redis-benchmark and its answer take on their connection: RESP."""
    value = "x" * value_bytes
    if command == "set":
        return len(_request("set", KEY, value)) + len("+OK\r\n")
    return len(_request("get", KEY)) + len(_bulk(value))


def _request(*words: str) -> str:
    return f"*{len(words)}\r\n{''.join(map(_bulk, words))}"


def _bulk(text: str) -> str:
    return f"${len(text)}\r\n{text}\r\n"


def parse_csv(text: str, command: str) -> dict[str, float]:
    """Return the figures of the one test in the output of `redis-benchmark --csv`."""
    rows = [row for row in csv.DictReader(text.splitlines()) if row.get("test")]
    try:
        (row,) = rows
        if row["test"].lower() != command:
            raise ValueError(row["test"])
        figures = {name: float(value) for name, value in row.items() if name != "test"}
        if not figures["rps"] > 0 or not figures.keys() >= set(_COLUMNS.values()):
            raise ValueError("no figures")
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"cannot read what redis-benchmark said: {text[:200]!r}") from error
    return figures


def commands_done(at: Place, server: Place, command: str) -> int:
    """Return how many commands a server has carried out; of GETs those that found their value."""
    for line in ask(at, server, "INFO stats").splitlines():
        name, _, value = line.partition(":")
        if name == COMMANDS[command]:
            return int(value)
    raise BenchError(f"cannot read the statistics of redis: no {COMMANDS[command]}")


def ask(at: Place, server: Place, command: str) -> str:
    """Return a server's answer to one command, asked from a node; an error raises BenchError."""
    try:
        answer = at.call(partial(_ask, server, command))
    except OSError as error:
        raise BenchError(f"cannot ask redis: {error}") from error
    if not answer or answer.startswith("-"):
        raise BenchError(f"cannot ask redis: it says {answer!r}")
    return answer


def _ask(server: Place, command: str) -> str:
    family = socket.AF_UNIX if server.socket else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(5.0)
        connection.connect(str(server.socket) if server.socket else (server.address, PORT))
        # Not as a line, which must not be long. QUIT ends the connection, and with it the answer.
        connection.sendall((_request(*command.split()) + _request("QUIT")).encode())
        answer = b""
        while chunk := connection.recv(1 << 16):
            answer += chunk
    return answer.decode(errors="replace").removesuffix("+OK\r\n").strip()
