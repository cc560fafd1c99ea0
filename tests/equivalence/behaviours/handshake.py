"""Beginnings: connect, accept and what travels with the handshake."""

from __future__ import annotations

import contextlib
import select
import socket

from equivalence.stage import NEVER_S, Stage, outcome
from equivalence.table import BLOCKING, EVERY_FAMILY, IPV4, NON_BLOCKING, scenario

from .endings import RESET, pending_error
from .stream import pattern

IPPROTO_MPTCP = 262
DEFER_ACCEPT = (socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
FAST_OPEN = (socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)


@scenario("The server speaks first", families=EVERY_FAMILY)
def banner(s: Stage) -> None:
    client, server = s.connect()
    s.note("banner", s.send(server, b"220 ready"))
    s.note("arrived", s.recv(client, 100))
    s.note("answer", s.send(client, b"QUIT"))
    s.note("answer arrived", s.recv(server, 100))


@scenario("A connect() without waiting: POLLOUT, no error, and a write at once")
def connect_without_waiting(s: Stage) -> None:
    listener = s.listen()
    client = s.unconnected()
    client.setblocking(False)
    s.note("connect", outcome(client.connect, s.destination(listener)))
    s.note("polls", s.events(client, select.POLLOUT | select.POLLIN))
    s.note("error", pending_error(client))
    s.ready(client)
    s.note("sent", s.send(client, b"at once"))
    server = s.accept(listener)
    s.note("arrived", s.recv(server, 100))
    s.talk(client, server)


@scenario("Nobody listens: ECONNREFUSED; the next connection works")
def refused(s: Stage) -> None:
    listener = s.listen()
    destination = s.destination(listener)
    listener.close()
    client = s.unconnected()
    s.note("connect", outcome(client.connect, destination))
    s.pair()


@scenario("Several writes before the server accepts arrive in order", rows="2")
def before_accept(s: Stage) -> None:
    listener = s.listen()
    client = s.unconnected()
    client.connect(s.destination(listener))
    s.ready(client)
    for word in (b"first ", b"second ", b"third "):
        s.note(f"sent {word.decode()}", s.send(client, word))
    server = s.accept(listener)
    s.note("sent after", s.send(client, b"fourth"))
    s.note("arrived", s.read(server, 25))


@scenario(
    "TCP_DEFER_ACCEPT: what came with the handshake is read first",
    rows="2",
    stays="deferred-accept",
)
def deferred(s: Stage) -> None:
    listener = s.listen(DEFER_ACCEPT)
    client = s.unconnected()
    client.connect(s.destination(listener))
    s.ready(client)
    s.note("nothing to accept", s.events(listener, within=0.05))
    s.note("sent", s.send(client, b"first "))
    s.note("to accept", s.events(listener))
    server = s.accept(listener)
    s.note("sent later", [s.send(client, b"second "), s.send(client, b"third")])
    s.note("arrived", s.read(server, 18))
    for _ in range(5):
        s.talk(client, server)


def fast_open(s: Stage) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection made by sending, with three words read."""
    s.client_host.ip("tcp_metrics flush all")  # where a cookie of an earlier run would be
    listener = s.listen(FAST_OPEN)
    client = s.unconnected()
    client.settimeout(None)  # it connects, so it must be allowed to wait
    destination = s.destination(listener)
    s.note("sent", outcome(client.sendto, b"AAAA", socket.MSG_FASTOPEN, destination))
    s.ready(client)
    s.send(client, b"BBBB")
    server = s.accept(listener)
    s.send(client, b"CCCC")
    s.note("arrived", s.read(server, 12))
    for _ in range(5):
        s.talk(client, server)
    return client, server


@scenario("Fast Open without a cookie: the order is kept", rows="2", stays="deferred-accept")
def fast_open_without_cookie(s: Stage) -> None:
    fast_open(s)


@scenario("Fast Open with data in the SYN: the order is kept", rows="2", stays="peer-out-of-scope")
def fast_open_with_data(s: Stage) -> None:
    for host in dict.fromkeys((s.client_host, s.server_host)):
        # 4 and 0x200: without a cookie of the server.
        host.sysctl("net.ipv4.tcp_fastopen", 0x207)
        s.on_end(lambda host=host: host.sysctl("net.ipv4.tcp_fastopen", 3))
    client, _ = fast_open(s)
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
    s.note("data was in the SYN", bool(info[5] & 32))  # TCPI_OPT_SYN_DATA


@scenario("A connection made with SYN cookies", rows="2", families=IPV4)
def syn_cookies(s: Stage) -> None:
    s.server_host.sysctl("net.ipv4.tcp_syncookies", 2)
    s.on_end(lambda: s.server_host.sysctl("net.ipv4.tcp_syncookies", 1))
    listener = s.listen()
    s.pair(listener)
    client, server = s.pair(listener)
    s.note("later", [s.send(client, b"word"), s.recv(server, 10)])


@scenario("A socket connected to itself reads what it writes", families=IPV4, modes=(NON_BLOCKING,))
def self_connected(s: Stage) -> None:
    s.pair()  # a control: acceleration works in this run
    sock = s.left.socket()
    sock.bind(("127.0.0.1", 0))
    s.note("connect", outcome(sock.connect, sock.getsockname()))
    s.ready(sock)
    s.note("sent", [s.send(sock, b"to "), s.send(sock, b"myself")])
    s.note("read", s.read(sock, 9))
    sock.shutdown(socket.SHUT_WR)
    s.note("the end", s.recv(sock, 1))


@scenario("MPTCP at both ends", rows="15", stays="mptcp", families=IPV4)
def mptcp(s: Stage) -> None:
    listener = s.right.listen(s.address, protocol=IPPROTO_MPTCP)
    client = s.left.socket(protocol=IPPROTO_MPTCP)
    client.connect(s.destination(listener))
    server = s.accept(listener)
    s.ready(client)
    for _ in range(5):
        s.talk(client, server)
    data = pattern(100_000)
    writer = s.thread(s.write, client, data)
    s.note("arrived", s.read(server, len(data)) == data)
    s.note("written", writer.result())


@scenario("An MPTCP client of a plain listener", rows="15", stays="mptcp", families=IPV4)
def mptcp_client(s: Stage) -> None:
    listener = s.listen()
    client = s.left.socket(protocol=IPPROTO_MPTCP)
    client.connect(s.destination(listener))
    server = s.accept(listener)
    s.ready(client)
    for _ in range(5):
        s.talk(client, server)
    s.note("talks", True)


@scenario("A plain client of an MPTCP listener", rows="15", stays="mptcp", families=IPV4)
def mptcp_listener(s: Stage) -> None:
    listener = s.right.listen(s.address, protocol=IPPROTO_MPTCP)
    client, server = s.connect(listener)
    for _ in range(5):
        s.talk(client, server)
    s.note("talks", True)


@scenario("Two hundred connections at once, each with its own words", rows="1", families=IPV4)
def crowd(s: Stage) -> None:
    listener = s.listen()
    pairs = [s.connect(listener) for _ in range(200)]
    for number, (client, _) in enumerate(pairs):
        s.send(client, b"%d" % number)
    for number, (_, server) in enumerate(pairs):
        s.send(server, b"<%d>" % number)
    wrong = sum(
        s.recv(server, 100) != b"%d" % number or s.recv(client, 100) != b"<%d>" % number
        for number, (client, server) in enumerate(pairs)
    )
    s.note("wrong", wrong)


def equal_tuples(s: Stage, address: str) -> None:
    first_port, second_port = 7100, 7101
    ends = []
    for client_host, server_host in ((s.left, s.right), (s.other_left, s.other_right)):
        host = client_host if address.startswith("127.") else server_host
        listener = host.listen(address, first_port)
        source = (address if address.startswith("127.") else "0.0.0.0", second_port)
        client, server = s.lab.connect(client_host, listener, source=source)
        s.ready(client).setsockopt(*RESET)  # so that the next run may use the ports
        ends.append((client, s.ready(server)))
    (client, server), (other, other_server) = ends
    s.note("the tuples are equal", client.getsockname() == other.getsockname())
    s.lab.close_one(server)  # it stays in FIN-WAIT-2, and in the map
    s.note("secret", s.send(other, b"secret of the other world"))
    s.note("arrives there", s.recv(other_server, 100))
    s.note("answer", s.send(other_server, b"answer"))
    s.note("the answer arrives", s.recv(other, 100))
    s.note("here is nothing but the end", [s.recv(client, 100), s.recv(client, 100)])


@scenario("Equal addresses in two pairs of namespaces: nothing crosses", rows="1", families=IPV4)
def equal_over_bridges(s: Stage) -> None:
    equal_tuples(s, s.address)


@scenario("Equal loopback addresses in two namespaces: nothing crosses", rows="1", families=IPV4)
def equal_over_loopback(s: Stage) -> None:
    equal_tuples(s, "127.0.0.1")


@scenario("A client that connects, writes and resets before the accept")
def reset_before_accept(s: Stage) -> None:
    listener = s.listen()
    s.pair(listener)
    client = s.unconnected()
    client.connect(s.destination(listener))
    s.ready(client)
    s.note("sent", s.send(client, b"lost?"))
    client.setsockopt(*RESET)
    s.lab.close_one(client)
    server = None
    with contextlib.suppress(OSError):
        server = s.accept(listener)
    s.note("accepted", server is not None)
    if server:
        s.events(server, select.POLLRDHUP, NEVER_S)
        s.note("reads", [s.recv(server, 100), s.recv(server, 100), s.recv(server, 100)])


@scenario("accept() waits, the connection comes", modes=(BLOCKING,), families=IPV4)
def accept_waits(s: Stage) -> None:
    listener = s.listen()
    thread = s.thread(s.accept, listener)
    client = s.unconnected()
    with s.asleep_in_call(thread):
        client.connect(s.destination(listener))
    s.ready(client)
    s.talk(client, thread.result())
    s.note("talks", True)
