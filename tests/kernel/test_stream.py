"""Ordinary use of a connection: every byte arrives once, in order, and is counted."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from .harness import (
    IPV4_B,
    IPV6_B,
    Host,
    Lab,
    bytes_acked,
    patience,
    receive,
    receive_stream,
    run,
    send_stream,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path

MESSAGES = 23
MIB = 1 << 20
RESET = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def family_of(case: str, lab: Lab) -> tuple[Host, Host, str, tuple[str, ...]]:
    """Return client, server, the address to listen on and the address to connect to."""
    if case.startswith("loopback"):
        host = lab.host()
        address = "::1" if case.endswith("IPv6") else "127.0.0.1"
        return host, host, address, (address,)
    client, server = lab.pair()
    listen, connect = {
        "IPv4": (IPV4_B, IPV4_B),
        "IPv6": (IPV6_B, IPV6_B),
        "IPv4 to a dual-stack listener": ("::", IPV4_B),
        "IPv6 to a dual-stack listener": ("::", IPV6_B),
        "v4-mapped to IPv4": ("0.0.0.0", f"::ffff:{IPV4_B}"),
    }[case]
    return client, server, listen, (connect,)


@pytest.mark.parametrize(
    "case",
    [
        "IPv4",
        "IPv6",
        "IPv4 to a dual-stack listener",
        "IPv6 to a dual-stack listener",
        "v4-mapped to IPv4",
        "loopback IPv4",
        "loopback IPv6",
    ],
)
def test_messages_arrive_in_both_directions(lab: Lab, case: str) -> None:
    client_host, server_host, address, (target,) = family_of(case, lab)
    listener = server_host.listen(address)
    lab.start()
    client, server = lab.connect(client_host, listener, (target, listener.getsockname()[1]))
    before = client_host.interface_bytes() + server_host.interface_bytes()
    for number in range(MESSAGES):
        question, answer = b"question %d" % number, b"the answer %d" % number
        client.sendall(question)
        assert receive(server, len(question)) == question
        server.sendall(answer)
        assert receive(client, len(answer)) == answer
    moved = client_host.interface_bytes() + server_host.interface_bytes() - before
    asked = sum(len(b"question %d" % number) for number in range(MESSAGES))
    answered = sum(len(b"the answer %d" % number) for number in range(MESSAGES))
    if not lab.accelerated:
        assert moved > asked + answered
        return
    # No packet but what keeps a connection alive: neither veth nor loopback saw the bytes.
    assert moved < 500
    assert lab.sent(client) == (asked, 0)
    assert lab.sent(server) == (answered, 0)
    connection = lab.connection(client)
    assert connection
    assert connection["state"] == "redirect"
    assert connection["client"]["redirected_messages"] == MESSAGES
    assert connection["server"]["redirected_messages"] == MESSAGES
    port = client.getsockname()[1]
    assert connection["client"]["local"].endswith(f":{port}")
    assert connection["server"]["remote"].endswith(f":{port}")
    assert connection["client"]["pid"] == connection["server"]["pid"] == os.getpid()


def test_cookies_are_those_that_ss_prints(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    lab.start()
    client, server = lab.connect(one, two.listen(IPV4_B))
    connection = lab.connection(client)
    assert connection
    for host, sock, role in ((one, client, "client"), (two, server, "server")):
        own = f":{sock.getsockname()[1]}"
        lines = [line for line in host.execute("ss", "-tneH").splitlines() if own in line]
        assert len(lines) == 1
        assert f"sk:{connection[role]['cookie']} " in lines[0] + " "


@pytest.mark.parametrize("blocking", [False, True], ids=["non-blocking", "blocking"])
@pytest.mark.parametrize(
    ("total", "sizes"),
    [
        (64 * MIB, [128 * 1024]),
        (64 * MIB, [MIB]),
        (16 * MIB, [1, 70_000, 333, 1024, 16_384, 5, 300_000]),
        (300_000, [1]),
    ],
    ids=["128 KB writes", "1 MB writes", "mixed writes", "1-byte writes"],
)
def test_transfers_in_both_directions_at_once_are_whole(
    lab: Lab, total: int, sizes: list[int], blocking: bool
) -> None:
    one, two = lab.pair()
    lab.start()
    listener = two.listen(IPV4_B)
    # A pair of connections per direction: a reader that blocks while its own
    # process writes bulk is another matter (hazard 10).
    pairs = [lab.connect(one, listener) for _ in range(2)]
    if blocking:
        for sock in (end for pair in pairs for end in pair):
            sock.setblocking(True)
    (client, server), (other_client, other_server) = pairs
    tasks = [
        lab.spawn(send_stream, client, 1, total, sizes),
        lab.spawn(receive_stream, server, 1, total),
        lab.spawn(send_stream, other_server, 2, total, sizes),
        lab.spawn(receive_stream, other_client, 2, total),
    ]
    assert [task.result() for task in tasks] == [total] * 4
    if lab.accelerated:
        for sender in (client, other_server):
            redirected, tcp = lab.sent(sender)
            assert redirected + tcp == total
            assert redirected > 0


@pytest.mark.parametrize("size", [64, 128 * 1024], ids=["64 B writes", "128 KB writes"])
def test_one_connection_carries_bulk_both_ways_at_once(lab: Lab, size: int) -> None:
    one, two = lab.pair()
    lab.start()
    total = 64 * MIB if size > 1000 else MIB
    client, server = lab.connect(one, two.listen(IPV4_B))
    tasks = [
        lab.spawn(send_stream, client, 1, total, [size]),
        lab.spawn(receive_stream, server, 1, total),
        lab.spawn(send_stream, server, 2, total, [size]),
        lab.spawn(receive_stream, client, 2, total),
    ]
    assert [task.result() for task in tasks] == [total] * 4
    lab.expect_redirected(client, server)
    if lab.accelerated:
        assert [sum(lab.sent(sock)) for sock in (client, server)] == [total, total]


def send_file(sock: socket.socket, path: Path) -> None:
    with path.open("rb") as file:
        sock.sendfile(file)
    sock.shutdown(socket.SHUT_WR)


def receive_digest(sock: socket.socket) -> tuple[int, str]:
    digest, count = hashlib.sha256(), 0
    while data := sock.recv(1 << 16):
        digest.update(data)
        count += len(data)
    return count, digest.hexdigest()


def test_sendfile_delivers_the_file(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "file"
    body = os.urandom(5 * MIB + 1)
    path.write_bytes(body)
    one, two = lab.pair()
    lab.start()
    client, server = lab.connect(one, two.listen(IPV4_B))
    sender = lab.spawn(send_file, client, path)
    assert lab.spawn(receive_digest, server).result() == (
        len(body),
        hashlib.sha256(body).hexdigest(),
    )
    sender.result()
    if lab.accelerated:
        assert sum(lab.sent(client)) == len(body)


@pytest.mark.parametrize("size", [1, 23, 1000, 100_000])
def test_the_last_bytes_arrive_when_the_writer_closes_at_once(lab: Lab, size: int) -> None:
    one, two = lab.pair()
    lab.start()
    listener = two.listen(IPV4_B)
    for _ in range(MESSAGES):
        client, server = lab.connect(one, listener)
        send_stream(client, 5, size, [size])
        client.close()
        assert receive_stream(server, 5, size + 1) == size
        server.close()
    if lab.accelerated:
        counters = lab.counters()
        assert counters["connections_paired"] == MESSAGES
        assert counters["redirected_bytes"] + counters["tcp_bytes"] == MESSAGES * size
        assert counters["redirected_bytes"] > 0


def test_a_half_closed_connection_still_carries_the_other_direction(lab: Lab) -> None:
    one, two = lab.pair()
    lab.start()
    client, server = lab.connect(one, two.listen(IPV4_B))
    client.sendall(b"request")
    client.shutdown(socket.SHUT_WR)
    assert receive(server, 100) == b"request"  # up to the end of the stream
    server.sendall(b"first part, ")
    assert receive(client, 12) == b"first part, "
    server.sendall(b"second part")
    lab.expect_redirected(client, server)
    server.close()
    assert receive(client, 100) == b"second part"


def test_a_reset_reaches_the_peer(lab: Lab) -> None:
    one, two = lab.pair()
    lab.start()
    client, server = lab.connect(one, two.listen(IPV4_B))
    client.sendall(b"read before the reset")
    assert receive(server, 21) == b"read before the reset"
    lab.expect_redirected(client)
    client.setsockopt(*RESET)
    client.close()
    with pytest.raises(ConnectionResetError):
        server.recv(1)


def test_a_write_to_a_closed_peer_fails_as_with_tcp(lab: Lab) -> None:
    one, two = lab.pair()
    lab.start()
    client, server = lab.connect(one, two.listen(IPV4_B))
    client.sendall(b"hello")
    assert receive(server, 5) == b"hello"
    lab.expect_redirected(client)
    server.close()

    def refused() -> int | None:
        try:
            client.send(b"x")
        except OSError as error:
            return error.errno
        return None

    assert wait_until(refused) in (errno.EPIPE, errno.ECONNRESET)


def test_a_peek_leaves_the_bytes(lab: Lab) -> None:
    one, two = lab.pair()
    lab.start()
    client, server = lab.connect(one, two.listen(IPV4_B))
    client.sendall(b"peeked at")
    assert server.recv(100, socket.MSG_PEEK) == b"peeked at"
    assert server.recv(4) == b"peek"
    client.sendall(b" twice")
    assert receive(server, 11) == b"ed at twice"
    lab.expect_redirected(client)


def fill(sock: socket.socket, sizes: list[int], start: int) -> int:
    """Write without blocking until the kernel takes nothing more; return the new offset."""
    body = bytes(range(251)) * 5000
    offset, refusals = start, 0
    with patience(sock, 0):
        while refusals < 20:
            size = sizes[offset % len(sizes)]
            at = offset % 251
            try:
                offset += sock.send(body[at : at + size])
                refusals = 0
            except BlockingIOError:
                refusals += 1
                time.sleep(0.005)
    return offset


@pytest.mark.parametrize("sizes", [[100], [16_384], [MIB], [7, 3000, 65_536, 1, 999_999]])
def test_a_writer_that_resumes_after_eagain_is_counted_exactly(lab: Lab, sizes: list[int]) -> None:
    one, two = lab.pair()
    lab.start()
    client, server = lab.connect(
        one,
        two.listen(IPV4_B, options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)]),
        options=[(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)],
    )
    by_tcp_before = bytes_acked(client)
    pattern = bytes(range(251)) * 5000
    written = read = 0
    for drain in (1000, 50_001, 10, 100_000, 1 << 30, 40_000, 1 << 30):
        written = fill(client, sizes, written)
        goal = min(read + drain, written)
        while read < goal:
            data = server.recv(min(65_536, goal - read))
            assert data == pattern[read % 251 : read % 251 + len(data)]
            read += len(data)
    assert read == written
    by_tcp = wait_until(lambda: bytes_acked(client) - by_tcp_before + 1) - 1
    if not lab.accelerated:
        assert by_tcp == written
        return
    # bytes_acked is TCP's own account and knows nothing of redirected bytes.
    assert lab.sent(client) == (written - by_tcp, by_tcp)
    if min(sizes) < 65_536:  # larger ones have no room in a buffer that the reader chose
        assert written - by_tcp > 0
    counters = lab.counters()
    assert (counters["redirected_bytes"], counters["tcp_bytes"]) == (written - by_tcp, by_tcp)


def test_counters_keep_what_closed_connections_sent(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    lab.start()
    listener = two.listen(IPV4_B)
    for number in range(1, MESSAGES + 1):
        client, server = lab.connect(one, listener)
        client.sendall(bytes(number))
        assert receive(server, number) == bytes(number)
        client.close()
        server.close()
    wait_until(lambda: lab.dump()["entries"] == 0, what="no entry after the last close")
    counters = lab.counters()
    assert counters["connections_paired"] == MESSAGES
    assert counters["redirected_bytes"] == sum(range(1, MESSAGES + 1))
    assert counters["redirected_messages"] == MESSAGES
    assert counters["tcp_bytes"] == 0


def exchange(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    for number, (client, server) in enumerate(pairs):
        client.sendall(b"%023d" % number)
        assert receive(server, 23) == b"%023d" % number
        server.sendall(b"%029d" % number)
        assert receive(client, 29) == b"%029d" % number


def test_two_thousand_connections_at_once_are_all_accelerated(lab: Lab) -> None:
    count = 2000
    one, two = lab.pair()
    lab.start("--max-connections", "4096")
    listener = two.listen(IPV4_B)
    pairs = [lab.connect(one, listener) for _ in range(count)]
    exchange(pairs)
    if not lab.accelerated:
        return
    start = time.monotonic()
    status = lab.status()
    middle = time.monotonic()
    dump = lab.dump()
    end = time.monotonic()
    assert status["counters"]["connections_paired"] == count
    assert status["counters"]["redirected_bytes"] == count * 52
    assert status["counters"]["redirected_messages"] == count * 2
    assert status["counters"]["tcp_bytes"] == 0
    assert status["map"]["entries"] == dump["entries"] == 2 * count
    assert len(dump["connections"]) == count
    assert {c["state"] for c in dump["connections"]} == {"redirect"}
    assert {c["client"]["redirected_bytes"] for c in dump["connections"]} == {23}
    assert {c["server"]["redirected_bytes"] for c in dump["connections"]} == {29}
    # The promise is 0.5 s on a machine with nothing else to do.
    assert middle - start < 2, "status is slow"
    assert end - middle < 2, "dump is slow"


def test_bpftool_shows_the_cookies_in_the_pinned_map(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    lab.start()
    client, _ = lab.connect(one, two.listen(IPV4_B))
    connection = lab.connection(client)
    assert connection
    shown = run("bpftool", "-j", "map", "dump", "pinned", lab.pin_dir / "sock_ops_map")
    values = {
        int.from_bytes(bytes(int(byte, 16) for byte in entry["value"]), "little")
        for entry in json.loads(shown)
    }
    assert values == {int(connection[role]["cookie"], 16) for role in ("client", "server")}
