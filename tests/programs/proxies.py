"""Real proxies between a client and a server that check every byte, and the time it takes."""

from __future__ import annotations

import copy
import itertools
import math
import os
import re
import socket
import struct
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

from kernel.harness import IPV4_A, IPV4_B, wait_until

from . import build
from .arena import PLAIN, arena
from .http import KIB, Client, frame, pieces, serve
from .known import KNOWN
from .results import Failure, Row, explain, no_longer_failing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from kernel.harness import Host

    from .arena import Arena

CLIENT, PROXY, ORIGIN = IPV4_A, IPV4_B, "10.77.1.3"
PORT, STATIC_PORT = 8080, 8081
MIB = KIB * KIB
SIZES = (1 * KIB, 16 * KIB, 300 * KIB + 7, 8 * MIB + 7, 60 * MIB + 7)
SMALL = SIZES[:3]
QUICK_LIMIT = 1 * MIB
STALL_S = 20  # without a byte
RERUNS = 2  # of a case that was slow
FACTOR, FLOOR_S = 3, 1.0
MAX_FAILURES = 3  # of one proxy; each may have taken STALL_S

NGINX = """
daemon off;
user root;
worker_processes 2;
pid {directory}/{name}.pid;
error_log {directory}/{name}.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/{name}-body;
    proxy_temp_path {directory}/{name}-proxy;
    fastcgi_temp_path {directory}/{name}-fastcgi;
    uwsgi_temp_path {directory}/{name}-uwsgi;
    scgi_temp_path {directory}/{name}-scgi;
    client_max_body_size 0;
    {content}
}}
"""
NGINX_STATIC = "sendfile on; tcp_nopush on; server {{ listen {port}; root {root}; }}"
NGINX_PROXY = """
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream origin {{ server {origin}:{port}; keepalive 8; }}
    upstream static {{ server {origin}:{static}; keepalive 8; }}
    server {{
        listen {port};
        proxy_http_version 1.1;
        proxy_buffering {buffering};
        proxy_request_buffering {buffering};
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        location / {{ proxy_pass http://origin; }}
        location /static/ {{ proxy_pass http://static/; }}
    }}
"""
HAPROXY = """
global
    maxconn 500
    stats socket {directory}/haproxy.sock level user
defaults
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
    {options}
"""
HAPROXY_HTTP = """
frontend front
    mode http
    bind {proxy}:{port}
    use_backend static if {{ path_beg /static/ }}
    default_backend origin
backend origin
    mode http
    server one {origin}:{port}
backend static
    mode http
    http-request replace-path /static/(.*) /\\1
    server one {origin}:{static}
"""
HAPROXY_TCP = """
listen front
    mode tcp
    bind {proxy}:{port}
    server one {origin}:{port}
"""
ADDRESSES = {"origin": ORIGIN, "port": PORT, "static": STATIC_PORT, "proxy": PROXY}


class Proxy(Protocol):
    """A proxy program with a configuration."""

    name: str

    def start(self, stage: Arena, host: Host, directory: Path) -> None:
        """Start it."""

    def note(self) -> str | None:
        """Return what it says of its own work."""


@dataclass
class NginxProxy:
    """nginx, with or without buffers between its two sides."""

    name: str
    buffering: str

    def start(self, stage: Arena, host: Host, directory: Path) -> None:
        content = NGINX_PROXY.format(**ADDRESSES, buffering=self.buffering)
        start_nginx(stage, host, directory, "proxy", content)

    def note(self) -> None:
        """It says nothing."""


@dataclass
class HaproxyProxy:
    """HAProxy, whose own counters tell how much it spliced."""

    name: str
    options: str
    content: str = HAPROXY_HTTP

    def start(self, stage: Arena, host: Host, directory: Path) -> None:
        self._socket = directory / "haproxy.sock"
        file = directory / "haproxy.conf"
        text = (HAPROXY + self.content).format(
            **ADDRESSES, directory=directory, options=self.options
        )
        file.write_text(text)
        stage.background(host, ["haproxy", "-db", "-f", file], directory / "haproxy.log")

    def note(self) -> str:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(self._socket))
            sock.sendall(b"show info\n")
            said = b"".join(iter(lambda: sock.recv(1 << 16), b"")).decode()
        # Its name is misspelt in 2.6, and not in later releases.
        spliced = re.search(r"^TotalSpli\w+BytesOut: (\d+)$", said, re.MULTILINE)
        return f"{int(spliced[1]) // MIB} MB spliced" if spliced else "no word on splicing"


@dataclass
class CommandProxy:
    """A program that is given where to listen and where to connect to."""

    name: str
    command: Callable[[], list[str | Path]]

    def start(self, stage: Arena, host: Host, directory: Path) -> None:
        argv = [*self.command(), f"{PROXY}:{PORT}", f"{ORIGIN}:{PORT}"]
        stage.background(host, argv, directory / "proxy.log")

    def note(self) -> None:
        """It says nothing."""


PROXIES: tuple[Proxy, ...] = (
    NginxProxy("nginx", "on"),
    NginxProxy("nginx, unbuffered", "off"),
    HaproxyProxy("HAProxy", ""),
    HaproxyProxy("HAProxy, splice-auto", "option splice-auto"),
    HaproxyProxy("HAProxy, splice", "option splice-request\n    option splice-response"),
    HaproxyProxy("HAProxy, TCP", "", HAPROXY_TCP),
    HaproxyProxy("HAProxy, TCP, splice-auto", "option splice-auto", HAPROXY_TCP),
    CommandProxy("Go, io.Copy", lambda: [build.go("proxy")]),
    CommandProxy("Python, os.splice", lambda: ["/usr/bin/python3", build.SOURCES / "splicer.py"]),
)


def start_nginx(stage: Arena, host: Host, directory: Path, name: str, content: str) -> None:
    """Start nginx with its files in a directory."""
    file = directory / f"{name}.conf"
    file.write_text(NGINX.format(directory=directory, name=name, content=content))
    argv = ["nginx", "-p", directory, "-e", directory / f"{name}.log", "-c", file]
    stage.background(host, argv, directory / f"{name}.out")


def await_listener(host: Host, port: int) -> None:
    wait_until(lambda: f":{port} " in host.execute("ss", "-tlnH"), what=f"port {port} listens")


# --- What the clients do --------------------------------------------------------------------


def connect(receive_buffer: int = 0) -> Client:
    """Return a new connection to the proxy."""
    sock = socket.socket()
    sock.settimeout(STALL_S)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect((PROXY, PORT))
    return Client(sock)


def timed(action: Callable[[], object]) -> float:
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


def keepalive(kind: str, total: int, times: int) -> list[float]:
    """Fetch again and again on one connection."""
    client = connect()
    path = f"/static/{total}" if kind == "static" else f"/{kind}/{total}"
    return [timed(lambda: client.get(path, total)) for _ in range(times)]


def http_1_0(kind: str, total: int, times: int) -> list[float]:
    """Fetch with HTTP/1.0, a connection for each; some answers end with their connection."""
    path = f"/static/{total}" if kind == "static" else f"/{kind}/{total}"
    return [timed(lambda: connect().get(path, total, version="1.0")) for _ in range(times)]


def upload(total: int, times: int) -> list[float]:
    """Upload again and again on one connection, the length said first."""
    client = connect()

    def one() -> None:
        client.request("POST", "/upload", f"Content-Length: {total}")
        for data in pieces(total, (64 * KIB,)):
            client.sock.sendall(data)
        client.confirm_upload(total)

    return [timed(one) for _ in range(times)]


def chunked_upload(total: int, times: int) -> list[float]:
    """Upload in chunks, some of one byte."""
    client = connect()

    def one() -> None:
        client.request("POST", "/upload", "Transfer-Encoding: chunked")
        for data in pieces(total):
            client.sock.sendall(b"%x\r\n%b\r\n" % (len(data), data))
        client.sock.sendall(b"0\r\n\r\n")
        client.confirm_upload(total)

    return [timed(one) for _ in range(times)]


def slow_reader(kind: str, total: int, times: int) -> list[float]:
    """Fetch with a small receive buffer and pauses."""
    client = connect(64 * KIB)
    next_pause = itertools.count(128 * KIB, max(128 * KIB, total // 100))
    pause_at = next(next_pause)

    def between(got: int) -> None:
        nonlocal pause_at
        if got < pause_at:
            return
        time.sleep(0.005)
        while got >= pause_at:
            pause_at = next(next_pause)

    def one() -> None:
        nonlocal next_pause, pause_at
        next_pause = itertools.count(128 * KIB, max(128 * KIB, total // 100))
        pause_at = next(next_pause)
        client.request("GET", f"/static/{total}" if kind == "static" else f"/{kind}/{total}")
        got = client.body(client.head(), between=between)
        assert got == total, f"{got} of {total} bytes, the rest is missing"

    return [timed(one) for _ in range(times)]


def slow_sender(total: int, times: int) -> list[float]:
    """Upload with pauses."""
    client = connect()

    def one() -> None:
        client.request("POST", "/upload", f"Content-Length: {total}")
        for data in pieces(total, (total // 50 + 1,)):
            client.sock.sendall(data)
            time.sleep(0.005)
        client.confirm_upload(total)

    return [timed(one) for _ in range(times)]


def aborted(total: int, times: int) -> list[float]:
    """Go away in the middle, with FIN and with RST; whoever comes next is served whole."""

    def one(turn: int) -> None:
        client = connect()
        if turn % 2:
            client.request("GET", f"/bytes/{total}")
            client.sock.recv(KIB)
        else:
            client.request("POST", "/upload", f"Content-Length: {total}")
            client.sock.sendall(next(pieces(total, (total // 3,))))
        if turn % 4 > 1:
            reset = struct.pack("ii", 1, 0)
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        client.sock.close()
        connect().get(f"/bytes/{300 * KIB + 7}", 300 * KIB + 7)

    return [timed(lambda turn=turn: one(turn)) for turn in range(times)]  # type: ignore[misc]


def websocket(total: int, times: int) -> list[float]:
    """Have messages of several sizes echoed, one after the other and many at a time."""
    client = connect()
    client.upgrade()

    def one() -> None:
        for batch in (1, 8):
            messages = list(pieces(total, (1, 125, 126, 5000, 70_000)))
            for start in range(0, len(messages), batch):
                now = messages[start : start + batch]
                client.sock.sendall(b"".join(frame(data, os.urandom(4)) for data in now))
                for data in now:
                    assert client.receive_frame() == data, "another message came back"

    return [timed(one) for _ in range(times)]


def parallel(total: int, times: int) -> list[float]:
    """Fetch and upload on eight connections at the same time."""
    seconds: list[float] = []
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            seconds.extend((upload if number % 2 else get)(total, times))
        except BaseException as error:
            errors.append(error)

    def get(size: int, count: int) -> list[float]:
        return keepalive("bytes", size, count)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return seconds


@dataclass(frozen=True)
class Case:
    """Requests of one kind: each is checked and timed."""

    name: str
    total: int
    function: Callable[..., list[float]]
    arguments: tuple[object, ...]


Attempt = tuple[list[float], str | None]  # seconds of each request, and what went wrong


def times(total: int) -> int:
    """Return how often to repeat a request of this size."""
    return 2 if total > 10 * MIB else 6 if total > MIB else 20


def cases(*, quick: bool = False) -> list[Case]:
    """Return all cases, or the small ones."""
    made: list[tuple[str, int, Callable[..., list[float]], tuple[object, ...]]] = []
    for total in SIZES:
        count = times(total)
        for kind in ("static", "bytes", "chunked"):
            made.append((f"GET {kind}", total, keepalive, (kind, total, count)))
        made.append(("GET HTTP/1.0 static", total, http_1_0, ("static", total, count)))
        made.append(("GET HTTP/1.0 until close", total, http_1_0, ("close", total, count)))
        made.append(("POST", total, upload, (total, count)))
        made.append(("POST chunked", total, chunked_upload, (total, count)))
    for total in SIZES[2:4]:
        made.append(("GET by a slow client", total, slow_reader, ("static", total, 2)))
        made.append(("POST by a slow client", total, slow_sender, (total, 2)))
        made.append(("aborted", total, aborted, (total, 8)))
        made.append(("parallel", total, parallel, (total, 3)))
    made.append(("WebSocket", MIB, websocket, (MIB, 2)))
    return [
        Case(f"{name} {size(total)}", total, function, arguments)
        for name, total, function, arguments in made
        if not quick or total <= QUICK_LIMIT
    ]


def size(total: int) -> str:
    return f"{total // MIB} MB" if total >= MIB else f"{total // KIB} KB"


def attempt(case: Case) -> Attempt:
    """Run a case; return the seconds of each request and what went wrong."""
    try:
        return case.function(*case.arguments), None
    except TimeoutError:
        return [], f"stalled: nothing moved for {STALL_S} s"
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        return [], f"{type(error).__name__}: {error} (in {line.name})"


# --- The comparison -------------------------------------------------------------------------


class Scene:
    """Client, proxy and origin, each in a namespace of its own on one bridge."""

    def __init__(
        self, stage: Arena, proxy: Proxy, directory: Path, totals: Collection[int]
    ) -> None:
        self.proxy = copy.copy(proxy)
        _, (self._client, middle, origin) = stage.lab.bridge(3)
        files = directory / "files"
        files.mkdir(parents=True)
        for total in totals:
            with (files / str(total)).open("wb") as file:
                file.writelines(pieces(total, (MIB // 2,)))
        stage.start()
        origin.spawn(serve, origin.listen(ORIGIN, PORT))
        static = NGINX_STATIC.format(port=STATIC_PORT, root=files)
        start_nginx(stage, origin, directory, "static", static)
        await_listener(origin, STATIC_PORT)
        self.proxy.start(stage, middle, directory)
        await_listener(middle, PORT)

    def attempt(self, case: Case) -> Attempt:
        """Run a case in the client's namespace."""
        # Every request may take its time, but none may hang for ever.
        limit = 60 + STALL_S * 8
        outcome: Attempt = self._client.spawn(attempt, case).result(limit)
        return outcome


def p99(seconds: Sequence[float]) -> float:
    ordered = sorted(seconds)
    return ordered[math.ceil(0.99 * len(ordered)) - 1]


def judge(policy: str, *, quick: bool = False, proxies: Sequence[Proxy] = PROXIES) -> list[Row]:
    """Run all cases through each proxy, on plain TCP and accelerated."""
    return [judge_one(proxy, policy, cases(quick=quick)) for proxy in proxies]


def judge_one(proxy: Proxy, policy: str, chosen: list[Case]) -> Row:
    """Return the row of one proxy."""
    with (
        TemporaryDirectory(prefix="sockaccel-programs-") as name,
        arena(PLAIN) as plain_stage,
        arena(policy) as stage,
    ):
        Path(name).chmod(0o755)
        totals = {case.total for case in chosen}
        plain = Scene(plain_stage, proxy, Path(name, "plain"), totals)
        scene = Scene(stage, proxy, Path(name, "accelerated"), totals)
        begin, before = time.monotonic(), stage.traffic()
        row = Row("proxies", proxy.name, policy, 0)
        passed = []
        for case in chosen:
            expected, wrong = plain.attempt(case)
            if wrong:
                raise RuntimeError(f"{proxy.name}, {case.name} on plain TCP: {wrong}")
            passed.append(case.name)
            if wrong := _difference(case, expected, plain, scene):
                failure = Failure(case.name, wrong)
                row.failures.append(explain(proxy.name, policy, failure, KNOWN))
            if len(row.failures) == MAX_FAILURES:
                row.notes.append(f"{len(chosen) - len(passed)} cases not run after that")
                break
        row.passed = len(passed)
        row.traffic, row.seconds = stage.traffic() - before, time.monotonic() - begin
        if said := scene.proxy.note():
            row.notes.append(f"{plain.proxy.note()} on plain TCP, {said} with --policy {policy}")
        row.notes += no_longer_failing(proxy.name, policy, passed, row.failures, KNOWN)
        return row


def _difference(case: Case, expected: list[float], plain: Scene, scene: Scene) -> str | None:
    """Return what is wrong with a case accelerated.

    One that is only slow is repeated on both sides: the machine may have been busy.
    """
    for again in range(RERUNS + 1):
        seconds, wrong = scene.attempt(case)
        if wrong:
            return wrong
        limit = max(FACTOR * p99(expected), FLOOR_S)
        if max(seconds) <= limit:
            return None
        if again < RERUNS:
            expected = expected + plain.attempt(case)[0]
    return f"slow: {max(seconds):.2f} s, {p99(expected):.2f} s on plain TCP"
