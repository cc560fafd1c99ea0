"""The entries of sock_ops_map, joined into connections. Pure: from records to results."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sockaccel.datapath.layout import ConnRecord, PairKey, Reason, Side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

KeyTuple = tuple[int, int, int]

_AF_INET = 2
# Our FIN has its place in the sequence space from these states on (include/net/tcp_states.h):
# FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING.
_FIN_STATES = frozenset({4, 5, 9, 11})
# ESTABLISHED, CLOSE_WAIT: nobody here has closed it.
_OPEN_STATES = frozenset({1, 8})


class State(StrEnum):
    """Which way the bytes of a connection went."""

    REDIRECT = "redirect"
    TCP = "tcp"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Container:
    """The container that an endpoint is in."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a connection. Its counters are of what it sent; sizes in bytes."""

    cookie: int
    local: str
    remote: str
    netns_cookie: int
    container: Container | None
    pid: int | None
    process: str | None
    redirected_bytes: int
    redirected_messages: int
    tcp_bytes: int
    tcp_messages: int
    reason: Reason
    """Why its last message went by TCP; NONE when it did not."""
    local_port: int
    remote_port: int


@dataclass(frozen=True, slots=True)
class Connection:
    """Two entries that are each other's peer, or one whose peer has left."""

    id: str
    state: State
    client: Endpoint | None
    server: Endpoint | None

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The ends that are there."""
        return tuple(end for end in (self.client, self.server) if end)


@dataclass(frozen=True, slots=True)
class Dump:
    """All entries of the map."""

    entries: int
    connections: tuple[Connection, ...]
    unreadable: tuple[KeyTuple, ...]
    """Keys in the map for which no record could be read."""


Owner = tuple[int | None, str | None]


def key_tuple(key: PairKey) -> KeyTuple:
    """Return a key as something that can be a key here, too."""
    return key.local_seq, key.remote_seq, key.netns


def tcp_bytes(record: ConnRecord) -> int:
    """Return how many bytes the socket has handed to TCP.

    What write_seq has moved since the handshake; a FIN takes a number without being a byte.
    write_seq is exact, modulo 2^32; bytes_acked tells how often it has wrapped.
    """
    moved = (record.write_seq - record.conn.key.local_seq - record.bytes_acked) & 0xFFFFFFFF
    if moved >= 1 << 31:
        moved -= 1 << 32
    written: int = record.bytes_acked + moved
    return max(0, written - (record.state in _FIN_STATES))


def join(
    keys: Iterable[PairKey],
    records: Iterable[ConnRecord],
    owner: Callable[[int], Owner] = lambda _: (None, None),
    containers: Mapping[int, Container] | None = None,
) -> Dump:
    """Join the entries of the map with what is known of their sockets.

    Args:
        keys: the keys in the map.
        records: what the iterator says; sockets that have left the map are passed over, those
            that the policy has kept out of it are not.
        owner: from the inode of a socket to the pid and the name of the process that holds it.
        containers: by namespace cookie.

    """
    wanted = dict.fromkeys(key_tuple(key) for key in keys)
    by_key = {}
    for record in records:
        key = key_tuple(record.conn.key)
        # A record without its entry: closed by its process, or the entry is newer than the walk.
        if record.in_map:
            by_key[key] = record
            wanted[key] = None
        elif record.conn.refused and record.state in _OPEN_STATES:
            by_key[key] = record
    connections = []
    for key, record in by_key.items():
        peer_key = (key[1], key[0], key[2])
        peer = by_key.get(peer_key)
        is_client = record.conn.side == Side.CLIENT
        if peer is not None and not is_client:
            continue  # shown with its client
        ends = [
            _endpoint(each, owner, containers or {}) if each is not None else None
            for each in ((record, peer) if is_client else (None, record))
        ]
        client_key = key if is_client else peer_key
        connections.append(
            Connection(f"{client_key[0]:08x}{client_key[1]:08x}", _state(ends), ends[0], ends[1])
        )
    unreadable = tuple(key for key in wanted if key not in by_key)
    return Dump(len(wanted), tuple(connections), unreadable)


def _state(ends: Sequence[Endpoint | None]) -> State:
    redirected = sum(end.redirected_bytes for end in ends if end)
    by_tcp = sum(end.tcp_bytes for end in ends if end)
    if redirected:
        return State.MIXED if by_tcp else State.REDIRECT
    refused = any(end.reason.is_policy for end in ends if end)
    return State.TCP if by_tcp or refused or None in ends else State.REDIRECT


def _endpoint(
    record: ConnRecord, owner: Callable[[int], Owner], containers: Mapping[int, Container]
) -> Endpoint:
    conn = record.conn
    pid, process = owner(record.inode) if record.inode else (None, None)
    remote_port = socket.ntohs(record.remote_port)
    return Endpoint(
        cookie=conn.cookie,
        local=_address(record.family, record.local_ip4, record.local_ip6, record.local_port),
        remote=_address(record.family, record.remote_ip4, record.remote_ip6, remote_port),
        netns_cookie=conn.netns,
        container=containers.get(conn.netns),
        pid=pid,
        process=process,
        redirected_bytes=conn.redirected_bytes,
        redirected_messages=conn.redirected_messages,
        tcp_bytes=tcp_bytes(record),
        tcp_messages=conn.tcp_messages,
        reason=Reason(conn.last_reason),
        local_port=record.local_port,
        remote_port=remote_port,
    )


def _address(family: int, ip4: Iterable[int], ip6: Iterable[int], port: int) -> str:
    packed = bytes(ip6)
    if family == _AF_INET:
        return f"{socket.inet_ntop(socket.AF_INET, bytes(ip4))}:{port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]:{port}"
