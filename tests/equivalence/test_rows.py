"""Hazards that are no behaviour of one socket next to another's."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kernel.foreign import (
    ALLOW_MULTI,
    ATTACH_SOCK_OPS,
    CTX_OP,
    MAP_CREATE,
    MAP_LOOKUP,
    OP_ACTIVE,
    OP_PASSIVE,
    PROG_ATTACH,
    PROG_DETACH,
    PROG_LOAD,
    PROG_TYPE_SOCK_OPS,
    bpf,
    instruction,
)
from kernel.harness import IPV4_B, Lab, cookie, receive, removed

if TYPE_CHECKING:
    from collections.abc import Iterator

BPF = Path(__file__).parents[2] / "bpf"
MAP_TYPE_SOCKHASH, PROG_TYPE_SK_MSG, ATTACH_SK_MSG = 18, 16, 7
HELPER_COOKIE, HELPER_SOCK_HASH_UPDATE = 46, 70


def code_lines() -> Iterator[str]:
    for path in [*BPF.glob("*.c"), *BPF.glob("*.h")]:
        yield from re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL).splitlines()


def test_the_programs_never_apply_or_cork() -> None:
    """Row 17: apply_bytes and cork_bytes have been a source of use after free."""
    lines = list(code_lines())
    assert any("msg_redirect_hash" in line for line in lines), "this is not the source"
    assert not [line for line in lines if re.search(r"(apply|cork)_bytes", line)]


class Owner:
    """Another product: enrols every socket of a cgroup in its own map, with its own sk_msg."""

    def __init__(self, cgroup: Path) -> None:
        self._descriptors: list[int] = []
        self._map = self._keep(bpf(MAP_CREATE, struct.pack("=IIII", MAP_TYPE_SOCKHASH, 8, 8, 64)))
        leave = instruction(0xB7, 0, value=1) + instruction(0x95)
        verdict = self._load(PROG_TYPE_SK_MSG, leave)
        bpf(PROG_ATTACH, struct.pack("=IIII", self._map, verdict, ATTACH_SK_MSG, 0))
        enrol = b"".join(
            [
                instruction(0x85, value=HELPER_COOKIE),  # of the context, still in r1
                instruction(0x7B, 10, 0, offset=-8),
                instruction(0xBF, 1, 6),
                instruction(0x18, 2, 1, value=self._map),
                instruction(0),
                instruction(0xBF, 3, 10),
                instruction(0x07, 3, value=-8),
                instruction(0xB7, 4, value=0),
                instruction(0x85, value=HELPER_SOCK_HASH_UPDATE),
            ]
        )
        program = b"".join(
            [
                instruction(0xBF, 6, 1),
                instruction(0x61, 7, 6, CTX_OP),
                instruction(0x15, 7, offset=1, value=OP_ACTIVE),
                instruction(0x55, 7, offset=len(enrol) // 8, value=OP_PASSIVE),
                enrol,
                leave,
            ]
        )
        self._program = self._load(PROG_TYPE_SOCK_OPS, program)
        self._cgroup = self._keep(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY))
        target = struct.pack("=IIII", self._cgroup, self._program, ATTACH_SOCK_OPS, ALLOW_MULTI)
        bpf(PROG_ATTACH, target)

    def _keep(self, descriptor: int) -> int:
        self._descriptors.append(descriptor)
        return descriptor

    def _load(self, kind: int, code: bytes) -> int:
        text, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
        addresses = (ctypes.addressof(text), ctypes.addressof(licence))
        return self._keep(bpf(PROG_LOAD, struct.pack("=IIQQ", kind, len(code) // 8, *addresses)))

    def has(self, number: int) -> bool:
        """Return whether the socket with this cookie is in its map."""
        key, room = ctypes.create_string_buffer(struct.pack("=Q", number)), ctypes.c_uint64()
        try:
            addresses = (ctypes.addressof(key), ctypes.addressof(room))
            bpf(MAP_LOOKUP, struct.pack("=IxxxxQQ", self._map, *addresses))
        except FileNotFoundError:
            return False
        return room.value == number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        bpf(PROG_DETACH, struct.pack("=III", self._cgroup, self._program, ATTACH_SOCK_OPS))
        for descriptor in self._descriptors:
            os.close(descriptor)


def test_a_socket_of_another_owner_stays_with_it() -> None:
    """Row 18: who was first keeps the socket; it works, by TCP, and the reason is counted."""
    with removed(Lab("accelerated")) as lab, Owner(lab.cgroup) as owner:
        one, two = lab.pair()
        lab.enable()
        client, server = lab.connect(one, two.listen(IPV4_B))
        assert owner.has(cookie(client))
        assert owner.has(cookie(server))
        for number in range(23):
            for sender, receiver in ((client, server), (server, client)):
                sender.sendall(b"%04d" % number)
                assert receive(receiver, 4) == b"%04d" % number
        assert owner.has(cookie(client))
        counters = lab.counters()
        assert counters["redirected_bytes"] == 0
        assert counters["fallbacks"]["foreign-owner"] > 0
        lab.close_sockets()
