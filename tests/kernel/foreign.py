"""Somebody else's sock_ops program, in bare instructions, with callback flags of its own."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

# Commands and constants of bpf(2), from include/uapi/linux/bpf.h.
MAP_CREATE, MAP_LOOKUP, PROG_LOAD, PROG_ATTACH, PROG_DETACH, OBJ_GET_INFO = 0, 1, 5, 8, 9, 15
MAP_TYPE_ARRAY, PROG_TYPE_SOCK_OPS, ATTACH_SOCK_OPS, ALLOW_MULTI = 2, 13, 3, 2
OP_ACTIVE, OP_PASSIVE, OP_STATE, OP_RTT = 4, 5, 10, 12
STATE_FLAG, RTT_FLAG, CLOSE = 4, 8, 7
HELPER_LOOKUP, HELPER_FLAGS_SET = 1, 59
CTX_OP, CTX_NEW_STATE, CTX_FLAGS = 0, 8, 84  # offsets in struct bpf_sock_ops
ESTABLISHED, CLOSED, ROUND_TRIPS, FLAGS_LOST = range(4)
SYS_BPF = {"x86_64": 321, "aarch64": 280}


@dataclass(frozen=True)
class Counts:
    """What the program has seen."""

    established: int
    closed: int
    round_trips: int
    flags_lost: int


def bpf(command: int, attributes: bytes) -> int:
    """Call bpf(2); return its result or raise OSError."""
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(SYS_BPF[os.uname().machine], command, buffer, 128)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf({command})")
    return result


def instruction(
    code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0
) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | target, offset, value)


def program(map_fd: int) -> bytes:
    """Return the program: sets its flags on new connections, counts its callbacks."""
    load, store_imm, move, move_imm = 0x61, 0x62, 0xBF, 0xB7
    jump_equal, call, leave = 0x15, 0x85, 0x95

    def count(slot: int) -> bytes:
        return b"".join(
            [
                instruction(store_imm, 10, offset=-4, value=slot),
                instruction(0x18, 1, 1, value=map_fd),  # 64-bit load of a map, two slots
                instruction(0),
                instruction(move, 2, 10),
                instruction(0x07, 2, value=-4),
                instruction(call, value=HELPER_LOOKUP),
                instruction(jump_equal, 0, offset=2, value=0),
                instruction(move_imm, 1, value=1),
                instruction(0xDB, 0, 1),  # atomic add of 64 bits
            ]
        )

    end = instruction(move_imm, 0, value=1) + instruction(leave)
    established = (
        instruction(move, 1, 6)
        + instruction(load, 2, 6, CTX_FLAGS)
        + instruction(0x47, 2, value=STATE_FLAG | RTT_FLAG)
        + instruction(call, value=HELPER_FLAGS_SET)
        + count(ESTABLISHED)
        + end
    )
    lost = count(FLAGS_LOST)
    closed = (
        instruction(load, 1, 6, CTX_NEW_STATE)
        + instruction(jump_equal, 1, offset=2, value=CLOSE)
        + end
        + count(CLOSED)
        + instruction(load, 1, 6, CTX_FLAGS)
        + instruction(0x57, 1, value=STATE_FLAG | RTT_FLAG)
        + instruction(jump_equal, 1, offset=len(lost) // 8, value=STATE_FLAG | RTT_FLAG)
        + lost
        + end
    )
    round_trip = count(ROUND_TRIPS) + end
    head = [instruction(move, 6, 1), instruction(load, 7, 6, CTX_OP)]
    bodies = {OP_ACTIVE: 0, OP_PASSIVE: 0, OP_STATE: 1, OP_RTT: 2}
    code = [established, closed, round_trip]
    starts = [0, len(established) // 8, (len(established) + len(closed)) // 8]
    tests = len(bodies)
    for number, (op, body) in enumerate(bodies.items()):
        # Past the tests that follow and the `end` after them.
        distance = tests - 1 - number + 2 + starts[body]
        head.append(instruction(jump_equal, 7, offset=distance, value=op))
    return b"".join(head) + end + b"".join(code)


class Foreign:
    """The program, attached to a cgroup beside others."""

    FLAGS = ALLOW_MULTI

    def __init__(self, cgroup: Path) -> None:
        self._map = bpf(MAP_CREATE, struct.pack("=IIII", MAP_TYPE_ARRAY, 4, 8, 4))
        code = ctypes.create_string_buffer(program(self._map))
        licence = ctypes.create_string_buffer(b"GPL")
        log = ctypes.create_string_buffer(1 << 16)
        try:
            self._program = bpf(
                PROG_LOAD,
                struct.pack(
                    "=IIQQIIQ",
                    PROG_TYPE_SOCK_OPS,
                    (len(code) - 1) // 8,
                    ctypes.addressof(code),
                    ctypes.addressof(licence),
                    1,
                    len(log),
                    ctypes.addressof(log),
                ),
            )
        except OSError as error:
            raise AssertionError(log.value.decode()) from error
        self._cgroup = os.open(cgroup, os.O_RDONLY)
        self._attachment = struct.pack("=III", self._cgroup, self._program, ATTACH_SOCK_OPS)

    def __enter__(self) -> Self:
        bpf(PROG_ATTACH, self._attachment + struct.pack("=I", self.FLAGS))
        return self

    def __exit__(self, *_: object) -> None:
        bpf(PROG_DETACH, self._attachment)
        for descriptor in (self._cgroup, self._program, self._map):
            os.close(descriptor)

    @property
    def program_id(self) -> int:
        info = ctypes.create_string_buffer(8)
        bpf(OBJ_GET_INFO, struct.pack("=IIQ", self._program, len(info), ctypes.addressof(info)))
        return struct.unpack("=II", info.raw)[1]

    def counts(self) -> Counts:
        value = ctypes.create_string_buffer(8)
        found = []
        for slot in range(4):
            key = ctypes.create_string_buffer(struct.pack("=I", slot))
            bpf(
                MAP_LOOKUP,
                struct.pack(
                    "=IIQQQ", self._map, 0, ctypes.addressof(key), ctypes.addressof(value), 0
                ),
            )
            found.append(struct.unpack("=Q", value.raw)[0])
        return Counts(*found)
