"""Joins a burst of rings into one. Pure: the clock is an argument, in seconds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from sockaccel.errors import InputError

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s)", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0}
_MOST_S = 60.0


@dataclass(frozen=True)
class Window:
    """How long to wait: until it has been quiet for `min_s`, but at most `max_s` in all."""

    min_s: float
    max_s: float

    def __str__(self) -> str:
        return f"{_shown(self.min_s)}:{_shown(self.max_s)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the window that ``MIN:MAX`` says, such as ``5ms:50ms`` or ``0.5s:2s``.

        Raises:
            InputError: it says none; at most 60 s.

        """
        found = [_DURATION.fullmatch(part.strip()) for part in text.split(":")]
        times = [float(each[1]) * _UNITS[each[2]] for each in found if each]
        if len(found) == len(times) == 2 and times[0] <= times[1] <= _MOST_S:
            return cls(times[0], times[1])
        raise InputError(
            f"cannot use debounce window '{text}': it is not MIN:MAX with "
            f"MIN <= MAX <= {_MOST_S:g}s, each in ms or s",
            f"--debounce {DEFAULT}",
        )


# Short: connections that a container opens before it is in scope stay on TCP.
DEFAULT = Window(0.002, 0.05)


class Debounce:
    """Rings any number of times, is due once."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self._first: float | None = None
        self._last = 0.0

    def ring(self, now: float) -> None:
        """Note that something happened."""
        if self._first is None:
            self._first = now
        self._last = now

    @property
    def due_at(self) -> float | None:
        """When to act; None: nothing has happened."""
        if self._first is None:
            return None
        return min(self._last + self.window.min_s, self._first + self.window.max_s)

    def take(self, now: float) -> bool:
        """Return whether to act now, and if so forget what happened."""
        due = self.due_at
        if due is None or now < due:
            return False
        self.forget()
        return True

    def forget(self) -> None:
        """Take it that nothing has happened."""
        self._first = None


def _shown(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"
