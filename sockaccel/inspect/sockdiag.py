"""The TCP sockets of a network namespace, by NETLINK_SOCK_DIAG (sock_diag(7)), as ss reads them.

The layouts are those of linux/inet_diag.h.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from sockaccel.scope import netlink

if TYPE_CHECKING:
    from collections.abc import Collection

# States, as in the kernel's include/net/tcp_states.h.
ESTABLISHED = 1
LISTEN = 10

_SOCK_DIAG_BY_FAMILY = 20
# struct inet_diag_req_v2: family, protocol, extensions, states; an empty inet_diag_sockid.
_REQUEST = Struct("=BBBxI48x")
# struct inet_diag_msg: family, state; ports and addresses in network order, cookie (low word,
# high word), uid and inode.
_MESSAGE = Struct("=BBxxHH16s16s4xII12xII")


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """A TCP socket.

    cookie: SO_COOKIE, what ss -e prints as sk: in hex; inode: of its file, 0 when no process
    holds it; local, remote: address and port (host order), v4-mapped ones as ::ffff:a.b.c.d.
    """

    cookie: int
    inode: int
    uid: int
    family: int
    state: int
    local: tuple[str, int]
    remote: tuple[str, int]


def tcp_sockets(states: Collection[int] = (ESTABLISHED,)) -> list[TcpSocket]:
    """Return the TCP sockets, IPv4 and IPv6, that the calling thread's namespace has.

    A list, so that in_netns(path, tcp_sockets) does what it says. Sockets that come or go
    meanwhile may be missing or there twice. Raises OSError when the kernel refuses.
    """
    mask = sum(1 << state for state in set(states))
    found = []
    for family, length in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, mask)
        for message in netlink.dump(netlink.NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, request):
            _, state, sport, dport, source, target, low, high, uid, inode = _MESSAGE.unpack_from(
                message
            )
            found.append(
                TcpSocket(
                    low | high << 32,
                    inode,
                    uid,
                    int(family),
                    state,
                    (socket.inet_ntop(family, source[:length]), socket.ntohs(sport)),
                    (socket.inet_ntop(family, target[:length]), socket.ntohs(dport)),
                )
            )
    return found
