"""What the kernel holds for TCP, and how much more of it is still of the same order."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

PAGE = 4096
MIB = 1 << 20
FACTOR = 4
# Other work on the machine takes and gives back kernel memory meanwhile.
NOISE = 4 * MIB


def _sockstat(name: str) -> int:
    found = re.search(rf"^TCP:.* {name} (\d+)", Path("/proc/net/sockstat").read_text(), re.M)
    assert found
    return int(found[1])


def tcp_memory() -> int:
    """Return what all TCP sockets of the machine hold, as the kernel accounts for it."""
    return _sockstat("mem") * PAGE


def tcp_memory_at_rest(timeout: float = 60) -> int:
    """Return what TCP holds once the sockets of before have given theirs back.

    The figure is the machine's. A closed socket with bytes that its peer never took keeps them
    until its timers end, also past the end of its namespace: it is an orphan, and the kernel
    counts those.
    """
    deadline = time.monotonic() + timeout
    while _sockstat("orphan") and time.monotonic() < deadline:
        time.sleep(0.1)
    last = tcp_memory()
    while time.monotonic() < deadline:
        time.sleep(0.25)
        now = tcp_memory()
        if now >= last:
            break
        last = now
    return last


def slab_memory() -> int:
    """Return the size of the slabs that hold buffers and the records of redirected messages."""
    total = 0
    for line in Path("/proc/slabinfo").read_text().splitlines()[2:]:
        name, *numbers = line.split()
        if name.startswith(("kmalloc-", "skbuff_")):
            pages_per_slab = int(numbers[4])
            slabs = int(numbers[numbers.index("slabdata") + 2])
            total += slabs * pages_per_slab * PAGE
    return total


@dataclass
class Filled:
    """What a writer got rid of while its reader slept."""

    accepted: int
    tcp_memory: int
    slab_memory: int

    @property
    def memory(self) -> int:
        return max(self.tcp_memory, 0) + max(self.slab_memory, 0)

    def within(self, plain: Filled) -> bool:
        """Say whether it is of the same order as plain TCP's."""
        return (
            self.accepted <= FACTOR * plain.accepted
            and self.memory <= FACTOR * plain.memory + NOISE
        )
