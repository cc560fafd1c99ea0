"""Lists of TCP ports, as in ``--ports 80,8000-8999`` and the label ``sockaccel.ports``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sockaccel.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LAST = 65535
_BITMAP_BYTES = (_LAST + 1) // 8
_HINT = "--ports 80,8000-8999"


@dataclass(frozen=True, slots=True)
class PortSet:
    """A set of ports. Equal sets are equal however they were written.

    ranges: first and last port of each range, ascending, with gaps between them;
    parse_ports() makes it so.
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

    def to_bitmap(self) -> bytes:
        """Return 8192 bytes in which port p is bit p % 8 of byte p // 8.

        Read as little-endian words of 64 bits, port p is bit p % 64 of word p // 64.
        """
        bits = 0
        for first, last in self.ranges:
            bits |= ((1 << (last - first + 1)) - 1) << first
        return bits.to_bytes(_BITMAP_BYTES, "little")


def parse_ports(text: str) -> PortSet:
    """Return the ports that a list like ``80,8000-8999`` names.

    Raises InputError, naming the item, for whatever is not a port or an ascending range
    within 1..65535, and for an empty list.
    """
    if not text.strip():
        raise InputError(f"cannot use ports '{text}': the list is empty", _HINT)
    merged: list[tuple[int, int]] = []
    for first, last in sorted(_range(item, text) for item in text.split(",")):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return PortSet(tuple(merged))


def _range(item: str, text: str) -> tuple[int, int]:
    first, dash, last = (part.strip() for part in item.partition("-"))
    ends = (first, last) if dash else (first, first)
    # Short and ASCII first: int() takes much that is no port, and has a limit of digits.
    if all(end.isascii() and end.isdecimal() and len(end) <= len(str(_LAST)) for end in ends):
        low, high = map(int, ends)
        if 1 <= low <= high <= _LAST:
            return low, high
    raise InputError(
        f"cannot use ports '{text}': '{item.strip()}' is not a port or a range within 1-{_LAST}",
        _HINT,
    )
