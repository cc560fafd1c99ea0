"""A reader of netlink dumps (netlink(7)), and what is needed of rtnetlink(7).

Everything here is about the network namespace of the calling thread. Raises OSError as the
kernel reports it.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NETLINK_ROUTE = 0
NETLINK_SOCK_DIAG = 4

_NLM_F_DUMP_REQUEST = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_RTM_GETLINK = 18
_RTM_GETADDR = 22
_IFLA_MASTER = 10
_IFLA_LINKINFO = 18
_IFLA_INFO_KIND = 1
_IFA_ADDRESS = 1
_IFA_LOCAL = 2

# Multicast groups (linux/rtnetlink.h).
_RTMGRP_LINK = 0x1
_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV6_IFADDR = 0x100

_NLMSGHDR = Struct("=IHHII")  # length with header, type, flags, sequence, port
_ERROR = Struct("=i")  # -errno
_RTATTR = Struct("=HH")  # length with header, type
_IFINFOMSG = Struct("=BxHiII")  # family, device type, index, flags, change
_IFADDRMSG = Struct("=BBBBI")  # family, prefix length, flags, scope, index
_U32 = Struct("=I")

# The kernel fills at most 32 KB per message of a dump (netlink_recvmsg, max_recvmsg_len),
# unless a single record is longer.
_BUFFER_BYTES = 1 << 16


def dump(protocol: int, request_type: int, request: bytes) -> Iterator[memoryview]:
    """Yield the payload of each record that the kernel answers a dump request with.

    A payload is valid until the next one is asked for. The namespace is that of the thread
    which asks for the first one.
    """
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
    ) as kernel:
        kernel.connect((0, 0))  # from now on only the kernel can send to it
        length = _NLMSGHDR.size + len(request)
        kernel.send(_NLMSGHDR.pack(length, request_type, _NLM_F_DUMP_REQUEST, 1, 0) + request)
        while True:
            end = kernel.recv_into(buffer)
            start = 0
            while start < end:
                length, kind, _, _, _ = _NLMSGHDR.unpack_from(buffer, start)
                if length < _NLMSGHDR.size or start + length > end:
                    raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
                payload = buffer[start + _NLMSGHDR.size : start + length]
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    # DONE carries a status too: a dump can fail half-way.
                    status = _ERROR.unpack_from(payload)[0] if len(payload) >= 4 else 0
                    if status < 0:
                        raise OSError(-status, os.strerror(-status))
                    return
                yield payload
                start += (length + 3) & ~3


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface.

    kind: the type of a virtual one ("bridge", "veth", …), "" for hardware and loopback;
    master: index of the bridge or bond it is a port of, 0 for none.
    """

    index: int
    kind: str
    master: int


def links() -> list[Link]:
    """Return the network interfaces of this namespace."""
    request = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    found = []
    for payload in dump(NETLINK_ROUTE, _RTM_GETLINK, request):
        index = _IFINFOMSG.unpack_from(payload)[2]
        attributes = _attributes(payload[_IFINFOMSG.size :])
        info = _attributes(attributes.get(_IFLA_LINKINFO, memoryview(b"")))
        kind = bytes(info.get(_IFLA_INFO_KIND, b"")).rstrip(b"\0").decode("ascii", "replace")
        master = attributes.get(_IFLA_MASTER)
        found.append(Link(index, kind, _U32.unpack(master)[0] if master else 0))
    return found


def addresses() -> list[tuple[int, IPv4Interface | IPv6Interface]]:
    """Return the addresses of this namespace with their prefixes, each with its link's index."""
    request = _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    found: list[tuple[int, IPv4Interface | IPv6Interface]] = []
    for payload in dump(NETLINK_ROUTE, _RTM_GETADDR, request):
        family, prefix, _, _, index = _IFADDRMSG.unpack_from(payload)
        attributes = _attributes(payload[_IFADDRMSG.size :])
        # On a point-to-point link IFA_ADDRESS is the other end, IFA_LOCAL is this one.
        address = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
        if address is None:
            continue
        if family == socket.AF_INET:
            found.append((index, IPv4Interface((bytes(address), prefix))))
        elif family == socket.AF_INET6:
            found.append((index, IPv6Interface((bytes(address), prefix))))
    return found


def changes_of_addresses() -> socket.socket:
    """Return a socket that becomes readable when an address or a link of this namespace changes.

    It does not block. What is read from it says less than asking again: after a burst the
    kernel drops messages (ENOBUFS), see drain().
    """
    kernel = socket.socket(
        socket.AF_NETLINK,
        socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
        NETLINK_ROUTE,
    )
    try:
        kernel.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
    except OSError:
        kernel.close()
        raise
    return kernel


def drain(kernel: socket.socket) -> None:
    """Read all that is waiting in a socket that does not block."""
    while True:
        try:
            kernel.recv(_BUFFER_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise


def _attributes(data: memoryview) -> dict[int, memoryview]:
    """Return the payloads of a chain of struct rtattr by type."""
    found = {}
    start = 0
    while start + _RTATTR.size <= len(data):
        length, kind = _RTATTR.unpack_from(data, start)
        if length < _RTATTR.size:
            break
        found[kind & 0x3FFF] = data[start + _RTATTR.size : start + length]  # without NLA_F_*
        start += (length + 3) & ~3
    return found
