"""Readiness: poll, select and epoll."""

from __future__ import annotations

import array
import fcntl
import select
import socket
import struct
import termios

from equivalence.stage import LIMIT_S, NEVER_S, Stage, milliseconds, outcome, poll_names
from equivalence.table import BLOCKING, IPV4, NON_BLOCKING, Known, scenario

from .endings import RESET
from .stream import pattern

EVERYTHING = select.POLLIN | select.POLLOUT | select.POLLPRI | select.POLLRDHUP | select.POLLERR
LEVEL, EDGE, ONCE = 0, select.EPOLLET, select.EPOLLONESHOT
MIB = 1 << 20
LOW_WATER = "poll() and recv() of a socket in a sockmap do not know it"


class Epoll:
    """An epoll instance that watches one socket."""

    def __init__(self, s: Stage, sock: socket.socket, events: int) -> None:
        self._poll = select.epoll()
        self._sock = sock
        s.on_end(self._poll.close)
        self._poll.register(sock, events)

    def wait(self, seconds: float = 0.0) -> str:
        return poll_names(self._poll.poll(seconds))

    def modify(self, events: int) -> None:
        self._poll.modify(self._sock, events)


def selected(sock: socket.socket) -> str:
    readable, writable, exceptional = select.select([sock], [sock], [sock], 0)
    return " ".join(
        name
        for name, found in (("read", readable), ("write", writable), ("except", exceptional))
        if found
    )


def watch(s: Stage, sock: socket.socket, wait: int) -> dict[str, str]:
    """Return what each of the three says, once poll() has seen one of these events."""
    s.events(sock, wait, NEVER_S)
    return {
        "poll": s.events(sock, EVERYTHING, 0),
        "select": selected(sock),
        "epoll": Epoll(s, sock, EVERYTHING).wait(),
    }


@scenario("poll, select and epoll agree: idle, data, half-closed, closed")
def levels(s: Stage) -> None:
    client, server = s.pair()
    s.note("idle", watch(s, server, select.POLLOUT))
    s.send(client, b"data")
    s.note("data", watch(s, server, select.POLLIN))
    s.recv(server, 2)
    s.note("half read", watch(s, server, select.POLLIN))
    s.recv(server, 2)
    s.note("read", watch(s, server, select.POLLOUT))
    s.send(client, b"last")
    client.shutdown(socket.SHUT_WR)
    s.note("data and the end", watch(s, server, select.POLLRDHUP))
    s.recv(server, 4)
    s.note("the end", watch(s, server, select.POLLRDHUP))
    s.lab.close_one(server)
    s.note("both ended", watch(s, client, select.POLLRDHUP))


@scenario("poll, select and epoll agree: reset")
def reset(s: Stage) -> None:
    client, server = s.pair()
    client.setsockopt(*RESET)
    s.lab.close_one(client)
    s.note("reset", watch(s, server, select.POLLRDHUP))
    s.note("error", outcome(server.recv, 1))
    s.note("afterwards", watch(s, server, select.POLLRDHUP))


@scenario("A waiting poll() wakes up when data arrives")
def wakes(s: Stage) -> None:
    client, server = s.pair()
    thread = s.thread(s.events, server, select.POLLIN)
    with s.asleep_in_call(thread):
        s.send(client, b"x")
    s.note("events", thread.result())
    s.note("at once", thread.took < 1)


@scenario("Edge-triggered epoll: one event for each arrival", rows="2b 8")
def edges(s: Stage) -> None:
    client, server = s.pair()
    epoll = Epoll(s, server, select.EPOLLIN | select.EPOLLRDHUP | EDGE)
    s.note("nothing yet", epoll.wait())
    for number in range(3):
        s.send(client, b"data")
        s.arrived(server, 4 * (number + 1))
        s.note(f"arrival {number}", epoll.wait(LIMIT_S))
        s.note(f"no second event {number}", epoll.wait(0.02))
    s.recv(server, 100)
    s.note("read", epoll.wait(0.02))
    client.shutdown(socket.SHUT_WR)
    s.note("the end", epoll.wait(LIMIT_S))


@scenario("One-shot epoll: one event until it is armed again")
def one_shot(s: Stage) -> None:
    client, server = s.pair()
    epoll = Epoll(s, server, select.EPOLLIN | ONCE)
    s.send(client, b"data")
    s.note("first", epoll.wait(LIMIT_S))
    s.send(client, b"more")
    s.note("not armed", epoll.wait(0.02))
    epoll.modify(select.EPOLLIN | ONCE)
    s.note("armed, unread", epoll.wait(LIMIT_S))
    s.arrived(server, 8)
    s.recv(server, 100)
    epoll.modify(select.EPOLLIN | ONCE)
    s.note("armed, read", epoll.wait(0.02))


def read_by_edges(s: Stage, sock: socket.socket, total: int, *, trust: str) -> str:
    """Read as servers do: at an edge read on until a sign that nothing is left.

    `trust` names the sign: EAGAIN; a short read (tokio, mio, nginx); FIONREAD (nginx, Java).
    """
    epoll = Epoll(s, sock, select.EPOLLIN | select.EPOLLRDHUP | EDGE)
    got, want = 0, pattern(total)
    while got < total:
        if epoll.wait(LIMIT_S) == "none":
            return f"stalled after {got} bytes"
        while True:
            part = outcome(sock.recv, 65_536, socket.MSG_DONTWAIT)
            if part == "EAGAIN":
                break
            if isinstance(part, str) or want[got : got + len(part)] != part:
                return f"wrong after {got} bytes"
            got += len(part)
            if trust == "short read" and len(part) < 65_536:
                break
            if trust == "FIONREAD" and unread(sock) == 0:
                break
    return "whole"


def unread(sock: socket.socket) -> int:
    """Return what ioctl(FIONREAD) says."""
    room = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, room)
    return room[0]


def unsent(sock: socket.socket) -> int:
    """Return what ioctl(SIOCOUTQ) says."""
    room = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, room)
    return room[0]


def register(trust: str) -> None:
    @scenario(
        f"An edge-triggered reader that trusts {trust} gets every byte of bursts and bodies",
        rows="2b 8" if trust != "FIONREAD" else "8 2b",
        modes=(NON_BLOCKING,),
        name="edge_reader_" + trust.replace(" ", "_").lower(),
    )
    def run(s: Stage) -> None:
        client, server = s.pair()
        total = 4 * MIB
        reader = s.thread(lambda: read_by_edges(s, server, total, trust=trust))
        data, sent = pattern(total), 0
        for size in (200, 300_000, 17, 100_000, 1_000_000, 3, 70_000, total):
            part = data[sent : sent + size]
            if s.write(client, part) != len(part):
                break
            sent += len(part)
        s.note("sent", sent)
        s.note("read", reader.result())


for _trust in ("EAGAIN", "a short read", "FIONREAD"):
    register(_trust.removeprefix("a "))


@scenario("FIONREAD: what is unread, after each step", rows="8")
def fionread(s: Stage) -> None:
    client, server = s.pair()
    seen = [unread(server)]
    for text in (b"first", b"second"):
        s.send(client, text)
        s.until(lambda: unread(server) >= seen[-1] + len(text))  # noqa: B023
        seen.append(unread(server))
    s.recv(server, 3, socket.MSG_PEEK)
    seen.append(unread(server))
    s.recv(server, 3)
    seen.append(unread(server))
    s.recv(server, 100)
    seen.append(unread(server))
    s.note("FIONREAD", seen)
    client.shutdown(socket.SHUT_WR)
    s.events(server, select.POLLRDHUP)
    s.note("at the end", unread(server))


@scenario(
    "FIONREAD: bytes that came with the handshake (TCP_DEFER_ACCEPT), and later ones",
    rows="8 2",
    stays="deferred-accept",
)
def fionread_before_accept(s: Stage) -> None:
    listener = s.listen((socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5))
    client = s.unconnected()
    client.connect(s.destination(listener))
    s.ready(client)
    s.send(client, b"first")
    server = s.accept(listener)
    s.until(lambda: unread(server) == 5, NEVER_S)
    s.note("before", unread(server))
    s.send(client, b"second")
    s.until(lambda: unread(server) == 11, 1)
    s.note("both", unread(server))
    s.note("read", s.read(server, 11))
    s.note("read all", unread(server))
    for _ in range(5):
        s.talk(client, server)


@scenario("FIONREAD: bytes of a writer that had filled the queue before the accept", rows="8 2b 3")
def fionread_full_before_accept(s: Stage) -> None:
    listener = s.listen()
    client = s.unconnected()
    client.connect(s.destination(listener))
    s.ready(client)
    sent, error = s.fill(client)
    s.note("full", error)
    server = s.accept(listener)
    s.note("polls", s.events(server))
    s.note("some is there", unread(server) > 0)
    got = stalls = 0
    while got < sent and stalls < 3:
        if not s.until(lambda: unread(server) > 0, 1):
            stalls += 1
        part = outcome(server.recv, 1 << 16, socket.MSG_DONTWAIT)
        got += len(part) if isinstance(part, bytes) else 0
    s.note("stalls", stalls)
    s.note("everything arrives", got == sent)


@scenario("FIONREAD of a full queue is what can be read", rows="8 3", families=IPV4)
def fionread_full(s: Stage) -> None:
    client, server = s.pair()
    sent, _ = s.fill(client)
    # Some are still at the sender's side: what is claimed must be there at once.
    claimed = unread(server)
    got = 0
    while got < claimed:
        got += len(outcome(server.recv, claimed - got, socket.MSG_DONTWAIT))
    s.note("claimed bytes were there", got == claimed > 0)
    rest = s.read(server, sent - got)
    s.note("the rest arrives", len(rest) == sent - got)
    s.note("at the end", unread(server))


@scenario("SIOCOUTQ is 0 once the peer's kernel has all", rows="20")
def siocoutq(s: Stage) -> None:
    client, server = s.pair()
    s.send(client, b"data")
    s.arrived(server, 4)
    s.note("drops to 0", s.until(lambda: unsent(client) == 0, 1))


@scenario("A full connection: no POLLOUT, EAGAIN, and POLLOUT once there is room", rows="3")
def back_pressure(s: Stage) -> None:
    client, server = s.pair()
    epoll = Epoll(s, client, select.EPOLLOUT | EDGE)
    sent, error = s.fill(client)
    s.note("error", error)
    s.note("stops before 32 MB", sent < 32 * MIB)
    s.note("full", [s.events(client, select.POLLOUT, 0.05), selected(client)])
    epoll.wait()
    s.note("no edge while full", epoll.wait(0.05))
    got = s.read(server, sent)
    s.note("everything arrives", len(got) == sent)
    s.note("edge", epoll.wait(LIMIT_S))
    s.note("level", s.events(client, select.POLLOUT))
    s.talk(client, server)


@scenario("A blocking writer blocks until its reader reads", rows="3", modes=(BLOCKING,))
def blocking_writer(s: Stage) -> None:
    client, server = s.pair()
    data = pattern(12 * MIB)
    writer = s.thread(s.write, client, data)
    writer.join(0.3)
    s.note("blocks", writer.is_alive())
    got = s.read(server, len(data))
    s.note("written", writer.result())
    s.note("arrived", got == data)


@scenario(
    "SO_RCVLOWAT: readable only from that many bytes on",
    rows="11",
    families=IPV4,
    known=Known("11", LOW_WATER, {"4 bytes": "IN"}),
)
def low_water(s: Stage) -> None:
    client, server = s.pair()
    s.note("set", outcome(server.setsockopt, socket.SOL_SOCKET, socket.SO_RCVLOWAT, 10))
    s.send(client, b"1234")
    s.note("4 bytes", s.events(server, select.POLLIN, NEVER_S))
    s.send(client, b"56789a")
    s.note("10 bytes", s.events(server, select.POLLIN, NEVER_S))
    s.note("recv", s.recv(server, 100))


@scenario(
    "SO_RCVLOWAT: a blocking recv() waits for that many",
    rows="11",
    modes=(BLOCKING,),
    families=IPV4,
    known=Known("11", LOW_WATER, {"returns after 4": True, "recv": "1234"}),
)
def low_water_blocking(s: Stage) -> None:
    client, server = s.pair()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 10)
    thread = s.thread(s.recv, server, 100)
    with s.asleep_in_call(thread):
        s.send(client, b"1234")
    thread.join(NEVER_S)
    s.note("returns after 4", not thread.is_alive())
    s.send(client, b"56789a")
    s.note("recv", thread.result())


@scenario(
    "SO_RCVLOWAT set while bytes are unread, and lowered again",
    rows="11 2b",
    families=IPV4,
    known=Known("11", LOW_WATER, {"polls": "IN"}),
)
def low_water_later(s: Stage) -> None:
    client, server = s.pair()
    s.send(client, b"1234")
    s.arrived(server, 4)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 100)
    s.note("polls", s.events(server, select.POLLIN, NEVER_S))
    s.note("without waiting", outcome(server.recv, 100, socket.MSG_DONTWAIT))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    s.talk(client, server)


@scenario("One epoll instance watches fifty connections", families=IPV4)
def many(s: Stage) -> None:
    listener = s.listen()
    pairs = [s.pair(listener) for _ in range(50)]
    poll = select.epoll()
    s.on_end(poll.close)
    for number, (_, server) in enumerate(pairs):
        poll.register(server, select.EPOLLIN | EDGE)
        assert number < 50
    for step in range(4):
        for client, _ in pairs[step::4]:
            s.send(client, struct.pack("=I", step))
    seen: dict[int, int] = {}
    servers = {server.fileno(): server for _, server in pairs}
    while len(seen) < 50 and (ready := poll.poll(LIMIT_S)):
        for descriptor, _ in ready:
            if len(part := outcome(servers[descriptor].recv, 10)) == 4:
                seen[descriptor] = seen.get(descriptor, 0) + part[0]
    s.note("seen", len(seen))
    s.note("sum", sum(seen.values()))
    s.note("nothing else", poll.poll(milliseconds(0.02) / 1000))
