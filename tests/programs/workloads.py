"""Servers and clients under load: how much of what they say to each other is redirected."""

from __future__ import annotations

import re
import select
import socket
import subprocess
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

from kernel.harness import IPV4_A, IPV4_B, receive_stream, send_stream, wait_until

from sockaccel.bench.nginx import Nginx, load_balancer_config, web_config, write_page
from sockaccel.bench.process import Child
from sockaccel.bench.wrk import WrkLoad, run_wrk

from . import build
from .arena import PATH, PLAIN, Traffic, arena
from .known import KNOWN
from .results import Failure, Row, explain, no_longer_failing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kernel.harness import Host

    from .arena import Arena

CLIENT, SERVER, ORIGIN = IPV4_A, IPV4_B, "10.77.1.3"
PORT = 8080
PAGE = 16 << 10
SHARE = 0.9  # of all bytes, once warm
WARM_UP = 20  # runs of the client with one connection, at most
WORKS, REDIRECTED = "works", "more than 90 % redirected"


def inside(stage: Arena, host: Host) -> Callable[[Sequence[str]], list[str]]:
    """Return what turns a command into one that runs in the namespace and the cgroup."""
    procs = stage.lab.cgroup / "cgroup.procs"
    script = 'echo 0 >"$0" && exec "$@"'
    head = ["sh", "-c", script, str(procs), "nsenter", f"--net={host.path}", "env", f"PATH={PATH}"]
    return lambda argv: [*head, *argv]


def launch_inside(stage: Arena, host: Host, argv: Sequence[str]) -> Child:
    """Start a program in the namespace and the cgroup."""
    return Child(inside(stage, host)(argv))


def listening(host: Host, port: int) -> None:
    wait_until(lambda: f":{port} " in host.execute("ss", "-tlnH"), 20, what=f"port {port} listens")


class Workload(Protocol):
    """A server and its client."""

    name: str
    redirects: bool  # most of its bytes have to be redirected, once warm

    def start(self, stage: Arena, hosts: list[Host], directory: Path) -> None:
        """Start the server."""

    def load(self, connections: int, seconds: float) -> None:
        """Let the client work on so many new connections, and fail unless all went well."""

    def stop(self) -> None:
        """End what the laboratory does not end by itself."""


@dataclass
class Wrk:
    """wrk against nginx, or against nginx in front of nginx."""

    name: str
    proxied: bool
    redirects: bool = True
    _servers: list[Nginx] = field(default_factory=list)

    def start(self, stage: Arena, hosts: list[Host], directory: Path) -> None:
        client, middle, origin = hosts
        self._report = directory / "wrk.json"
        self._wrap = inside(stage, client)
        write_page(directory / "www", PAGE)
        where, address = (origin, ORIGIN) if self.proxied else (middle, SERVER)
        configurations = [(where, "web", web_config(address, directory / "www"))]
        if self.proxied:
            balancer = load_balancer_config(SERVER, [f"{ORIGIN}:80"], keepalive=True)
            configurations.append((middle, "proxy", balancer))
        for host, name, text in configurations:
            server = Nginx(directory / name, text, partial(launch_inside, stage, host))
            server.start()
            self._servers.append(server)

    def load(self, connections: int, seconds: float) -> None:
        load = WrkLoad(f"http://{SERVER}/", max(1, round(seconds)), connections, 1)
        report = run_wrk(load, self._report, self._wrap)
        assert report.requests, "wrk got no answer"
        assert not report.failed, f"wrk: {report.errors}"

    def stop(self) -> None:
        for server in self._servers:
            server.stop()
        self._servers.clear()


@dataclass
class RedisBenchmark:
    """redis-benchmark against redis-server."""

    name: str = "redis-benchmark ↔ redis"
    redirects: bool = True

    def start(self, stage: Arena, hosts: list[Host], directory: Path) -> None:
        self._stage, self._client, self._log = stage, hosts[0], directory / "benchmark.log"
        argv = ["redis-server", "--bind", SERVER, "--port", str(PORT), "--save", ""]
        argv += ["--protected-mode", "no"]
        stage.background(hosts[1], argv, directory / "redis.log")
        listening(hosts[1], PORT)

    def load(self, connections: int, seconds: float) -> None:
        requests = round(1000 * connections * seconds)
        argv = ["redis-benchmark", "-h", SERVER, "-p", str(PORT), "-c", str(connections)]
        argv += ["-n", str(requests), "-d", "4000", "-t", "set,get", "--csv"]
        code = self._stage.run(self._client, argv, self._log, timeout=120)
        said = self._log.read_text()
        assert code == 0, f"redis-benchmark: {code}: {said[-200:]}"
        assert len(re.findall(r'^"(?:SET|GET)","[1-9]', said, re.MULTILINE)) == 2, said[-200:]

    def stop(self) -> None:
        """The laboratory ends it."""


@dataclass
class Told:
    """A server, and a client that is told on its standard input how much to load it.

    The client is one process throughout: what is known of a program that is an interpreter
    may well be known of the process only.
    """

    name: str
    command: Callable[[], list[str | Path]]
    redirects: bool = True

    def start(self, stage: Arena, hosts: list[Host], directory: Path) -> None:
        command, address = self.command(), f"{SERVER}:{PORT}"
        stage.background(hosts[1], [*command, "serve", address], directory / "server.log")
        listening(hosts[1], PORT)
        argv = [str(word) for word in (*command, "client", address)]
        self._client = subprocess.Popen(
            inside(stage, hosts[0])(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def load(self, connections: int, seconds: float) -> None:
        requests = max(5, round(300 * seconds))
        assert self._client.stdin
        assert self._client.stdout
        self._client.stdin.write(f"{connections} {requests}\n")
        self._client.stdin.flush()
        ready, _, _ = select.select([self._client.stdout], [], [], 120)
        said = self._client.stdout.readline().strip() if ready else "nothing, for 120 s"
        assert said == f"ok {connections * requests * PAGE}", f"the client says: {said}"

    def stop(self) -> None:
        self._client.kill()
        self._client.communicate()


@dataclass
class BlockingReader:
    """A server that reads with blocking recv() while signals arrive."""

    name: str = "a blocking reader that takes signals"
    redirects: bool = False

    def start(self, stage: Arena, hosts: list[Host], directory: Path) -> None:
        self._client, self._log = hosts[0], directory / "reader.log"
        argv: list[str | Path] = [
            "/usr/bin/python3",
            build.SOURCES / "blocking_reader.py",
            f"{SERVER}:{PORT}",
        ]
        stage.background(hosts[1], argv, self._log)
        listening(hosts[1], PORT)

    def load(self, connections: int, seconds: float) -> None:
        for _ in range(connections):
            self._client.spawn(echo_with_pauses, max(10, round(30 * seconds))).result(120)

    def stop(self) -> None:
        """The laboratory ends it."""


def echo_with_pauses(messages: int) -> None:
    """Have messages echoed; before each, the reader has to wait."""
    with socket.create_connection((SERVER, PORT), timeout=20) as sock:
        for number in range(messages):
            time.sleep(0.01)
            send_stream(sock, number, 3000, [3000])
            got = receive_stream(sock, number, 3000)
            assert got == 3000, f"{got} of 3000 bytes came back, then the connection ended"


def go_http() -> list[str | Path]:
    return [build.go("http")]


def node_http() -> list[str | Path]:
    return ["node", build.SOURCES / "http.js"]


def asyncio_http() -> list[str | Path]:
    return ["/usr/bin/python3", build.SOURCES / "asyncio_http.py"]


def workloads() -> list[Workload]:
    """Return all workloads."""
    return [
        Wrk("wrk ↔ nginx", proxied=False),
        Wrk("nginx ↔ nginx", proxied=True),
        RedisBenchmark(),
        Told("Node HTTP", node_http),
        Told("Go HTTP", go_http),
        Told("asyncio", asyncio_http),
        BlockingReader(),
    ]


# --- The comparison -------------------------------------------------------------------------


def judge(policy: str, *, quick: bool = False, names: Sequence[str] = ()) -> list[Row]:
    """Run each workload on plain TCP, then with a policy."""
    chosen = [workload for workload in workloads() if not names or workload.name in names]
    return [judge_one(workload, policy, quick=quick) for workload in chosen]


def judge_one(workload: Workload, policy: str, *, quick: bool = False) -> Row:
    """Return the row of one workload."""
    seconds = 1.0 if quick else 3.0
    begin = time.monotonic()
    run(workload, PLAIN, seconds)
    row = Row("workloads", workload.name, policy, 1 + workload.redirects)
    wrong = None
    try:
        warm_up, row.traffic = run(workload, policy, seconds)
        if workload.redirects:
            row.notes.append(f"{warm_up} runs with one connection to warm up")
    except AssertionError as error:
        wrong = Failure(WORKS, str(error).strip().splitlines()[-1])
    else:
        if workload.redirects and row.traffic.share <= SHARE:
            wrong = Failure(REDIRECTED, f"{row.traffic.share:.1%}")
    if wrong:
        row.failures.append(explain(workload.name, policy, wrong, KNOWN))
    checks = [WORKS, *([REDIRECTED] if workload.redirects else [])]
    row.notes += no_longer_failing(workload.name, policy, checks, row.failures, KNOWN)
    row.seconds = time.monotonic() - begin
    return row


def run(workload: Workload, arm: str, seconds: float) -> tuple[int, Traffic]:
    """Return how many runs were not yet redirected, and what was sent when warm."""
    with TemporaryDirectory(prefix="sockaccel-programs-") as name, arena(arm) as stage:
        directory = Path(name)
        directory.chmod(0o755)
        _, hosts = stage.lab.bridge(3)
        stage.start()
        try:
            workload.start(stage, hosts, directory)
            warm_up = 0
            while stage.accelerated and workload.redirects and warm_up < WARM_UP:
                before = stage.traffic()
                workload.load(1, 0.1)
                if (stage.traffic() - before).share > SHARE:
                    break
                warm_up += 1
            before = stage.traffic()
            workload.load(10, seconds)
            return warm_up, stage.traffic() - before
        finally:
            workload.stop()
