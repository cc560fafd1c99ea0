"""Socket options."""

from __future__ import annotations

import select
import socket
import time

from equivalence.stage import LIMIT_S, NEVER_S, TIMED_OUT, Stage, about, outcome, timeval
from equivalence.table import BLOCKING, IPV4, NON_BLOCKING, Known, scenario

from .endings import pending_error, state
from .stream import pattern, transfer

SOL, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
TCP_USER_TIMEOUT, TCP_NOTSENT_LOWAT, TCP_ULP = 18, 25, 31
MIB = 1 << 20

INTEGERS = {  # name: (level, option, a value that is not the default)
    "TCP_NODELAY": (TCP, socket.TCP_NODELAY, 1),
    "TCP_CORK": (TCP, socket.TCP_CORK, 1),
    "TCP_QUICKACK": (TCP, socket.TCP_QUICKACK, 0),
    "TCP_KEEPIDLE": (TCP, socket.TCP_KEEPIDLE, 77),
    "TCP_KEEPINTVL": (TCP, socket.TCP_KEEPINTVL, 7),
    "TCP_KEEPCNT": (TCP, socket.TCP_KEEPCNT, 3),
    "TCP_USER_TIMEOUT": (TCP, TCP_USER_TIMEOUT, 12_345),
    "TCP_LINGER2": (TCP, socket.TCP_LINGER2, 5),
    "TCP_MAXSEG": (TCP, socket.TCP_MAXSEG, 1000),
    "TCP_NOTSENT_LOWAT": (TCP, TCP_NOTSENT_LOWAT, 16_384),
    "TCP_WINDOW_CLAMP": (TCP, socket.TCP_WINDOW_CLAMP, 100_000),
    "SO_KEEPALIVE": (SOL, socket.SO_KEEPALIVE, 1),
    "SO_RCVBUF": (SOL, socket.SO_RCVBUF, 50_000),
    "SO_SNDBUF": (SOL, socket.SO_SNDBUF, 50_000),
    "SO_RCVLOWAT": (SOL, socket.SO_RCVLOWAT, 5),
    "SO_PRIORITY": (SOL, socket.SO_PRIORITY, 3),
    "SO_MARK": (SOL, socket.SO_MARK, 7),
    "SO_ACCEPTCONN": (SOL, socket.SO_ACCEPTCONN, 1),
    "SO_TYPE": (SOL, socket.SO_TYPE, 1),
    "SO_PROTOCOL": (SOL, socket.SO_PROTOCOL, 1),
    "SO_DOMAIN": (SOL, socket.SO_DOMAIN, 1),
    "IP_TOS": (socket.IPPROTO_IP, socket.IP_TOS, 0x10),
    "IP_TTL": (socket.IPPROTO_IP, socket.IP_TTL, 33),
}


# Follow the traffic of this connection, and of earlier ones to the same address (tcp_metrics).
VARY = {"TCP_QUICKACK", "SO_RCVBUF", "SO_SNDBUF"}


def get(sock: socket.socket, name: str) -> object:
    level, option, _ = INTEGERS[name]
    return outcome(sock.getsockopt, level, option)


@scenario("Options of both ends: as made, set, and read again")
def integers(s: Stage) -> None:
    client, server = s.pair()
    for who, sock in (("client", client), ("server", server)):
        for name, (level, option, value) in INTEGERS.items():
            before = "varies" if name in VARY else get(sock, name)
            done = outcome(sock.setsockopt, level, option, value)
            s.note(f"{who} {name}", [before, done, get(sock, name)])
    client.setsockopt(TCP, socket.TCP_CORK, 0)
    server.setsockopt(TCP, socket.TCP_CORK, 0)
    s.note("still whole", transfer(s, client, server, pattern(100_000)))


@scenario("Names, errors and the state of the connection")
def names(s: Stage) -> None:
    listener = s.listen()
    client, server = s.pair(listener)
    s.note(
        "the client's peer is the listener", client.getpeername()[1] == listener.getsockname()[1]
    )
    s.note("both ends agree", client.getsockname()[1] == server.getpeername()[1])
    s.note("no error", [pending_error(client), pending_error(server)])
    s.note("states", [state(client), state(server)])
    control = [sock.getsockopt(TCP, socket.TCP_CONGESTION, 16) for sock in (client, server)]
    s.note("one congestion control", control[0] == control[1])
    s.note("connect again", outcome(client.connect, (s.target, listener.getsockname()[1])))
    s.note("listen", outcome(client.listen))
    s.note("bind", outcome(client.bind, (s.target, 0)) in ("EINVAL", "EADDRNOTAVAIL"))
    s.talk(client, server)


@scenario("An upper-layer protocol is set on a connection", rows="14")
def upper_layer(s: Stage) -> None:
    client, server = s.pair()
    s.note("unknown", outcome(client.setsockopt, TCP, TCP_ULP, b"no such"))
    s.note("kTLS", outcome(client.setsockopt, TCP, TCP_ULP, b"tls"))
    s.note("still talks", [s.send(client, b"word"), s.recv(server, 10)])


@scenario("SO_RCVTIMEO ends a blocking recv()", rows="10", modes=(BLOCKING,), families=IPV4)
def receive_timeout(s: Stage) -> None:
    client, server = s.pair()
    for seconds in (0.2, 0.6):
        server.setsockopt(SOL, socket.SO_RCVTIMEO, timeval(seconds))
        start = time.monotonic()
        s.note(f"{seconds} s", outcome(server.recv, 10))
        s.note(f"{seconds} s passed", about(time.monotonic() - start, seconds))
    s.talk(client, server)


@scenario("SO_RCVTIMEO does not end a recv() that gets data", modes=(BLOCKING,), families=IPV4)
def receive_in_time(s: Stage) -> None:
    client, server = s.pair()
    server.setsockopt(SOL, socket.SO_RCVTIMEO, timeval(3))
    thread = s.thread(outcome, server.recv, 10)
    with s.asleep_in_call(thread):
        s.send(client, b"in time")
    s.note("recv", thread.result())
    s.note("passed", about(thread.took, 2))


@scenario("SO_SNDTIMEO ends a blocking send() to a full peer", rows="3", modes=(BLOCKING,))
def send_timeout(s: Stage) -> None:
    client, server = s.pair()
    sent, _ = s.fill(client)
    client.setsockopt(SOL, socket.SO_SNDTIMEO, timeval(0.4))
    start = time.monotonic()
    s.note("send", outcome(client.send, pattern(1000)))
    s.note("passed", about(time.monotonic() - start, 0.4))
    s.note("everything arrives", len(s.read(server, sent)) == sent)
    s.talk(client, server)


@scenario(
    "A send() that is too large, without waiting or with a timeout, tells how much it took",
    rows="3 22",
    families=IPV4,
)
def send_half(s: Stage) -> None:
    client, server = s.pair()
    data = pattern(16 * MIB)
    if s.blocking:
        client.setsockopt(SOL, socket.SO_SNDTIMEO, timeval(0.3))
    taken = outcome(client.send, data)
    s.note("partly", isinstance(taken, int) and 0 < taken < len(data))
    got = s.read(server, taken)
    s.note("as much as it said", got == data[:taken])
    s.note("and no more", s.recv(server, 10, within=0.1))
    s.talk(client, server)


@scenario("SO_RCVBUF and SO_SNDBUF, smallest to large", rows="3", families=IPV4)
def buffers(s: Stage) -> None:
    for size in (1, 4096, 65_536, 4 * MIB):
        listener = s.listen((SOL, socket.SO_RCVBUF, size))
        client, server = s.pair(listener, (SOL, socket.SO_SNDBUF, size))
        name = f"{size} bytes"
        s.note(f"{name}: sizes", [get(client, "SO_SNDBUF"), get(server, "SO_RCVBUF")])
        s.note(f"{name}: whole", transfer(s, client, server, pattern(min(size * 20, 6 * MIB))))
        sent, error = s.fill(client, 1024)
        s.note(f"{name}: full", error)
        room = get(client, "SO_SNDBUF") + get(server, "SO_RCVBUF")  # type: ignore[operator]
        s.note(f"{name}: within 4 times the buffers", sent <= 4 * room)
        s.note(f"{name}: everything arrives", len(s.read(server, sent)) == sent)


@scenario("SO_RCVBUF changed while bytes are unread", rows="3", families=IPV4)
def shrunk_buffer(s: Stage) -> None:
    client, server = s.pair()
    data = pattern(50_000)
    s.note("sent", s.write(client, data))
    server.setsockopt(SOL, socket.SO_RCVBUF, 2048)
    s.note("arrived", s.read(server, len(data)) == data)
    s.note("and works on", transfer(s, client, server, data))


@scenario("TCP_NODELAY and Nagle's algorithm: a small write after a small write", families=IPV4)
def nagle(s: Stage) -> None:
    client, server = s.connect()
    client.setsockopt(TCP, socket.TCP_NODELAY, 0)
    for number in range(5):
        s.note(f"sent {number}", [s.send(client, b"a"), s.send(client, b"b")])
        s.note(f"arrived {number}", s.read(server, 2))
        s.note(f"answered {number}", [s.send(server, b"c"), s.recv(client, 2)])


@scenario("TCP_CORK: what was written arrives when the cork is pulled", families=IPV4)
def cork(s: Stage) -> None:
    client, server = s.pair()
    client.setsockopt(TCP, socket.TCP_CORK, 1)
    s.note("sent", [s.send(client, b"head,"), s.send(client, b"body")])
    client.setsockopt(TCP, socket.TCP_CORK, 0)
    s.note("arrived", s.read(server, 9))
    client.setsockopt(TCP, socket.TCP_CORK, 1)
    s.note("corked again", s.send(client, b"left in"))
    s.note("comes out by itself", s.read(server, 7))


@scenario(
    "TCP_CORK: nothing arrives before the cork is pulled",
    rows="11",
    families=IPV4,
    known=Known("11", "a redirected message arrives at once", {"arrives early": "IN"}),
)
def cork_holds(s: Stage) -> None:
    client, server = s.pair()
    client.setsockopt(TCP, socket.TCP_CORK, 1)
    s.send(client, b"head,")
    # The kernel pulls it by itself after 200 ms.
    s.note("arrives early", s.events(server, within=0.05))
    s.send(client, b"body")
    client.setsockopt(TCP, socket.TCP_CORK, 0)
    s.arrived(server, 9)
    s.note("arrived", s.recv(server, 100))


@scenario("TCP_QUICKACK is set and cleared between messages", families=IPV4)
def quickack(s: Stage) -> None:
    client, server = s.pair()
    for value in (0, 1, 0):
        server.setsockopt(TCP, socket.TCP_QUICKACK, value)
        s.talk(client, server)
    s.note("talks", True)


@scenario("TCP_NOTSENT_LOWAT: no POLLOUT while more than that is unsent", rows="3", families=IPV4)
def notsent(s: Stage) -> None:
    client, server = s.pair()
    client.setsockopt(TCP, TCP_NOTSENT_LOWAT, 16_384)
    sent, error = s.fill(client)
    s.note("full", [error, s.events(client, select.POLLOUT, 0.05)])
    s.note("everything arrives", len(s.read(server, sent)) == sent)
    s.note("room again", s.events(client, select.POLLOUT))


@scenario("Keepalive on an idle connection: it stays", modes=(NON_BLOCKING,), families=IPV4)
def keepalive(s: Stage) -> None:
    client, server = s.pair()
    for sock in (client, server):
        sock.setsockopt(SOL, socket.SO_KEEPALIVE, 1)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
            sock.setsockopt(TCP, option, 1)
    s.note("idle for 2 s", s.events(client, select.POLLIN | select.POLLRDHUP, 2))
    s.talk(client, server)


def drop_everything(s: Stage) -> None:
    """Let no packet of TCP reach the server's namespace until the run is over."""
    s.right.nft("filter", "input", "meta l4proto tcp drop")
    s.on_end(lambda: s.right.execute("nft", "delete", "table", "ip", "lab"))


@scenario("Keepalive finds a peer that does not answer", modes=(NON_BLOCKING,), families=IPV4)
def keepalive_fails(s: Stage) -> None:
    client, _ = s.pair()
    client.setsockopt(SOL, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
        client.setsockopt(TCP, option, 1)
    drop_everything(s)
    s.note("ends", s.events(client, select.POLLIN | select.POLLRDHUP, 2 * LIMIT_S) != "none")
    s.note("recv", s.recv(client, 1))


@scenario(
    "TCP_USER_TIMEOUT: a network that delivers nothing",
    rows="23",
    modes=(NON_BLOCKING,),
    families=IPV4,
    known=Known(
        "23",
        "a redirected message passes no network and needs no acknowledgement",
        {"arrives": "into the void", "ends": False, "recv": TIMED_OUT},
    ),
)
def user_timeout(s: Stage) -> None:
    client, server = s.pair()
    client.setsockopt(TCP, TCP_USER_TIMEOUT, 300)
    drop_everything(s)
    s.note("sent", s.send(client, b"into the void"))
    s.note("arrives", s.recv(server, 100, within=NEVER_S))
    ends = s.events(client, select.POLLRDHUP, 2)
    s.note("ends", ends != "none")
    s.note("recv", s.recv(client, 1, within=0.1) if ends != "none" else TIMED_OUT)
