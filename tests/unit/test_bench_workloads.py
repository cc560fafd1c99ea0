from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sockaccel.bench.arms import Arm
from sockaccel.bench.process import Child
from sockaccel.bench.proof import Evidence, problems_of_run
from sockaccel.bench.result import Latency, Load, Proof
from sockaccel.bench.scenario import load_all
from sockaccel.bench.workloads import CLIENTS, SERVERS, http, redis
from sockaccel.bench.workloads.base import compact, latency_values
from sockaccel.bench.workloads.postgres import _ready, parse_pgbench, read_logs
from sockaccel.bench.workloads.redis import KEY, exchange_bytes, parse_csv
from sockaccel.bench.workloads.sockets import SocketClient, compile_sockets, parse_client
from sockaccel.errors import BenchError, HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REDIS = (
    '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms",'
    '"p99_latency_ms","max_latency_ms"\n'
    '"GET","120000.00","0.3","0.1","0.279","0.4","0.551","1.2"\n'
)
PGBENCH = """\
pgbench (15.20 (Debian 15.20-0+deb12u1))
transaction type: <builtin: select only>
number of transactions actually processed: 30210
number of failed transactions: 0 (0.000%)
latency average = 0.331 ms
initial connection time = 4.120 ms
tps = 30234.567890 (without initial connection time)
"""
SOCKETS = {
    "operations": 3, "bytes": 384, "seconds": 0.5, "latency_us": [[8.2, 2], [9.0, 1]],
}  # fmt: skip


def test_every_program_says_what_it_needs() -> None:
    for program in [*SERVERS.values(), *CLIENTS.values()]:
        assert program.tools
        assert all(tool.package for tool in program.tools)


def test_redis_benchmark_is_read() -> None:
    figures = parse_csv(REDIS, "get")
    assert (figures["rps"], figures["p50_latency_ms"], figures["p99_latency_ms"]) == (
        120000.0, 0.279, 0.551,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("", "get"),
        (REDIS, "set"),
        (REDIS + '"SET","1.0","1","1","1","1","1","1"\n', "get"),
        (REDIS.replace("120000.00", "0.00"), "get"),
        (REDIS.replace("120000.00", "many"), "get"),
        ('"test","rps"\n"GET","120000.00"\n', "get"),
        ("Could not connect to Redis at 10.0.0.1:6379: Connection refused\n", "get"),
    ],
)
def test_what_is_not_the_test_that_was_asked_for_is_an_error(text: str, command: str) -> None:
    with pytest.raises(BenchError, match="what redis-benchmark said"):
        parse_csv(text, command)


class HostPlace:
    """This host, as a node."""

    address = "127.0.0.1"
    socket = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def start(self, argv: Sequence[str]) -> Child:
        return Child(argv)

    def call(self, function: Callable[[], str]) -> str:
        return function()


def test_a_redis_that_ends_at_once_is_said_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "redis-server"
    # It writes its log to stdout.
    program.write_text("#!/bin/sh\necho first\necho '# Failed listening, aborting.'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(redis, "PORT", 1)  # where nobody listens
    place: Any = HostPlace(tmp_path)
    with pytest.raises(BenchError, match=r"^cannot start redis-server: # Failed listening"):
        redis.RedisServer().start(place, [])


@pytest.mark.parametrize("value", ["x", "x" * 64, "x" * 1000])
def test_an_exchange_with_redis_is_as_long_as_its_protocol_has_it(value: str) -> None:
    bulk = f"${len(value)}\r\n{value}\r\n"
    key = f"${len(KEY)}\r\n{KEY}\r\n"
    get = f"*2\r\n$3\r\nGET\r\n{key}{bulk}"
    set_ = f"*3\r\n$3\r\nSET\r\n{key}{bulk}+OK\r\n"
    assert exchange_bytes("get", len(value)) == len(get)
    assert exchange_bytes("set", len(value)) == len(set_)


def test_pgbench_is_read() -> None:
    assert parse_pgbench(PGBENCH) == (30210, 0, 30234.56789)
    assert (
        parse_pgbench(PGBENCH.replace("failed transactions: 0", "failed transactions: 7"))[1] == 7
    )


@pytest.mark.parametrize("lacking", ["processed", "tps"])
def test_half_a_report_of_pgbench_is_an_error(lacking: str) -> None:
    lines = [line for line in PGBENCH.splitlines() if lacking not in line]
    with pytest.raises(BenchError, match="what pgbench said"):
        parse_pgbench("\n".join(lines))


def test_pgbenchs_logs_become_one_histogram(tmp_path: Path) -> None:
    (tmp_path / "pgbench_log.17").write_text("0 1 300 0 1700000000 5\n0 2 200 0 1700000000 9\n")
    (tmp_path / "pgbench_log.17.1").write_text("1 1 200 0 1700000000 7\n")
    assert read_logs(tmp_path) == [(200.0, 2), (300.0, 1)]


def test_no_log_of_pgbench_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="pgbench's log"):
        read_logs(tmp_path)


@pytest.mark.parametrize(
    ("pid", "status", "ready"),
    [(4711, "ready   ", True), (4711, "starting", False), (4712, "ready   ", False)],
)
def test_postgres_is_ready_when_the_one_that_was_started_says_so(
    tmp_path: Path, pid: int, status: str, ready: bool
) -> None:
    assert not _ready(tmp_path, 4711)
    lines = [str(pid), "/data", "1700000000", "5432", "/run", "10.0.0.1", "  1234 5", status]
    (tmp_path / "postmaster.pid").write_text("".join(f"{line}\n" for line in lines))
    assert _ready(tmp_path, 4711) == ready


def test_the_socket_client_is_read() -> None:
    said = parse_client(json.dumps(SOCKETS))
    assert (said.operations, said.bytes, said.seconds) == (3, 384, 0.5)
    assert said.histogram == [(8.2, 2), (9.0, 1)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        *(json.dumps(SOCKETS | {name: 0}) for name in ("operations", "bytes", "seconds")),
        json.dumps(SOCKETS | {"latency_us": [[1]]}),
        json.dumps(SOCKETS).replace("0.5", "NaN"),
    ],
)
def test_a_socket_client_that_says_nothing_usable_is_an_error(text: str) -> None:
    with pytest.raises(BenchError, match="what the client said"):
        parse_client(text)


@pytest.mark.parametrize(("operations", "problems"), [(950, 0), (949, 1)])
def test_a_fixed_rate_that_is_not_reached_is_a_problem(operations: int, problems: int) -> None:
    client = SocketClient("echo", 64, connections=2, rate=1000)
    # The last answer came late; the client had sent nothing more.
    said = parse_client(json.dumps(SOCKETS | {"operations": operations, "seconds": 0.6}))
    outcome = client._outcome([], said, 0.5)
    assert len(outcome.problems) == problems
    assert outcome.problems == ["949 messages, 1000 were due"] * problems


class SocketPlace:
    """A node whose client is there already, and keeps how long it was given."""

    address = "10.0.0.1"
    socket = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "sockets").touch()
        self.given: list[float] = []

    def load(self, _argv: Sequence[str], _what: str, seconds: float) -> str:
        self.given.append(seconds)
        return json.dumps(SOCKETS)


def test_a_client_whose_readers_pause_has_time_until_they_have_read_all(tmp_path: Path) -> None:
    place: Any = SocketPlace(tmp_path)
    slow, fast = (
        load_all()[name].cases[0].client(load_all()[name].client)
        for name in ("slow-reader", "stream")
    )
    slow.load(place, place, 2.0)
    fast.load(place, place, 2.0)
    assert place.given == [40.0, 2.0]


def test_no_compiler_is_said_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sockaccel.bench.process.SYSTEM_PATH", str(tmp_path))
    with pytest.raises(HostError, match="'cc': it is not installed") as raised:
        compile_sockets(tmp_path)
    assert raised.value.hint == "apt-get install gcc libc6-dev"


class WrkPlace:
    """A node where wrk leaves a report that was written before."""

    address = "10.0.0.1"

    def __init__(self, directory: Path, report: dict[str, object]) -> None:
        self.directory = directory
        self._report = report

    def load(self, argv: Sequence[str], *_: object) -> str:
        path = next(word for word in argv if word.startswith("WRK_REPORT=")).partition("=")[2]
        Path(path).write_text(json.dumps(self._report))
        return ""

    def call(self, _: object) -> int:
        return 850


def wrk_report(**changes: object) -> dict[str, object]:
    errors = dict.fromkeys(["connect", "read", "write", "status", "timeout"], 0)
    latency = [[1, 500], [9, 500]]
    report = {"schema": "sockaccel.wrk/1", "requests": 1000, "bytes": 850_000}
    return {**report, "duration_us": 10**6, "errors": errors, "latency_us": latency, **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"bytes": 849_999}, ["849999 bytes received by 1000 requests of 850 bytes each"]),
        (
            {"errors": {"connect": 0, "read": 0, "write": 0, "status": 1000, "timeout": 0}},
            ["nginx: no live upstreams"],
        ),
    ],
)
def test_wrks_exit_code_is_not_asked_whether_all_went_well(
    tmp_path: Path, changes: dict[str, object], said: list[str]
) -> None:
    (tmp_path / "error.log").write_text("first\nno live upstreams\n")
    place: Any = WrkPlace(tmp_path, wrk_report(**changes))
    client = http.Wrk(message_bytes=612, connections=10)
    client.prepare(place, place)
    outcome = client.load(place, place, 1.0)
    assert outcome.problems == said
    assert sum(outcome.errors.values()) == 1000 * (said == ["nginx: no live upstreams"])
    assert outcome.payload_bytes == 850_000
    assert outcome.metrics["latency_saturated_us_p99"] == 9.0


def test_no_answer_at_all_is_a_run_without_latencies_and_no_error_of_its_own(
    tmp_path: Path,
) -> None:
    place: Any = WrkPlace(tmp_path, wrk_report(requests=0, bytes=0, latency_us=[]))
    client = http.Wrk(message_bytes=612, connections=10)
    client.prepare(place, place)
    outcome = client.load(place, place, 1.0)
    assert outcome.metrics == {"req_s": 0.0}
    assert outcome.latency is None
    proof = Proof(active=False, redirected_bytes=0, tcp_bytes=0, interface_bytes=0)
    run = Evidence(Arm.BASELINE, outcome, proof, 1, 0.9, others_on=False, data_packets=0)
    assert problems_of_run(run) == ["baseline: no request was answered"]


def test_a_compact_histogram_has_every_count_within_half_a_bucket() -> None:
    exact = [(float(value), 1 + value % 3) for value in range(1, 60_000, 7)]
    joined = compact(exact)
    assert sum(count for _, count in joined) == sum(count for _, count in exact)
    assert joined == sorted(joined)
    assert len(joined) < 1100
    assert [pair for pair in joined if pair[0] < 256] == [pair for pair in exact if pair[0] < 256]
    for value, _ in exact:
        assert min(abs(value / middle - 1) for middle, _ in joined) <= 1 / 256


def test_percentiles_are_named_after_the_load() -> None:
    histogram = [(1.0, 98), (5.0, 1), (9.0, 1)]
    assert latency_values(Latency(Load.SATURATION, histogram)) == {
        "latency_saturated_us_p50": 1.0,
        "latency_saturated_us_p99": 5.0,
    }
    assert set(latency_values(Latency(Load.FIXED_RATE, histogram))) == {
        "latency_us_p50",
        "latency_us_p99",
    }


def answer(response: bytes) -> int:
    """Serve one response, in two pieces, and return the port of its server."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(1 << 16)
            connection.sendall(response[:20])
            connection.sendall(response[20:])

    threading.Thread(target=serve, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


HEAD = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\n"


def test_a_probe_tells_the_length_of_the_right_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PORT", answer(HEAD + b"hello"))
    assert http.probe("127.0.0.1", 5) == len(HEAD) + 5


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (HEAD + b"hell", "too short"),
        (HEAD.replace(b"200 OK", b"301 Moved") + b"hello", "status 301"),
        (HEAD.replace(b": 5", b": 6") + b"hello!", "not a page of 5 bytes"),
        (b"", "too short"),
    ],
)
def test_a_probe_refuses_any_other_response(
    monkeypatch: pytest.MonkeyPatch, response: bytes, said: str
) -> None:
    monkeypatch.setattr(http, "PORT", answer(response))
    with pytest.raises(BenchError, match=said):
        http.probe("127.0.0.1", 5)
