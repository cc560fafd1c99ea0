"""Endings: shutdown, close and reset."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import struct

from equivalence.stage import NEVER_S, Stage, outcome
from equivalence.table import IPV4, NON_BLOCKING, Known, scenario

from .stream import pattern

RD, WR, RDWR = socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR
ALL_EVENTS = select.POLLIN | select.POLLOUT | select.POLLRDHUP
RESET = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
UNREAD = b"not read by anybody"


def pending_error(sock: socket.socket) -> str:
    number = outcome(sock.getsockopt, socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode.get(number, "none") if isinstance(number, int) else number


def settled_send(s: Stage, sock: socket.socket, data: bytes) -> object:
    """Send, and wait until a reset that answers it would be there."""
    result = outcome(sock.send, data)
    s.events(sock, select.POLLRDHUP, 0.03)
    return result


def probe(s: Stage, who: str, sock: socket.socket) -> None:
    """Note what is left of one end: what poll() says, then what calls say, twice."""
    s.events(sock, select.POLLIN | select.POLLRDHUP, 0.03)
    s.note(f"{who} polls", s.events(sock, ALL_EVENTS))
    # Long enough for a delayed ACK of our FIN, which wakes who waits here (row 10).
    s.note(f"{who} reads", s.recv(sock, 100, within=NEVER_S))
    s.note(f"{who} sends", [settled_send(s, sock, b"x"), settled_send(s, sock, b"y")])
    s.note(f"{who} reads again", s.recv(sock, 100, within=0.1))
    s.note(f"{who} has the error", pending_error(sock))


def state(sock: socket.socket) -> int:
    """Return the state of the connection, a number of enum in include/net/tcp_states.h."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[0]


def disconnect(sock: socket.socket) -> object:
    """Call connect() with AF_UNSPEC, which Python's own connect() has no address for."""
    address = struct.pack("=H14x", socket.AF_UNSPEC)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(sock.fileno(), address, len(address)):
        return errno.errorcode[ctypes.get_errno()]
    return 0


# What the kernel's own send(), recv() and close() of sockets in a sockmap do, redirected or not.
EOF_NOT_RESET = "close() does not count redirected bytes as unread, and ends in order"
ERROR_STAYS = "send() of a socket in a sockmap reports a pending error and does not clear it"

STEPS = {
    "the client shuts writing": [("client", WR)],
    "the client shuts reading": [("client", RD)],
    "the client shuts both": [("client", RDWR)],
    "the client shuts reading, then writing": [("client", RD), ("client", WR)],
    "the client shuts writing, then reading": [("client", WR), ("client", RD)],
    "both shut writing": [("client", WR), ("server", WR)],
    "both shut reading": [("client", RD), ("server", RD)],
    "both shut both": [("client", RDWR), ("server", RDWR)],
    "the server shuts writing, the client reading": [("server", WR), ("client", RD)],
    "the server shuts reading, the client writing": [("server", RD), ("client", WR)],
    "the client closes": [("client", "close")],
    "the server closes": [("server", "close")],
    "the client shuts writing, the server closes": [("client", WR), ("server", "close")],
    "the server shuts writing, the server closes": [("server", WR), ("server", "close")],
    "the client shuts reading, the server closes": [("client", RD), ("server", "close")],
    "the client resets": [("client", "reset")],
    "the server resets": [("server", "reset")],
    "the client shuts writing, the server resets": [("client", WR), ("server", "reset")],
    "the server shuts writing, the server resets": [("server", WR), ("server", "reset")],
}


def take(s: Stage, step: int | str, sock: socket.socket) -> None:
    if step == "reset":
        sock.setsockopt(*RESET)
    if isinstance(step, str):
        s.lab.close_one(sock)
    else:
        s.notes.setdefault("shutdown", []).append(outcome(sock.shutdown, step))


def register(title: str, steps: list[tuple[str, int | str]]) -> None:
    @scenario(
        f"{title[0].upper()}{title[1:]}: all calls afterwards",
        rows="12 16",
        families=IPV4,
        name="after_" + title.replace(" ", "_").replace(",", ""),
    )
    def run(s: Stage) -> None:
        client, server = s.pair()
        ends = {"client": client, "server": server}
        for who, step in steps:
            take(s, step, ends[who])
        for who, sock in ends.items():
            if sock.fileno() >= 0:
                probe(s, who, sock)


for _title, _steps in STEPS.items():
    register(_title, _steps)


@scenario("Write, then close at once: everything arrives, then the end")
def write_then_close(s: Stage) -> None:
    listener = s.listen()
    for size in (1, 1000, 65_536, 200_000):
        client, server = s.pair(listener)
        data = pattern(size)
        writer = s.thread(s.write, client, data)
        if size <= 65_536:
            writer.result()
            s.lab.close_one(client)
        else:
            writer.join(0.01)
        got = s.read(server, size)
        if size > 65_536:
            s.note(f"{size} bytes written", writer.result())
            s.lab.close_one(client)
        s.note(f"{size} bytes", got == data)
        s.note(f"after {size} bytes", s.recv(server, 1))


@scenario("Write, close, and only then the server accepts")
def close_before_accept(s: Stage) -> None:
    listener = s.listen()
    s.pair(listener)
    client = s.unconnected()
    client.connect(s.destination(listener))
    s.note("sent", outcome(client.send, b"sent before the accept"))
    s.lab.close_one(client)
    server = s.accept(listener)
    s.note("arrived", s.read_to_end(server))
    s.note("answer", [settled_send(s, server, b"x"), settled_send(s, server, b"y")])


@scenario("Half-closed: the answer arrives, then its end")
def half_closed(s: Stage) -> None:
    client, server = s.pair()
    s.note("request", s.send(client, b"request"))
    client.shutdown(WR)
    s.note("request arrived", s.read_to_end(server))
    data = pattern(300_000)
    writer = s.thread(s.write, server, data)
    s.note("answer", s.read(client, len(data)) == data)
    s.note("written", writer.result())
    s.lab.close_one(server)
    s.note("the end", s.recv(client, 1))


@scenario(
    "send() after the own shutdown(SHUT_WR): EPIPE, and nothing arrives",
    rows="12",
)
def send_after_shutdown(s: Stage) -> None:
    client, server = s.pair()
    client.shutdown(WR)
    s.note("send", outcome(client.send, b"too late"))
    s.note("arrived", s.read_to_end(server))


def count_sigpipe(sock: socket.socket) -> list[object]:
    seen = []
    signal.signal(signal.SIGPIPE, lambda number, _: seen.append(number))
    sock.shutdown(WR)
    results = [outcome(os.write, sock.fileno(), b"x"), len(seen)]
    return [*results, outcome(sock.send, b"x", socket.MSG_NOSIGNAL), len(seen)]


@scenario("SIGPIPE, and MSG_NOSIGNAL", rows="12")
def sigpipe(s: Stage) -> None:
    client, _ = s.pair()
    s.note("results and signals so far", s.process(count_sigpipe, client).result())


@scenario("SHUT_RD while bytes are unread")
def shut_reading_with_unread(s: Stage) -> None:
    client, server = s.pair()
    s.send(client, UNREAD)
    s.arrived(server, len(UNREAD))
    server.shutdown(RD)
    s.note("polls", s.events(server, ALL_EVENTS, 0.05))
    s.note("reads", s.recv(server, 9))
    s.note("reads on", s.recv(server, 100))
    s.note("and on", s.recv(server, 100))
    s.note("the client sends", outcome(client.send, b"more"))
    s.note("more arrives", s.recv(server, 100, within=0.1))


@scenario(
    "close() with bytes unread: the peer learns that they were lost",
    rows="12",
    known=Known(
        "12",
        EOF_NOT_RESET,
        {"client polls": "IN|OUT|RDHUP", "client reads": "", "client sends": [1, "EPIPE"]},
    ),
)
def close_with_unread(s: Stage) -> None:
    client, server = s.pair()
    s.send(client, UNREAD)
    s.arrived(server, len(UNREAD))
    s.lab.close_one(server)
    probe(s, "client", client)


@scenario(
    "close() with bytes unread while an answer is under way",
    rows="12",
    known=Known(
        "12", EOF_NOT_RESET, {"client polls": "IN|OUT|RDHUP", "client sends": [1, "EPIPE"]}
    ),
)
def close_with_unread_and_answer(s: Stage) -> None:
    client, server = s.pair()
    s.send(client, UNREAD)
    s.arrived(server, len(UNREAD))
    s.send(server, b"answer")
    s.lab.close_one(server)
    probe(s, "client", client)


def in_kernel(s: Stage, port: int) -> list[str]:
    """Return the states of the sockets of a port, of both ends, those of no file included."""
    filters = ["-H", "-tan", f"( sport = :{port} or dport = :{port} )"]
    hosts = dict.fromkeys((s.client_host, s.server_host))
    lines = [line for host in hosts for line in host.execute("ss", *filters).splitlines()]
    return sorted(line.split()[0] for line in lines if not line.startswith("LISTEN"))


@scenario(
    "Both close with bytes unread: no socket stays behind",
    rows="12",
    families=IPV4,
    known=Known("12", EOF_NOT_RESET, {"states": ["TIME-WAIT"]}),
)
def nothing_stays_behind(s: Stage) -> None:
    client, server = s.pair()
    port = server.getsockname()[1]
    s.send(client, UNREAD)
    s.arrived(server, len(UNREAD))
    s.lab.close_one(server)
    s.lab.close_one(client)
    s.until(lambda: not in_kernel(s, port), 1)
    s.note("states", sorted(set(in_kernel(s, port))))  # of one end or both


@scenario("Both close in turn: the states of both ends", families=IPV4)
def orderly_states(s: Stage) -> None:
    client, server = s.pair()
    port = server.getsockname()[1]
    client.shutdown(WR)
    s.note("after shutdown", [state(client), state(server)])
    s.lab.close_one(server)
    s.until(lambda: "TIME-WAIT" in in_kernel(s, port))
    s.lab.close_one(client)
    # A dump that meets a socket on its way into TIME-WAIT shows it twice.
    s.until(lambda: len(in_kernel(s, port)) == 1)
    s.note("after both closed", in_kernel(s, port))


@scenario("SO_LINGER of 0 with bytes unread at the peer: they are read, then ECONNRESET", rows="12")
def reset_with_unread(s: Stage) -> None:
    client, server = s.pair()
    s.send(client, UNREAD)
    s.arrived(server, len(UNREAD))
    take(s, "reset", client)
    s.events(server, select.POLLRDHUP)
    s.note("polls", s.events(server, ALL_EVENTS))
    s.note("reads part", s.recv(server, 3))
    s.note("reads the rest", s.recv(server, 100))
    s.note("reads on", s.recv(server, 100))
    s.note("and on", s.recv(server, 100))
    s.note("sends", outcome(server.send, b"x"))


@scenario("A reset while nothing is unread: ECONNRESET once, then the end")
def reset_when_idle(s: Stage) -> None:
    client, server = s.pair()
    take(s, "reset", server)
    s.note("polls", s.events(client, ALL_EVENTS))
    s.note("reads", [s.recv(client, 1), s.recv(client, 1)])
    s.note("sends", outcome(client.send, b"x"))


@scenario(
    "A reset: send() fails first, then recv() sees the end",
    known=Known("12", ERROR_STAYS, {"sends": ["ECONNRESET", "ECONNRESET"], "reads": "ECONNRESET"}),
)
def reset_seen_by_send(s: Stage) -> None:
    client, server = s.pair()
    take(s, "reset", server)
    s.events(client, ALL_EVENTS)
    s.note("sends", [outcome(client.send, b"x"), outcome(client.send, b"x")])
    s.note("reads", s.recv(client, 1))
    s.note("error", pending_error(client))


@scenario("SO_LINGER of 5 s: close() returns at once when the peer's kernel has all")
def linger(s: Stage) -> None:
    client, server = s.pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 5))
    s.send(client, UNREAD)
    closing = s.thread(s.lab.close_one, client)
    closing.result()
    s.note("quick", closing.took < 2)
    s.note("arrived", s.read_to_end(server))


@scenario(
    "A writer stopped by a full peer learns that the peer has reset",
    families=IPV4,
    known=Known("12", ERROR_STAYS, {"sends": ["ECONNRESET", "ECONNRESET"]}),
)
def reset_of_a_full_reader(s: Stage) -> None:
    client, server = s.pair()
    _, error = s.fill(client)
    s.note("full", error)
    s.note("polls", s.events(client, ALL_EVENTS, 0.02))
    take(s, "reset", server)
    s.note("then polls", s.events(client, ALL_EVENTS))
    s.note("sends", [settled_send(s, client, b"x"), settled_send(s, client, b"x")])


@scenario(
    "A writer stopped by a full peer learns that the peer has closed",
    rows="12",
    modes=(NON_BLOCKING,),
    known=Known("12", EOF_NOT_RESET, {"polls an error": False, "reads": "", "sends fail": []}),
)
def close_of_a_full_reader(s: Stage) -> None:
    # Blocking calls would wait here for as long as the kernel's timers.
    client, server = s.pair()
    _, error = s.fill(client)
    s.note("full", error)
    s.lab.close_one(server)
    s.events(client, select.POLLRDHUP)
    s.note("polls an error", "ERR" in s.events(client, ALL_EVENTS))
    s.note("reads", s.recv(client, 1, within=NEVER_S))
    sends = [settled_send(s, client, b"x"), settled_send(s, client, b"x")]
    s.note("sends fail", [send for send in sends if send not in (1, "EAGAIN")])


@scenario("connect() to AF_UNSPEC dissolves the connection, the socket connects again", rows="1 4")
def dissolve(s: Stage) -> None:
    client, server = s.pair()
    s.note("dissolved", disconnect(client))
    s.note("the old server reads", s.recv(server, 1))
    listener = s.listen()
    with contextlib.suppress(BlockingIOError):
        client.connect(s.destination(listener))
    again = s.accept(listener)
    s.note("the old server sends", outcome(server.send, b"from the old connection"))
    for number in range(5):
        s.note(f"message {number}", s.send(client, b"%d" % number))
        s.note(f"arrives {number}", s.recv(again, 10))
        s.note(f"answer {number}", s.send(again, b"answer"))
        s.note(f"answer arrives {number}", s.recv(client, 100))
    s.note("the old server reads again", s.recv(server, 1))


@scenario("Close on one side, use on the other, ten connections in turn on one tuple", rows="1 4")
def reused_tuple(s: Stage) -> None:
    listener = s.listen()
    # bind() picks a port that is free; connect() may pick one that an earlier connection to
    # another port still has in TIME-WAIT, and which bind() then refuses the second time.
    source = ("", 0)
    for number in range(10):
        client, server = s.connect(listener, source=source)
        source = client.getsockname()[:2]
        s.note(f"exchange {number}", [s.send(client, b"%d" % number), s.recv(server, 10)])
        s.note(f"answer {number}", [s.send(server, b"<%d>" % number), s.recv(client, 10)])
        take(s, "reset", client)
        s.events(server, select.POLLRDHUP)
        s.note(f"end {number}", s.recv(server, 10))
        s.lab.close_one(server)
