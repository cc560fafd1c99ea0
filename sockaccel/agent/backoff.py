"""How long to wait before the next attempt. Pure: chance is an argument."""

from __future__ import annotations

from random import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Backoff:
    """Doubles the wait after each short run; a run that lasted starts again from the first.

    Half of each wait is left to chance, so that many who lost the same daemon do not come
    back at once.
    """

    def __init__(
        self,
        first_s: float,
        most_s: float,
        lasted_s: float,
        chance: Callable[[], float] = random,
    ) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._lasted_s = lasted_s
        self._chance = chance
        self._next_s = first_s

    def after(self, ran_s: float) -> float:
        """Return the seconds to wait after a run of so many seconds."""
        if ran_s >= self._lasted_s:
            self._next_s = self._first_s
        wait_s = self._next_s
        self._next_s = min(2 * wait_s, self._most_s)
        return wait_s * (0.5 + 0.5 * self._chance())
