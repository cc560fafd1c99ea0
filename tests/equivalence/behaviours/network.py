"""What lies between: address translation, connection tracking, filters and counters."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

from kernel.harness import IPV4_B, bytes_acked

from equivalence.stage import NEVER_S, Stage
from equivalence.table import IPV4, NON_BLOCKING, Known, scenario

from .endings import RESET
from .stream import pattern, transfer

if TYPE_CHECKING:
    from collections.abc import Callable

    Register = Callable[[Callable[[Stage], None]], Callable[[Stage], None]]

MIB = 1 << 20
OUTSIDE, INSIDE = 7001, 7002


def translated(s: Stage, *, timeout: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection whose port the server's namespace translates."""
    host = s.other_right
    host.nft("nat", "prerouting", f"tcp dport {OUTSIDE} redirect to :{INSIDE}")
    s.on_end(lambda: host.execute("nft", "delete", "table", "ip", "lab"))
    if timeout:
        name = "net.netfilter.nf_conntrack_tcp_timeout_established"
        host.sysctl(name, timeout)
        s.on_end(lambda: host.sysctl(name, 432_000))
    listener = host.listen("0.0.0.0", INSIDE)
    client, server = s.lab.connect(s.other_left, listener, (IPV4_B, OUTSIDE))
    for sock in (client, server):
        s.ready(sock).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Nothing may linger for want of an answer that is not translated back.
        s.on_end(lambda sock=sock: sock.fileno() < 0 or sock.setsockopt(*RESET))
    s.note("ports", [client.getpeername()[1], server.getsockname()[1]])
    s.talk(client, server)
    return client, server


def tracked(s: Stage) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection in use for longer than its entry lives when idle."""
    client, server = translated(s, timeout=1)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        s.talk(client, server)
        time.sleep(0.1)
    return client, server


@scenario("Through REDIRECT: messages and bulk", rows="7", families=IPV4)
def redirect(s: Stage) -> None:
    client, server = translated(s)
    for _ in range(5):
        s.talk(client, server)
    s.note("bulk", transfer(s, client, server, pattern(4 * MIB)))
    s.note("bulk back", transfer(s, server, client, pattern(4 * MIB)))


def forgotten(ending: str, rows: str, *, fresh: bool = False) -> Register:
    """Register an ending of a connection that was busy for longer than its entry lives."""
    return scenario(
        f"Through REDIRECT, busy for longer than connection tracking waits: {ending}",
        rows=rows,
        families=IPV4,
        modes=(NON_BLOCKING,),
        fresh=fresh,
    )


@forgotten("the client closes", "26")
def tracked_client_closes(s: Stage) -> None:
    client, server = tracked(s)
    s.lab.close_one(client)
    s.note("the end", s.recv(server, 10, within=1))


@forgotten("the server closes", "26")
def tracked_server_closes(s: Stage) -> None:
    client, server = tracked(s)
    s.lab.close_one(server)
    s.note("the end", s.recv(client, 10, within=1))


@forgotten("more than the queue holds", "26 3")
def tracked_bulk(s: Stage) -> None:
    client, server = tracked(s)
    sent, error = s.fill(server)
    s.note("full", error)
    got = s.read(client, sent, within=1)
    s.note("arrived", len(got) == sent if isinstance(got, bytes) else got[1])


@forgotten("`disable` under way", "26 5", fresh=True)
def tracked_disable(s: Stage) -> None:
    client, server = tracked(s)
    stop = threading.Event()

    def chat() -> bool:
        # Idle for as long as `disable` takes, plain TCP would be forgotten, too.
        while not stop.wait(0.1):
            for sender, receiver in ((server, client), (client, server)):
                if s.send(sender, b"word") != 4 or s.read(receiver, 4, within=1) != b"word":
                    return False
        return True

    chatting = s.thread(chat)
    s.switch_off()
    chatting.join(0.5)
    stop.set()
    s.note("all arrives", chatting.result())


@scenario(
    "A filter rule made after the handshake",
    rows="23",
    families=IPV4,
    known=Known("23", "a redirected message passes no filter", {"arrives": "forbidden"}),
)
def filtered(s: Stage) -> None:
    client, server = s.pair()
    s.right.nft("filter", "input", "meta l4proto tcp drop")
    s.on_end(lambda: s.right.execute("nft", "delete", "table", "ip", "lab"))
    s.note("sent", s.send(client, b"forbidden"))
    s.note("arrives", s.recv(server, 100, within=NEVER_S))


@scenario("A network that loses packets: everything arrives, in order", rows="2", families=IPV4)
def lossy(s: Stage) -> None:
    s.right.nft("filter", "input", "meta l4proto tcp numgen inc mod 13 == 0 drop")
    s.on_end(lambda: s.right.execute("nft", "delete", "table", "ip", "lab"))
    client, server = s.pair()
    s.note("there", transfer(s, client, server, pattern(300_000)))
    s.note("back", transfer(s, server, client, pattern(300_000)))


@scenario(
    "Counters of the interface and of TCP see the bytes",
    rows="20",
    families=IPV4,
    known=Known(
        "20",
        "redirected bytes pass neither",
        {"interfaces": False, "bytes_acked": False},
    ),
)
def counters_see(s: Stage) -> None:
    client, server = s.pair()
    before = s.left.interface_bytes() + s.right.interface_bytes()
    for _ in range(20):
        s.write(client, pattern(10_000))
        s.read(server, 10_000)
    moved = s.left.interface_bytes() + s.right.interface_bytes() - before
    s.note("interfaces", moved >= 200_000)
    s.note("bytes_acked", s.until(lambda: bytes_acked(client) >= 200_000, NEVER_S))
