"""What the kernel holds for TCP, and how much more of it is still of the same order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = 4096
MIB = 1 << 20
FACTOR = 4
# Other work on the machine takes and gives back kernel memory meanwhile.
NOISE = 4 * MIB


def tcp_memory() -> int:
    """Return what all TCP sockets of the machine hold, as the kernel accounts for it."""
    found = re.search(r"^TCP:.* mem (\d+)$", Path("/proc/net/sockstat").read_text(), re.M)
    assert found
    return int(found[1]) * PAGE


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
