"""HTTP: nginx as web server and load balancer, loaded by wrk."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from sockaccel.bench.nginx import Nginx, load_balancer_config, web_config, write_page
from sockaccel.bench.result import Latency, Load, Metric
from sockaccel.bench.workloads.base import (
    Outcome,
    Place,
    Tool,
    compact,
    latency_metrics,
    latency_values,
    rate_metric,
)
from sockaccel.bench.wrk import WrkLoad, WrkReport, read_report, report_command
from sockaccel.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT = 80
_PROBE_TIMEOUT_S = 5.0
_NGINX = Tool("nginx", "nginx-light", "-v")


@dataclass
class WebServer:
    """nginx with one page."""

    tools: ClassVar[tuple[Tool, ...]] = (_NGINX,)
    unix: ClassVar[bool] = False
    drops_root: ClassVar[bool] = True

    message_bytes: int
    sendfile: bool = False
    web_workers: int = 1

    def start(self, at: Place, behind: Sequence[Place]) -> None:
        """Start it with its page in its directory."""
        assert not behind
        root = at.directory / "page"
        write_page(root, self.message_bytes)
        config = web_config(
            at.address, root, sendfile=self.sendfile, port=PORT, workers=self.web_workers
        )
        Nginx(at.directory, config, at.start).start()


@dataclass
class LoadBalancer:
    """nginx in front of web servers."""

    tools: ClassVar[tuple[Tool, ...]] = (_NGINX,)
    unix: ClassVar[bool] = False
    drops_root: ClassVar[bool] = True

    upstream_keepalive: bool
    balancer_workers: int = 2

    def start(self, at: Place, behind: Sequence[Place]) -> None:
        """Start it in front of the servers that are behind it."""
        config = load_balancer_config(
            at.address,
            [f"{server.address}:{PORT}" for server in behind],
            keepalive=self.upstream_keepalive,
            port=PORT,
            workers=self.balancer_workers,
        )
        Nginx(at.directory, config, at.start).start()


@dataclass
class Wrk:
    """wrk: a closed loop, so that its latencies are those of saturation."""

    tools: ClassVar[tuple[Tool, ...]] = (Tool("wrk", "wrk", "-v"),)
    unix: ClassVar[bool] = False
    unknown: ClassVar[tuple[str, ...]] = ()
    streams: ClassVar[bool] = False

    message_bytes: int
    connections: int
    threads: int = 2

    def __post_init__(self) -> None:
        if self.threads > self.connections:
            raise ValueError(f"threads are {self.threads}, more than connections")
        self._response_bytes = 0

    @property
    def metrics(self) -> list[Metric]:
        """Requests per second, and the latencies of a queue that wrk keeps full."""
        return [rate_metric("req_s", "requests/s"), *latency_metrics(Load.SATURATION)]

    def prepare(self, at: Place, server: Place) -> None:
        """Find out how long the right response is, header and body."""
        self._response_bytes = at.call(partial(probe, server.address, self.message_bytes))

    def load(self, at: Place, server: Place, seconds: float) -> Outcome:
        """Let wrk load it; wrk knows whole seconds alone."""
        whole = max(1, round(seconds))
        # With the port: a minimal system has no /etc/services to look "http" up in.
        url = f"http://{server.address}:{PORT}/"
        load = WrkLoad(url, whole, self.connections, self.threads)
        path = at.directory / "wrk.json"
        argv = report_command(load, path)
        at.load(argv, f"'{url}'", whole)
        report = read_report(path)
        # Without an answer there is none, and that is for the proof to say.
        latency = Latency(Load.SATURATION, report.histogram) if report.histogram else None
        percentiles = latency_values(latency) if latency else {}
        return Outcome(
            requests=report.requests,
            seconds=report.duration_s,
            # A balancer's own requests differ in length, while every hop has the whole response.
            payload_bytes=report.requests * self._response_bytes,
            packets=2 * report.requests,
            metrics={"req_s": report.requests_per_s, **percentiles},
            argv=argv,
            errors=report.errors,
            latency=latency and replace(latency, histogram=compact(latency.histogram)),
            problems=[*self._shortfall(report), *(complaints(server) if report.failed else [])],
        )

    def _shortfall(self, report: WrkReport) -> list[str]:
        # Its status counter begins at 400, so that the length has to show any other response.
        due = report.requests * self._response_bytes
        if report.bytes >= due:
            return []
        said = f"{report.bytes} bytes received by {report.requests} requests"
        return [f"{said} of {self._response_bytes} bytes each"]


def complaints(server: Place) -> list[str]:
    """Return the last line of a server's error log, if there is any."""
    try:
        lines = (server.directory / "error.log").read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [f"nginx: {line}" for line in lines[-1:]]


def probe(address: str, body_bytes: int) -> int:
    """Ask a web server as wrk does; return the bytes of its response, header and body.

    Raises:
        BenchError: it is not the page of that size.

    """
    where = f"http://{address}:{PORT}/"
    try:
        with socket.create_connection((address, PORT), _PROBE_TIMEOUT_S) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {address}:{PORT}\r\n\r\n".encode())
            # It stays open, so that the length has to be known.
            received = b""
            while (total := _response_bytes(received, body_bytes)) > len(received):
                chunk = connection.recv(1 << 16)
                if not chunk:
                    raise BenchError(f"cannot measure '{where}': a response that is too short")
                received += chunk
    except OSError as error:
        raise BenchError(f"cannot measure '{where}': {error}") from error
    status = received.split(b" ", 2)[1].decode(errors="replace")
    if status != "200" or f"\r\nContent-Length: {body_bytes}\r\n".encode() not in received:
        raise BenchError(
            f"cannot measure '{where}': status {status}, or not a page of {body_bytes} bytes"
        )
    return total


def _response_bytes(received: bytes, body_bytes: int) -> int:
    """Return how long a response has to be; more than there is until its header is whole."""
    header, end, _ = received.partition(b"\r\n\r\n")
    return len(header) + len(end) + body_bytes if end else len(received) + 1
