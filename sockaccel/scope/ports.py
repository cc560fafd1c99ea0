"""Lists of TCP ports, as in ``--ports 80,8000-8999`` and the label ``sockaccel.ports``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sockaccel.errors import InputError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LAST = 65535
_PORT_BITS = 16
_BITMAP_BYTES = (_LAST + 1) // 8
_HINT = "--ports 80,8000-8999"


@dataclass(frozen=True, slots=True)
class PortSet:
    """A set of ports. Equal sets are equal however they were written.

    ranges: first and last port of each range, ascending, with gaps between them;
    port_set() makes it so.
    """

    ranges: tuple[tuple[int, int], ...]

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and any(first <= port <= last for first, last in self.ranges)

    def __iter__(self) -> Iterator[int]:
        for first, last in self.ranges:
            yield from range(first, last + 1)

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)

    def __str__(self) -> str:
        return ",".join(
            str(first) if first == last else f"{first}-{last}" for first, last in self.ranges
        )

    def __and__(self, other: PortSet) -> PortSet:
        """Return the ports that both hold."""
        return PortSet(
            tuple(
                (max(mine[0], theirs[0]), min(mine[1], theirs[1]))
                for mine in self.ranges
                for theirs in other.ranges
                if mine[0] <= theirs[1] and theirs[0] <= mine[1]
            )
        )

    def prefixes(self) -> Iterator[tuple[int, int]]:
        """Yield the set as prefixes: a first port, and how many of its 16 bits are fixed."""
        for first, last in self.ranges:
            start = first
            while start <= last:
                # The largest block that begins here, by its alignment and by what is left.
                free = min(
                    (start & -start or _LAST + 1).bit_length(), (last - start + 1).bit_length()
                )
                yield start, _PORT_BITS + 1 - free
                start += 1 << (free - 1)

    def to_bitmap(self) -> bytes:
        """Return 8192 bytes in which port p is bit p % 8 of byte p // 8.

        Read as little-endian words of 64 bits, port p is bit p % 64 of word p // 64.
        """
        bits = 0
        for first, last in self.ranges:
            bits |= ((1 << (last - first + 1)) - 1) << first
        return bits.to_bytes(_BITMAP_BYTES, "little")


def parse_ports(text: str, what: str = "ports") -> PortSet:
    """Return the ports that a list like ``80,8000-8999`` names.

    what: how the error calls the list. Raises InputError, naming the item, for whatever is
    not a port or an ascending range within 1..65535, and for an empty list.
    """
    if not text.strip():
        raise InputError(f"cannot use {what} '{one_line(text)}': the list is empty", _HINT)
    return port_set(_range(item, text, what) for item in text.split(","))


def port_set(ranges: Iterable[tuple[int, int]]) -> PortSet:
    """Return the set of all ports in these ranges, which may overlap."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return PortSet(tuple(merged))


def from_prefixes(prefixes: Iterable[tuple[int, int]]) -> PortSet:
    """Return the set that PortSet.prefixes() was made of."""
    return port_set((first, first + (1 << (_PORT_BITS - length)) - 1) for first, length in prefixes)


def _range(item: str, text: str, what: str) -> tuple[int, int]:
    first, dash, last = (part.strip() for part in item.partition("-"))
    ends = (first, last) if dash else (first, first)
    # Short and ASCII first: int() takes much that is no port, and has a limit of digits.
    if all(end.isascii() and end.isdecimal() and len(end) <= len(str(_LAST)) for end in ends):
        low, high = map(int, ends)
        if 1 <= low <= high <= _LAST:
            return low, high
    raise InputError(
        f"cannot use {what} '{one_line(text)}': '{one_line(item.strip())}' is not a port or a "
        f"range within 1-{_LAST}",
        _HINT,
    )
