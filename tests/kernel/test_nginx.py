"""nginx in front of nginx: whole bodies, in time, to fast and to slow clients."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from .harness import Host, Lab, cookie, wait_until

if TYPE_CHECKING:
    from pathlib import Path

PROXY, ORIGIN = "10.77.1.2", "10.77.1.3"
PORT = 8080
KIB = 1 << 10
BODIES = {"300 KB": 300 * KIB + 7, "60 MB": 60 * KIB * KIB + 7}
# What accelerated transfers may take longer than plain ones on a busy machine.
SLACK_S, FACTOR = 3, 3

CONFIGURATION = """
daemon off;
user root;
worker_processes {workers};
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 0;
    sendfile {sendfile};
    upstream origin {{ server {origin}:{port}; keepalive 8; }}
    server {{
        listen {port};
        {location}
    }}
}}
"""


def start_nginx(host: Host, directory: Path, location: str, sendfile: str) -> None:
    directory.mkdir()
    file = directory / "nginx.conf"
    file.write_text(
        CONFIGURATION.format(
            workers=2,
            directory=directory,
            origin=ORIGIN,
            port=PORT,
            location=location,
            sendfile=sendfile,
        )
    )
    host.popen("nginx", "-p", directory, "-e", directory / "error.log", "-c", file)
    wait_until(lambda: f":{PORT} " in host.execute("ss", "-tlnH"), what="nginx listens")


def fetch(sock: socket.socket, path: str, slow: bool) -> tuple[int, str]:
    """Return length and SHA-256 of a body fetched on a connection that stays open."""
    sock.sendall(f"GET /{path} HTTP/1.1\r\nHost: lab\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        part = sock.recv(4096)
        assert part, f"no answer but {head!r}"
        head += part
    head, _, body = head.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK", lines
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    total, digest, got, pause_at = int(fields["content-length"]), hashlib.sha256(body), len(body), 0
    while got < total:
        data = sock.recv(min(32 * KIB, total - got))
        if not data:
            break
        digest.update(data)
        got += len(data)
        if slow and got >= pause_at:
            pause_at = got + max(128 * KIB, total // 200)
            time.sleep(0.005)
    return got, digest.hexdigest()


def fetch_many(socks: list[socket.socket], path: str, times: int, slow: bool) -> set[object]:
    return {fetch(sock, path, slow) for _ in range(times) for sock in socks}


def timed_transfers(
    lab: Lab, client: Host, path: str, slow: bool
) -> tuple[set[object], float, list[socket.socket]]:
    """Fetch on new connections; return the distinct bodies, the seconds and the sockets."""
    small = path.startswith("300")
    socks = []
    for _ in range(4 if small else 1):
        sock = client.socket()
        if slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        sock.connect((PROXY, PORT))
        socks.append(sock)
    start = time.monotonic()
    bodies = lab.spawn(fetch_many, socks, path, 10 if small else 2, slow).result()
    return bodies, time.monotonic() - start, socks


@pytest.mark.parametrize("client_is", ["fast", "slow"])
@pytest.mark.parametrize("size", list(BODIES))
@pytest.mark.parametrize("buffering", ["on", "off"])
@pytest.mark.parametrize("sendfile", ["off", "on"])
def test_bodies_through_nginx_are_whole_and_in_time(
    accelerated_lab: Lab, tmp_path: Path, sendfile: str, buffering: str, size: str, client_is: str
) -> None:
    lab = accelerated_lab
    _, (client, proxy, origin) = lab.bridge(3)
    files = tmp_path / "files"
    files.mkdir()
    body = os.urandom(BODIES[size])
    path = size.replace(" ", "")
    (files / path).write_bytes(body)
    expected = {(len(body), hashlib.sha256(body).hexdigest())}
    start_nginx(origin, tmp_path / "origin", f"root {files};", sendfile)
    forward = (
        "location / { proxy_pass http://origin; proxy_http_version 1.1;"
        f' proxy_set_header Connection ""; proxy_buffering {buffering}; }}'
    )
    start_nginx(proxy, tmp_path / "proxy", forward, sendfile)
    slow = client_is == "slow"
    bodies, plain_s, socks = timed_transfers(lab, client, path, slow)
    assert bodies == expected
    for sock in socks:
        lab.close_one(sock)

    lab.enable()
    bodies, seconds, socks = timed_transfers(lab, client, path, slow)
    assert bodies == expected
    assert seconds <= FACTOR * plain_s + SLACK_S
    ends = lab.ends()
    for sock in socks:
        connection = ends[cookie(sock)]
        assert connection["client"]["redirected_bytes"] > 0, "requests were not redirected"
        assert connection["server"]["redirected_bytes"] > 0, "bodies were not redirected"


def test_uploads_through_nginx_are_whole(accelerated_lab: Lab, tmp_path: Path) -> None:
    lab = accelerated_lab
    _, (client, proxy, origin) = lab.bridge(3)
    listener = origin.listen(ORIGIN, PORT)
    start_nginx(
        proxy,
        tmp_path / "proxy",
        "location / { proxy_pass http://origin; proxy_request_buffering off; }",
        "off",
    )
    lab.enable()
    body = os.urandom(20 * KIB * KIB)
    sock = client.socket()
    sock.connect((PROXY, PORT))
    sender = lab.spawn(upload, sock, body)
    upstream = lab.accept(listener)
    assert lab.spawn(take_upload, upstream).result() == hashlib.sha256(body).hexdigest()
    assert sender.result().startswith(b"HTTP/1.1 200 ")
    lab.expect_redirected(sock)


def upload(sock: socket.socket, body: bytes) -> bytes:
    head = f"POST / HTTP/1.1\r\nHost: lab\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)
    return sock.recv(4096)


def take_upload(sock: socket.socket) -> str:
    """Read a request as an origin would, answer it, and return the digest of its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(4096)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    total, digest, got = int(lengths[0].split(b":")[1]), hashlib.sha256(body), len(body)
    while got < total:
        part = sock.recv(64 * KIB)
        assert part, f"{got} of {total} bytes"
        digest.update(part)
        got += len(part)
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    return digest.hexdigest()
