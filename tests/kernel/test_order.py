"""Order: the reader sees bytes as they were written, whatever mix of paths they took."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
import threading
import time
import zlib
from random import Random

import pytest

from .harness import IPV4_B, Lab, Stream, patience, receive

MESSAGES = 23
SO_SNDBUFFORCE = 32
TCPI_OPTIONS, TCPI_OPT_SYN_DATA = 5, 32
DEFER_ACCEPT = (socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)


def connect_with_tcp_first(lab: Lab, first: bytes) -> tuple[socket.socket, socket.socket]:
    """Return client and server; ``first`` was written by the client and went by TCP."""
    one, two = lab.pair()
    lab.start()
    client, server = lab.connect(one, two.listen(IPV4_B))
    with lab.paused():
        client.sendall(first)
    return client, server


@pytest.mark.parametrize("pause", [0, 0.05])
@pytest.mark.parametrize("read_first", [0, 2, 4], ids=["unread", "half read", "read"])
def test_bytes_that_went_by_tcp_are_not_overtaken(lab: Lab, read_first: int, pause: float) -> None:
    client, server = connect_with_tcp_first(lab, b"AAAA")
    assert receive(server, read_first) == b"AAAA"[:read_first]
    time.sleep(pause)
    client.sendall(b"BBBB")
    time.sleep(pause)
    client.sendall(b"CCCC")
    assert receive(server, 12 - read_first) == b"AAAABBBBCCCC"[read_first:]
    for number in range(MESSAGES):
        client.sendall(b"%04d" % number)
        assert receive(server, 4) == b"%04d" % number
    lab.expect_redirected(client)
    if lab.accelerated:
        redirected, tcp = lab.sent(client)
        assert tcp >= 4, "the first bytes cannot have been redirected"
        assert redirected >= MESSAGES * 4
        assert redirected + tcp == 12 + MESSAGES * 4


def test_writes_before_a_deferred_accept_keep_their_order(lab: Lab) -> None:
    one, two = lab.pair()
    listener = two.listen(IPV4_B, options=[DEFER_ACCEPT])
    lab.start()
    for number in range(MESSAGES):
        client = one.socket()
        client.connect(listener.getsockname())
        for word in (b"AAAA", b"BBBB", b"CCCC"):
            client.sendall(word + b"%d" % (number % 10))
        server = lab.accept(listener)
        suffix = b"%d" % (number % 10)
        waiting = struct.unpack("i", fcntl.ioctl(server, termios.FIONREAD, bytes(4)))[0]
        assert waiting == 15, "before the first recv()"
        assert receive(server, 15) == suffix.join([b"AAAA", b"BBBB", b"CCCC", b""])
    if lab.accelerated:
        counters = lab.counters()
        assert counters["fallbacks"] == {"deferred-accept": MESSAGES}
        assert counters["connections_paired"] == 0


@pytest.mark.parametrize("data_in_syn", [False, True], ids=["without a cookie", "data in the SYN"])
def test_fast_open_keeps_the_order(lab: Lab, data_in_syn: bool) -> None:
    one, two = lab.pair()
    # 1: clients, 2: servers; 4 and 0x200: without a cookie of the server.
    for host in (one, two):
        host.sysctl("net.ipv4.tcp_fastopen", 0x207 if data_in_syn else 3)
    listener = two.listen(IPV4_B, options=[(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)])
    lab.start()
    client = one.socket()
    with patience(client, None):  # connects, so it must be allowed to block
        assert client.sendto(b"AAAA", socket.MSG_FASTOPEN, listener.getsockname()) == 4
    client.sendall(b"BBBB")
    server = lab.accept(listener)
    client.sendall(b"CCCC")
    assert receive(server, 12) == b"AAAABBBBCCCC"
    for number in range(MESSAGES):
        for sender, receiver in ((client, server), (server, client)):
            sender.sendall(b"%04d" % number)
            assert receive(receiver, 4) == b"%04d" % number
    options = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[TCPI_OPTIONS]
    assert bool(options & TCPI_OPT_SYN_DATA) == data_in_syn
    if lab.accelerated:
        # Either the SYN had data, or the packet that ended the handshake.
        reason = "peer-out-of-scope" if data_in_syn else "deferred-accept"
        assert lab.counters()["fallbacks"] == {reason: 1}


def test_a_lost_ack_and_first_segment_do_not_let_the_second_overtake(lab: Lab) -> None:
    one, two = lab.pair()
    listener = two.listen(IPV4_B)
    port = listener.getsockname()[1]
    match = f"tcp dport {port} tcp flags & (syn | ack) == ack"
    two.nft("filter", "input", f"{match} numgen inc mod 1000000 < 2 counter drop")
    lab.start()
    client = one.socket()
    client.connect(listener.getsockname())
    client.sendall(b"FIRST-")  # goes by TCP: the other end does not exist yet
    assert not select.select([listener], [], [], 0.05)[0], "nothing was lost: nothing is tested"
    server = lab.accept(listener)  # the retransmission brings it about
    client.sendall(b"SECOND-")
    client.sendall(b"THIRD")
    assert receive(server, 18) == b"FIRST-SECOND-THIRD"
    assert "packets 2 " in two.execute("nft", "list", "table", "ip", "lab")
    for number in range(MESSAGES):
        client.sendall(b"%04d" % number)
        assert receive(server, 4) == b"%04d" % number
    if lab.accelerated:
        assert lab.counters()["fallbacks"]["deferred-accept"] == 1, "it came with data, too"


# --- Several threads on one socket ----------------------------------------------------------

HEADER = struct.Struct("!BII")  # thread, number, length; then the payload and its CRC


def write_records(sock: socket.socket, threads: int, count: int, sizes: tuple[int, int]) -> None:
    sock.setblocking(True)

    def write(thread: int) -> None:
        random = Random(thread)
        for number in range(count):
            payload = random.randbytes(random.randint(*sizes))
            body = HEADER.pack(thread, number, len(payload)) + payload
            sock.sendall(body + struct.pack("!I", zlib.crc32(body)))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    sock.shutdown(socket.SHUT_WR)


def read_records(sock: socket.socket, threads: int, dawdle: bool) -> list[int]:
    seen = [0] * threads
    while header := receive(sock, HEADER.size):
        thread, number, length = HEADER.unpack(header)
        assert thread < threads, f"no header where one should be: {header!r}"
        rest = receive(sock, length + 4)
        assert struct.pack("!I", zlib.crc32(header + rest[:-4])) == rest[-4:], (thread, number)
        assert number == seen[thread], f"record {number} of thread {thread} is out of turn"
        seen[thread] += 1
        if dawdle and sum(seen) % 97 == 0:
            time.sleep(0.003)
    return seen


@pytest.mark.parametrize("dawdle", [False, True], ids=["eager reader", "dawdling reader"])
@pytest.mark.parametrize(
    ("count", "sizes"),
    [(3000, (0, 300)), (1500, (1, 4000)), (60, (40_000, 60_000))],
    ids=["tiny", "small", "large"],
)
def test_records_of_several_threads_stay_whole_and_in_turn(
    lab: Lab, count: int, sizes: tuple[int, int], dawdle: bool
) -> None:
    threads = 4
    # A send buffer for all of it: a write that has to wait gives way to others on TCP too.
    room = (socket.SOL_SOCKET, SO_SNDBUFFORCE, 32 << 20)
    one, two = lab.pair()
    lab.start()
    client, server = lab.connect(one, two.listen(IPV4_B), options=[room])
    writer = lab.spawn(write_records, client, threads, count, sizes)
    reader = lab.spawn(read_records, server, threads, dawdle)
    assert reader.result() == [count] * threads
    writer.result()
    lab.expect_redirected(client)


# --- Readers that sleep, and edge-triggered ones (hazard 2b) --------------------------------


def write_with_pauses(sock: socket.socket, start: int, total: int, sizes: list[int]) -> None:
    stream, random, sent = Stream(3), Random(4), start
    while sent < total:
        data = stream.at(sent, min(random.choice(sizes), total - sent))
        sock.sendall(data)
        sent += len(data)
        if random.random() < 0.1:
            time.sleep(0.002)


def read_on_edges(sock: socket.socket, total: int, chunk: int, dawdle: bool) -> int:
    """Read as edge-triggered programs do: a short read means that nothing is left."""
    stream, random, got = Stream(3), Random(5), 0
    sock.setblocking(False)
    with select.epoll() as epoll:
        epoll.register(sock, select.EPOLLIN | select.EPOLLET | select.EPOLLRDHUP)
        while got < total:
            assert epoll.poll(5), f"no edge in 5 s, {got} of {total} bytes read"
            if dawdle and random.random() < 0.2:
                time.sleep(0.003)
            while True:
                try:
                    data = sock.recv(chunk)
                except BlockingIOError:
                    break
                stream.check(got, data)
                got += len(data)
                if len(data) < chunk:
                    break
    return got


@pytest.mark.parametrize("dawdle", [False, True], ids=["eager", "dawdling"])
@pytest.mark.parametrize(
    "sizes", [[64], [300, 16_384], [1, 64, 1500, 65_536, 400_000]], ids=["tiny", "pages", "mixed"]
)
@pytest.mark.parametrize("chunk", [4096, 131_072])
def test_an_edge_triggered_reader_never_stalls(
    lab: Lab, chunk: int, sizes: list[int], dawdle: bool
) -> None:
    total = 300_000 if sizes == [64] else 20_000_000
    first = Stream(3).at(0, 1000)
    client, server = connect_with_tcp_first(lab, first)
    reader = lab.spawn(read_on_edges, server, total, chunk, dawdle)
    writer = lab.spawn(write_with_pauses, client, len(first), total, sizes)
    assert reader.result() == total
    writer.result()
    lab.expect_redirected(client)
    if lab.accelerated:
        redirected, tcp = lab.sent(client)
        assert tcp >= len(first), "not a mixed stream"
        assert redirected + tcp == total


def test_short_requests_and_long_bodies_reach_an_edge_triggered_reader(lab: Lab) -> None:
    one, two = lab.pair()
    lab.start()
    client, server = lab.connect(one, two.listen(IPV4_B))
    body = 3_000_000
    for _ in range(MESSAGES):
        reader = lab.spawn(read_on_edges, server, 200 + body, 65_536, False)
        client.sendall(Stream(3).at(0, 200))
        writer = lab.spawn(write_with_pauses, client, 200, 200 + body, [32_768])
        assert reader.result() == 200 + body
        writer.result()
    lab.expect_redirected(client)


def read_by_fits(sock: socket.socket, seed: int, total: int) -> int:
    random, got = Random(6), 0
    stream = Stream(seed)
    while got < total:
        data = sock.recv(random.choice([1, 10, 1000, 65_536, 500_000]))
        assert data, "the stream ended early"
        stream.check(got, data)
        got += len(data)
        if random.random() < 0.02:
            time.sleep(0.02)
    return got


@pytest.mark.parametrize("sizes", [[100], [1460], [65_536], [10, 200_000, 3000]])
def test_order_survives_the_changes_between_both_paths(lab: Lab, sizes: list[int]) -> None:
    total = 1_000_000 if sizes == [100] else 10_000_000
    first = Stream(3).at(0, 1000)
    client, server = connect_with_tcp_first(lab, first)
    writer = lab.spawn(write_with_pauses, client, len(first), total, sizes)
    assert lab.spawn(read_by_fits, server, 3, total).result() == total
    writer.result()
    lab.expect_redirected(client)
    if lab.accelerated:
        redirected, tcp = lab.sent(client)
        assert tcp >= len(first), "not a mixed stream"
        assert redirected + tcp == total
