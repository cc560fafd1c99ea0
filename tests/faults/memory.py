"""Readers that do not read: what plain TCP accepts and holds, and what sockaccel does."""

from __future__ import annotations

import json
import math
import select
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel.harness import IPV4_B, Host, Lab, removed
from kernel.memory import MIB, Filled, slab_memory, tcp_memory, tcp_memory_at_rest

from .build import build

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

WRITES = (16, 64, 1024, 16_384, 131_072, MIB)
CONNECTIONS = (1, 200)
_PATTERN = bytes(range(251)) * (2 * MIB // 251)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    size: int
    blocking: bool
    connections: int
    plain: Filled
    accelerated: Filled
    redirected: int
    errors: int

    @property
    def good(self) -> bool:
        """Whether both are within the factor, and send() said nothing but EAGAIN."""
        return self.accelerated.within(self.plain) and not self.errors


def fill(
    hosts: tuple[Host, Host], size: int, connections: int, *, blocking: bool
) -> tuple[Filled, int]:
    """Write until nothing goes in, measure, then read all of it back; return also the errors."""
    one, two = hosts
    listener = two.listen(IPV4_B, backlog=connections)
    port = listener.getsockname()[1]
    mode = "blocking" if blocking else "polling"
    writer = one.popen(
        build("fill.c"), IPV4_B, str(port), str(connections), str(size), mode,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    readers: list[socket.socket] = []
    try:
        assert writer.stdin
        assert writer.stdout
        readers += [listener.accept()[0] for _ in range(connections)]
        assert writer.stdout.readline() == b"connected\n"
        tcp, slab = tcp_memory_at_rest(), slab_memory()
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
        said = json.loads(writer.stdout.readline())
        filled = Filled(said["accepted"], tcp_memory() - tcp, slab_memory() - slab)
        writer.stdin.write(b"end\n")
        writer.stdin.flush()
        read = read_all(readers)
        said = json.loads(writer.stdout.readline())
        assert writer.wait(10) == 0
        assert read == said["accepted"], f"{read} bytes read, {said['accepted']} written"
        return filled, said["errors"]
    finally:
        writer.kill()
        writer.wait()
        for pipe in (writer.stdin, writer.stdout):
            if pipe:
                pipe.close()
        for sock in readers:
            sock.close()
        listener.close()


def read_all(readers: list[socket.socket]) -> int:
    """Read every stream to its end, check it, and return how many bytes there were."""
    offsets = dict.fromkeys(readers, 0)
    by_number = {sock.fileno(): sock for sock in readers}
    poller = select.poll()
    for sock in readers:
        sock.setblocking(False)
        poller.register(sock, select.POLLIN)
    total = 0
    while by_number:
        ready = poller.poll(10_000)
        assert ready, f"nothing comes any more on {len(by_number)} connections"
        for number, _ in ready:
            sock = by_number[number]
            data = sock.recv(MIB)
            if not data:
                poller.unregister(sock)
                del by_number[number]
            start = offsets[sock] % 251
            assert data == _PATTERN[start : start + len(data)], f"wrong bytes near {offsets[sock]}"
            offsets[sock] += len(data)
            total += len(data)
    return total


def table(
    lab: Lab,
    writes: tuple[int, ...] = WRITES,
    counts: tuple[int, ...] = CONNECTIONS,
    modes: tuple[bool, ...] = (False, True),
) -> Iterator[Row]:
    """Measure every combination on plain TCP and accelerated, one after the other."""
    hosts = lab.pair()
    for connections in counts:
        for size in writes:
            for blocking in modes:
                plain, wrong = fill(hosts, size, connections, blocking=blocking)
                lab.enable()
                mine, errors = fill(hosts, size, connections, blocking=blocking)
                redirected = lab.counters()["redirected_bytes"]
                lab.disable()
                yield Row(size, blocking, connections, plain, mine, redirected, wrong + errors)


def run_memory(seconds: float | None = None) -> Iterator[Row]:
    """Measure the whole table, for so many seconds at most; leave nothing behind."""
    until = time.monotonic() + (seconds or math.inf)
    with removed(Lab("accelerated")) as lab:
        for row in table(lab):
            yield row
            if time.monotonic() > until:
                break
