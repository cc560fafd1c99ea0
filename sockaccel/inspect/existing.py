"""What is older than `enable`: local connections, which stay on TCP, and listeners."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from sockaccel.datapath.layout import Side
from sockaccel.datapath.programs import program_key
from sockaccel.errors import InputError
from sockaccel.inspect.processes import owners
from sockaccel.inspect.sockdiag import LISTEN, TcpSocket, tcp_sockets
from sockaccel.scope.netns import Namespace, in_netns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sockaccel.datapath.layout import ProgramKey
    from sockaccel.scope.ports import PortSet

Endpoint = tuple[str, int]


def count_existing_local(namespaces: Iterable[Namespace], ports: PortSet | None = None) -> int:
    """Return how many established TCP connections have both ends in the given namespaces.

    Raises NotPermittedError, and OSError when the kernel does not list the sockets. A
    namespace that has gone has no connections.
    """
    return count_pairs(_tables(namespaces), ports)


def count_older(
    added: Iterable[Namespace], others: Iterable[Namespace], ports: PortSet | None = None
) -> int:
    """Return how many of these connections have an end in one of the added namespaces.

    The others are looked at only if there can be one. Raises as count_existing_local() does.
    """
    new = _tables(added)
    if not any(new):
        return 0
    old = _tables(others)
    return count_pairs([*new, *old], ports) - count_pairs(old, ports)


def existing_listeners(namespaces: Iterable[Namespace]) -> dict[int, ProgramKey]:
    """Return which program each listening TCP socket is, by the socket's cookie.

    Raises as count_existing_local() does. Sockets of processes that are hidden, or gone
    meanwhile, are missing.
    """
    sockets: dict[int, int] = {}
    for namespace in namespaces:
        try:
            found = in_netns(namespace.path, lambda: tcp_sockets((LISTEN,)))
        except InputError:
            continue
        sockets.update({each.cookie: each.inode for each in found if each.inode})
    holders = owners(set(sockets.values()))
    programs = {}
    for cookie, inode in sockets.items():
        if inode in holders:
            with suppress(OSError):
                programs[cookie] = program_key(holders[inode].pid, Side.SERVER)
    return programs


def count_pairs(tables: Iterable[Iterable[TcpSocket]], ports: PortSet | None = None) -> int:
    """Return how many connections the sockets form; each table is a namespace's.

    Two sockets are the ends of one connection when their addresses mirror each other; through
    NAT they do not, so such connections are missed. Loopback connections do not leave their
    namespace. Which end listens is not known any more: one port within `ports` is enough.
    """
    ends: Counter[tuple[int | None, Endpoint, Endpoint]] = Counter()
    for index, table in enumerate(tables):
        for end in {end.cookie: end for end in table}.values():  # a dump may repeat itself
            local, remote = _plain(end.local), _plain(end.remote)
            namespace = index if _is_loopback(local) or _is_loopback(remote) else None
            if ports is None or local[1] in ports or remote[1] in ports:
                ends[namespace, local, remote] += 1
    return sum(
        min(number, ends.get((namespace, remote, local), 0))
        for (namespace, local, remote), number in ends.items()
        if local < remote  # each connection once; a socket connected to itself never
    )


def _tables(namespaces: Iterable[Namespace]) -> list[list[TcpSocket]]:
    tables = []
    for namespace in {namespace.cookie: namespace for namespace in namespaces}.values():
        try:
            tables.append(in_netns(namespace.path, tcp_sockets))
        except InputError:
            continue
    return tables


def _plain(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint with a v4-mapped address as plain IPv4."""
    address, port = endpoint
    mapped = address.startswith("::ffff:") and "." in address
    return (address.removeprefix("::ffff:"), port) if mapped else endpoint


def _is_loopback(endpoint: Endpoint) -> bool:
    return endpoint[0].startswith("127.") or endpoint[0] == "::1"
