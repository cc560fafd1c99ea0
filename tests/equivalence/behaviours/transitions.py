"""Acceleration that ends while connections live."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from kernel.harness import bytes_acked

from equivalence.table import BLOCKING, IPV4, NON_BLOCKING, scenario

from .stream import pattern, transfer

if TYPE_CHECKING:
    import socket

    from equivalence.stage import Stage

MIB = 1 << 20


def go_on(s: Stage, client: socket.socket, server: socket.socket) -> None:
    """Note that the connection works, now by TCP: TCP itself sees the bytes acknowledged."""
    before = bytes_acked(client)
    for _ in range(5):
        s.talk(client, server)
    s.note("by TCP", s.until(lambda: bytes_acked(client) > before))
    s.note("there", transfer(s, client, server, pattern(2 * MIB)))
    s.note("back", transfer(s, server, client, pattern(2 * MIB)))
    s.lab.close_one(client)
    s.note("the end", s.recv(server, 10))


@scenario(
    "`disable` while bytes are unread in both directions", rows="4 5", families=IPV4, fresh=True
)
def disable_with_unread(s: Stage) -> None:
    client, server = s.pair()
    data = pattern(100_000)
    s.note("sent", [s.write(client, data), s.write(server, data[::-1])])
    s.switch_off()
    s.note("sent later", [s.send(client, b"later"), s.send(server, b"later")])
    s.note("arrived", s.read(server, 100_005) == data + b"later")
    s.note("arrived back", s.read(client, 100_005) == data[::-1] + b"later")
    go_on(s, client, server)


@scenario(
    "`disable` while a writer waits for room",
    rows="3 4 5",
    families=IPV4,
    fresh=True,
    modes=(BLOCKING,),
)
def disable_when_full(s: Stage) -> None:
    client, server = s.pair()
    data = pattern(16 * MIB)
    writer = s.thread(s.write, client, data)
    writer.join(0.3)
    s.note("waits", writer.is_alive())
    s.switch_off()
    s.note("arrived", s.read(server, len(data)) == data)
    s.note("written", writer.result())
    go_on(s, client, server)


@scenario(
    "`disable` between the messages of an edge-triggered reader",
    rows="2b 5",
    families=IPV4,
    fresh=True,
    modes=(NON_BLOCKING,),
)
def disable_with_edges(s: Stage) -> None:
    client, server = s.pair()
    poll = select.epoll()
    s.on_end(poll.close)
    poll.register(server, select.EPOLLIN | select.EPOLLET)
    poll.poll(0)
    s.send(client, b"before")
    s.note("edge before", bool(poll.poll(1)))
    s.switch_off()
    s.send(client, b"after")
    s.note("edge after", bool(poll.poll(1)))
    s.note("arrived", s.read(server, 11))
    go_on(s, client, server)


@scenario(
    "The namespaces are taken out of scope while bytes are unread",
    rows="4 23",
    families=IPV4,
    fresh=True,
)
def scope_ends(s: Stage) -> None:
    client, server = s.pair()
    s.note("sent", s.send(client, b"before, "))
    s.out_of_scope()
    s.note("sent later", s.send(client, b"after"))
    s.note("arrived", s.read(server, 13))
    go_on(s, client, server)
