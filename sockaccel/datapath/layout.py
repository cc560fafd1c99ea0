"""Mirrors of bpf/layout.h. Sizes are asserted here and there; tests compare the fields."""

from __future__ import annotations

import ctypes
from enum import IntEnum, IntFlag


class Reason(IntEnum):
    """Why something went by TCP. The labels are part of the interface."""

    NONE = 0
    OUT_OF_SCOPE = 1
    REMOTE = 2
    NO_PEER = 3
    PEER_OUT_OF_SCOPE = 4
    MPTCP = 5
    MAP_FULL = 6
    FOREIGN_OWNER = 7
    KERNEL = 8
    BACK_PRESSURE = 9
    UNREAD_TCP = 10
    SMALL_WRITES = 11
    DISABLED = 12
    ULP = 13
    SHARED_WRITERS = 14

    @property
    def label(self) -> str:
        """The name that `status` and `dump` print."""
        return self.name.lower().replace("_", "-")


REASON_SLOTS = 16


class Counter(IntEnum):
    """Indices of the map `counters`."""

    PAIRED = 0
    UNPAIRED = 1
    REDIRECTED_BYTES = 2
    REDIRECTED_MESSAGES = 3
    TCP_BYTES = 4
    TCP_MESSAGES = 5
    REASON = 8
    """Plus a Reason."""


COUNTER_SLOTS = Counter.REASON + REASON_SLOTS


class Side(IntEnum):
    """Which end of the connection a socket is."""

    CLIENT = 0
    SERVER = 1


class ConfigFlags(IntFlag):
    """Bits of Config.flags."""

    ENABLED = 1
    SCOPE_ALL = 2
    PORTS = 4


class PairKey(ctypes.Structure):
    """Key of sock_ops_map."""

    _fields_ = (
        ("local_seq", ctypes.c_uint32),
        ("remote_seq", ctypes.c_uint32),
        ("netns", ctypes.c_uint64),
    )


class Config(ctypes.Structure):
    """The one element of the map `config`."""

    _fields_ = (
        ("flags", ctypes.c_uint32),
        ("scope_epoch", ctypes.c_uint32),
        ("instance", ctypes.c_uint64),
    )


class Network(ctypes.Structure):
    """Key of the map `local_networks`."""

    _fields_ = (("prefix_len", ctypes.c_uint32), ("address", ctypes.c_uint8 * 16))


class Conn(ctypes.Structure):
    """What the kernel keeps for an enrolled socket."""

    _fields_ = (
        ("key", PairKey),
        ("peer_sk", ctypes.c_uint64),
        ("peer_cookie", ctypes.c_uint64),
        ("peer_netns", ctypes.c_uint64),
        ("sk", ctypes.c_uint64),
        ("cookie", ctypes.c_uint64),
        ("netns", ctypes.c_uint64),
        ("redirected_bytes", ctypes.c_uint64),
        ("redirected_messages", ctypes.c_uint64),
        ("tcp_bytes", ctypes.c_uint64),
        ("tcp_messages", ctypes.c_uint64),
        ("tcp_seq", ctypes.c_uint32),
        ("scope_epoch", ctypes.c_uint32),
        ("side", ctypes.c_uint32),
        ("last_reason", ctypes.c_uint32),
        ("reasons", ctypes.c_uint32 * REASON_SLOTS),
        ("writer", ctypes.c_uint64),
        ("queued_seq", ctypes.c_uint32),
        ("sharing", ctypes.c_uint16),
        ("quiet", ctypes.c_uint16),
    )


class ConnRecord(ctypes.Structure):
    """One record of the iterator `connections`."""

    _fields_ = (
        ("conn", Conn),
        ("inode", ctypes.c_uint64),
        ("write_seq", ctypes.c_uint32),
        ("family", ctypes.c_uint16),
        ("local_port", ctypes.c_uint16),
        ("remote_port", ctypes.c_uint16),
        ("state", ctypes.c_uint8),
        ("in_map", ctypes.c_uint8),
        ("local_ip4", ctypes.c_uint8 * 4),
        ("remote_ip4", ctypes.c_uint8 * 4),
        ("local_ip6", ctypes.c_uint8 * 16),
        ("remote_ip6", ctypes.c_uint8 * 16),
        ("pad", ctypes.c_uint32),
    )


OPTIONS_SIZE = 16384
PORTS_SIZE = 8192

for _structure, _size in (
    (PairKey, 16),
    (Config, 16),
    (Network, 20),
    (Conn, 192),
    (ConnRecord, 256),
):
    assert ctypes.sizeof(_structure) == _size, _structure
