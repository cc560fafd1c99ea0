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
    DEFERRED_ACCEPT = 9
    POLICY_SPLICE = 10
    POLICY_FIONREAD = 11
    POLICY_BLOCKING = 12
    POLICY_UNUSUAL = 13
    POLICY_USER = 14
    POLICY_UNKNOWN = 15
    BACK_PRESSURE = 16
    UNREAD_TCP = 17
    SMALL_WRITES = 18
    DISABLED = 19
    ULP = 20
    SHARED_WRITERS = 21
    CONNTRACK = 22
    ZEROCOPY = 23

    @property
    def label(self) -> str:
        """The name that `status` and `dump` print."""
        return self.name.lower().replace("_", "-")

    @property
    def is_policy(self) -> bool:
        """Whether it is about the program at one of the ends."""
        return Reason.POLICY_SPLICE <= self <= Reason.POLICY_UNKNOWN

    @property
    def per_message(self) -> bool:
        """Whether it is counted for messages; the others are for connections."""
        return self >= Reason.BACK_PRESSURE


REASON_SLOTS = 32
MESSAGE_REASONS = 8


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
PROGRAM_NAME_SIZE = 16
MAX_KNOWN_PROGRAMS = 1024
ARGUMENTS_SIZE = 256


class Side(IntEnum):
    """Which end of the connection a socket is."""

    CLIENT = 0
    SERVER = 1


class ConfigFlags(IntFlag):
    """Bits of Config.flags."""

    ENABLED = 1
    SCOPE_ALL = 2
    PORTS = 4
    POLICY_ALL = 8
    ONE_QUEUE = 16
    FIONREAD = 32


class ScopeFlags(IntFlag):
    """The values of the map `scope`."""

    MEMBER = 1
    POLICY_ALL = 2
    PORTS = 4
    BY_DOCKER = 8
    BY_NETNS = 16


class LocalFlags(IntFlag):
    """The values of the map `local_networks`."""

    PRESENT = 1
    OURS = 2


class OverrideValue(IntEnum):
    """The values of the map `overrides`."""

    EXCLUDE = 1
    INCLUDE = 2


class Trait(IntFlag):
    """What a program is known to do with its sockets."""

    RECV = 1
    SPLICE = 2
    BLOCKING = 4
    UNUSUAL = 8
    FIONREAD = 16
    FORCED = 32
    REFUSED = 64
    NEVER = 128


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


class NetnsPort(ctypes.Structure):
    """Key of the map `netns_ports`."""

    _fields_ = (
        ("prefix_len", ctypes.c_uint32),
        ("netns", ctypes.c_uint8 * 8),
        ("port", ctypes.c_uint8 * 2),
        ("pad", ctypes.c_uint8 * 2),
    )


class ProgramKey(ctypes.Structure):
    """Key of the map `programs`: which program, as client or as server."""

    _fields_ = (
        ("name", ctypes.c_char * PROGRAM_NAME_SIZE),
        ("size", ctypes.c_uint64),
        ("mtime", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64),
        ("side", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class Program(ctypes.Structure):
    """What was learned of a program."""

    _fields_ = (
        ("earned", ctypes.c_uint8),
        ("splice", ctypes.c_uint8),
        ("blocking", ctypes.c_uint8),
        ("unusual", ctypes.c_uint8),
        ("connections", ctypes.c_uint32),
    )

    @property
    def traits(self) -> Trait:
        """The same as bits."""
        return Trait(
            (self.earned and Trait.RECV)
            | (self.splice and Trait.SPLICE)
            | (self.blocking and Trait.BLOCKING)
            | (self.unusual and Trait.UNUSUAL)
        )


class Conn(ctypes.Structure):
    """What the kernel keeps for an end in scope: enrolled, or kept on TCP by the policy."""

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
        ("tcp_messages", ctypes.c_uint64),
        ("scope_epoch", ctypes.c_uint32),
        ("side", ctypes.c_uint32),
        ("last_reason", ctypes.c_uint32),
        ("refused", ctypes.c_uint32),
        ("reasons", ctypes.c_uint32 * MESSAGE_REASONS),
        ("writer", ctypes.c_uint64),
        ("queued_seq", ctypes.c_uint32),
        ("sharing", ctypes.c_uint16),
        ("quiet", ctypes.c_uint16),
        ("refresh_at", ctypes.c_uint64),
        ("refresh_ns", ctypes.c_uint64),
        ("program", ProgramKey),
        ("peer_rmem_max", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("watch", ctypes.c_uint32),
        ("reads", ctypes.c_uint32),
    )


class ConnRecord(ctypes.Structure):
    """One record of the iterator `connections`."""

    _fields_ = (
        ("conn", Conn),
        ("inode", ctypes.c_uint64),
        ("bytes_acked", ctypes.c_uint64),
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
CONTAINER_NAME_SIZE = 128

for _structure, _size in (
    (PairKey, 16),
    (Config, 16),
    (Network, 20),
    (NetnsPort, 16),
    (ProgramKey, 48),
    (Program, 8),
    (Conn, 232),
    (ConnRecord, 304),
):
    assert ctypes.sizeof(_structure) == _size, _structure
