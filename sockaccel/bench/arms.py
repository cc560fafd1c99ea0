"""The arms of a comparison, and the order in which they run. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

T = TypeVar("T")


class Arm(StrEnum):
    """What carries the bytes; nothing else differs between the runs of a round."""

    BASELINE = "baseline"
    ACCELERATED = "accelerated"
    TEXTBOOK = "textbook"
    UNIX = "unix"

    @property
    def label(self) -> str:
        """What a person calls it."""
        return _LABELS[self]


_LABELS = {
    Arm.BASELINE: "plain TCP",
    Arm.ACCELERATED: "accelerated",
    Arm.TEXTBOOK: "textbook, unsafe",
    Arm.UNIX: "Unix socket",
}


def balanced_order(arms: Sequence[T], rounds: int, rng: random.Random) -> list[tuple[T, ...]]:
    """Return the order of the arms in each round, at random.

    Each arm comes equally often in each place and equally often right after each other
    arm, so that what a run leaves behind falls on all alike; exactly so where the number
    of rounds is a multiple of the number of arms, of twice that if it is odd.
    """
    order: list[tuple[T, ...]] = []
    while len(order) < rounds:
        named = list(arms)
        rng.shuffle(named)
        block = [tuple(named[place] for place in row) for row in _williams(len(named))]
        rng.shuffle(block)
        order += block[: rounds - len(order)]
    rng.shuffle(order)
    return order


def _williams(count: int) -> list[list[int]]:
    """Return Williams' square: rows balanced for place and for what goes before."""
    first = [(step + 1) // 2 if step % 2 else (count - step // 2) % count for step in range(count)]
    square = [[(place + row) % count for place in first] for row in range(count)]
    return square if count % 2 == 0 else square + [row[::-1] for row in square]
