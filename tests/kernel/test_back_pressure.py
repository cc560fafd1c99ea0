"""Back-pressure: a reader that does not read stops its writer, as with TCP."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from random import Random

import pytest

from .harness import IPV4_B, Host, Lab, Stream, patience, wait_until
from .memory import MIB, Filled, slab_memory, tcp_memory, tcp_memory_at_rest

WRITES = [16, 64, 1024, 16_384, 131_072, MIB]
QUIET_S = 0.2  # a writer is stopped when it got nothing accepted for so long


def connect(lab: Lab, hosts: tuple[Host, Host], buffer: int) -> tuple[socket.socket, socket.socket]:
    def sized(name: int) -> list[tuple[int, int, int]]:
        return [(socket.SOL_SOCKET, name, buffer)] if buffer else []

    one, two = hosts
    listener = two.listen(IPV4_B, options=sized(socket.SO_RCVBUF))
    return lab.connect(one, listener, options=sized(socket.SO_SNDBUF))


def write_all_that_fits(sock: socket.socket, stream: Stream, offset: int, size: int) -> int:
    """Write without blocking until nothing goes in any more; return the new offset."""
    with patience(sock, 0):
        last = time.monotonic()
        while time.monotonic() - last < QUIET_S:
            try:
                offset += sock.send(stream.at(offset, size))
                last = time.monotonic()
            except BlockingIOError:  # and nothing else: ENOMEM is a failure
                time.sleep(0.002)
            assert offset < 512 * MIB, "no limit"
    return offset


def read_all(sock: socket.socket, stream: Stream, offset: int, goal: int) -> None:
    while offset < goal:
        data = sock.recv(min(MIB, goal - offset))
        assert data, "the stream ended early"
        stream.check(offset, data)
        offset += len(data)


def fits(size: int, buffer: int) -> bool:
    """Return whether a message may be redirected at all to a reader with this buffer."""
    return size <= (buffer or 65_536)


def fill_and_drain(
    lab: Lab, ends: tuple[socket.socket, socket.socket], size: int, start: int = 0
) -> Filled:
    """Fill a connection, measure what it holds, and read all of it back in order."""
    writer, reader = ends
    stream = Stream(11)
    tcp, slab = tcp_memory_at_rest(), slab_memory()
    end = write_all_that_fits(writer, stream, start, size)
    filled = Filled(end - start, tcp_memory() - tcp, slab_memory() - slab)
    readiness = select.poll()
    readiness.register(writer, select.POLLOUT)
    assert not readiness.poll(0), "POLLOUT although nothing can be written"
    read_all(reader, stream, start, end)
    assert readiness.poll(2000), "no POLLOUT after everything was read"
    # And on it goes.
    more = writer.send(stream.at(end, min(size, 1000)))
    read_all(reader, stream, end, end + more)
    return filled


@pytest.mark.parametrize("buffer", [0, 4096], ids=["usual buffers", "small buffers"])
@pytest.mark.parametrize("size", WRITES)
def test_a_writer_is_stopped_as_early_as_by_tcp(
    accelerated_lab: Lab, size: int, buffer: int
) -> None:
    lab = accelerated_lab
    hosts = lab.pair()
    plain = fill_and_drain(lab, connect(lab, hosts, buffer), size)
    assert plain.accepted > 0
    lab.enable()
    ends = connect(lab, hosts, buffer)
    filled = fill_and_drain(lab, ends, size)
    again = fill_and_drain(lab, connect(lab, hosts, buffer), size)
    if fits(size, buffer):
        lab.expect_redirected(ends[0])
    for mine in (filled, again):
        seen = f"plain {plain}, accelerated {mine}"
        assert mine.within(plain), seen


def fill_many(lab: Lab, hosts: tuple[Host, Host], buffer: int, size: int) -> Filled:
    """Fill many connections at once, and leave them open and unread."""
    ends = [connect(lab, hosts, buffer) for _ in range(200 if buffer else 20)]
    stream = Stream(11)
    tcp, slab = tcp_memory_at_rest(), slab_memory()
    for writer, _ in ends:
        writer.settimeout(0)
    accepted, last = 0, time.monotonic()
    while time.monotonic() - last < QUIET_S:
        for writer, _ in ends:
            with contextlib.suppress(BlockingIOError):
                for _ in range(1000):
                    accepted += writer.send(stream.at(0, size))
                    last = time.monotonic()
        time.sleep(0.002)
        assert accepted < 1024 * MIB, "no limit"
    return Filled(accepted, tcp_memory() - tcp, slab_memory() - slab)


@pytest.mark.parametrize("buffer", [0, 4096], ids=["usual buffers", "small buffers"])
@pytest.mark.parametrize("size", [64, 16_384])
def test_many_sleeping_readers_hold_no_more_memory_than_with_tcp(
    accelerated_lab: Lab, size: int, buffer: int
) -> None:
    lab = accelerated_lab
    hosts = lab.pair()
    plain = fill_many(lab, hosts, buffer, size)
    lab.close_sockets()
    lab.enable()
    mine = fill_many(lab, hosts, buffer, size)
    seen = f"plain {plain}, accelerated {mine}"
    assert mine.within(plain), seen
    if fits(size, buffer):
        assert lab.counters()["redirected_bytes"] > 0


@pytest.mark.parametrize("buffer", [0, 4096], ids=["usual buffers", "small buffers"])
@pytest.mark.parametrize("size", [64, 16_384])
def test_unread_connections_are_gone_once_both_ends_have_closed(
    lab: Lab, size: int, buffer: int
) -> None:
    """Also with a writer whose last bytes the reader's window never let out.

    TCP resets such connections at once. A socket in a sockmap is closed in the orderly way even
    with unread bytes (hazard 12), so there the kernel keeps closing ones until their timers end.
    """
    hosts = lab.pair()
    lab.start()
    fill_many(lab, hosts, buffer, size)
    lab.close_sockets()

    def sockets() -> list[str]:
        states = [
            line.split()[0] for host in hosts for line in host.execute("ss", "-tanH").splitlines()
        ]
        closing = {"FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "LAST-ACK", "TIME-WAIT"}
        return [state for state in states if not (lab.accelerated and state in closing)]

    wait_until(lambda: not sockets(), 5, "no open socket in both namespaces")


@pytest.mark.parametrize("buffer", [0, 4096], ids=["usual buffers", "small buffers"])
@pytest.mark.parametrize("size", [64, 16_384, MIB])
def test_a_blocking_writer_blocks_until_its_reader_reads(lab: Lab, size: int, buffer: int) -> None:
    hosts = lab.pair()
    lab.start()
    client, server = connect(lab, hosts, buffer)
    total = 24 * MIB if size > 1000 else 12 * MIB
    if buffer:
        total //= 12
    stream, sent = Stream(11), [0]
    client.setblocking(True)

    def write() -> None:
        while sent[0] < total:
            sent[0] += client.send(stream.at(sent[0], min(size, total - sent[0])))

    # A thread: what it has sent so far is to be seen while it is blocked.
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    before = -1
    while before != sent[0]:
        before = sent[0]
        time.sleep(QUIET_S)
    assert writer.is_alive(), f"all of {total} bytes were accepted"
    assert sent[0] < total
    read_all(server, stream, 0, total)
    writer.join(5)
    assert not writer.is_alive()
    assert sent[0] == total
    if fits(size, buffer):
        lab.expect_redirected(client)


def test_a_slow_reader_gets_everything_in_order(lab: Lab) -> None:
    hosts = lab.pair()
    lab.start()
    client, server = connect(lab, hosts, 65_536)
    stream, size = Stream(11), 3000
    written = read = 0
    for _ in range(40):
        written = write_some(client, stream, written, size)
        step = min(20_000, written - read)
        read_all(server, stream, read, read + step)
        read += step
    read_all(server, stream, read, written)
    lab.expect_redirected(client)


@pytest.mark.parametrize(
    ("nodelay", "size", "redirected"),
    [(0, 16, 1), (0, 1000, 40), (1, 16, 40)],
    ids=["which TCP joins", "of some size", "which TCP does not join"],
)
def test_unread_tiny_writes_take_the_way_that_is_faster(
    accelerated_lab: Lab, nodelay: int, size: int, redirected: int
) -> None:
    lab = accelerated_lab
    hosts = lab.pair()
    lab.start()
    client, server = connect(lab, hosts, 0)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay)
    stream, count = Stream(11), 40
    for number in range(count):
        client.send(stream.at(number * size, size))
    read_all(server, stream, 0, count * size)
    connection = lab.connection(client)
    assert connection
    assert connection["own"]["redirected_messages"] == redirected
    # Nothing is unread any more.
    client.send(stream.at(count * size, size))
    assert lab.sent(client)[0] == (redirected + 1) * size
    read_all(server, stream, count * size, (count + 1) * size)


def write_some(sock: socket.socket, stream: Stream, offset: int, size: int) -> int:
    with patience(sock, 0):
        try:
            for _ in range(50):
                offset += sock.send(stream.at(offset, size))
        except BlockingIOError:
            time.sleep(0.005)
    return offset


def write_at_random(ends: list[tuple[socket.socket, socket.socket]], chance: Random) -> list[int]:
    """Write to every connection, in sizes that differ, also when it is full; return how much."""
    sent = []
    for writer, _ in ends:
        total = 0
        for _ in range(chance.choice((3, 20, 200))):
            try:
                total += writer.send(bytes(chance.choice((1000, 3000, 9000))))
            except BlockingIOError:
                time.sleep(0.001)
        sent.append(total)
    return sent


def test_writers_go_on_at_once_when_their_readers_wake_up(lab: Lab) -> None:
    """Bytes that TCP had to drop at a full buffer wait for a timer that doubles all the while."""
    hosts = lab.pair()
    lab.start()
    ends = [connect(lab, hosts, 8192) for _ in range(40)]
    for sock in (sock for end in ends for sock in end):
        sock.settimeout(0)
    chance = Random(2)
    for _ in range(3):
        sent = write_at_random(ends, chance)
        asleep_until = time.monotonic() + 5
        while time.monotonic() < asleep_until:
            time.sleep(0.05)
            for number, (writer, _) in enumerate(ends):
                with contextlib.suppress(BlockingIOError):
                    sent[number] += writer.send(bytes(4000))
        awake, received, waiting = time.monotonic(), [0] * len(ends), set(range(len(ends)))
        while waiting:
            for number in list(waiting):
                with contextlib.suppress(BlockingIOError):
                    received[number] += len(ends[number][1].recv(65_536))
                if received[number] == sent[number]:
                    waiting.remove(number)
            assert time.monotonic() - awake < 2, f"{len(waiting)} writers stand still"
            time.sleep(0.001)
    lab.expect_redirected(*(writer for writer, _ in ends))
