"""Numbers and names for people."""

import math

SHORT_ID = 12
"""Digits of a container's id that `docker ps` prints, and people read."""

_STEP = 1024
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def bytes_text(number: int) -> str:
    """Return a size such as ``12.3 MiB``; exact below 1 KiB."""
    if number < _STEP:
        return f"{number} B"
    value = float(number)
    exponent = 0
    # What would be shown as 1024.0 is 1.0 of the next unit.
    while round(value, 1) >= _STEP and exponent < len(_UNITS):
        value /= _STEP
        exponent += 1
    return f"{value:.1f} {_UNITS[exponent - 1]}"


def duration_text(seconds: float) -> str:
    """Return a time such as ``42 s``, ``5 min``, ``3 h`` or ``2 d``; rounded down."""
    whole = max(0, int(seconds))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if whole >= 2 * size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def who_text(scope: str, namespaces: int) -> str:
    """Return for whom it is on."""
    if scope == "all":
        return "every network namespace"
    return f"{namespaces} network namespace{'s' * (namespaces != 1)}"


def times_text(ratio: float) -> str:
    """Return a ratio with the digits that its size can bear."""
    if ratio < 0.001:
        return "<0.001x"
    return f"{ratio:.2f}x" if ratio >= 0.1 else f"{ratio:.3f}x"


def value_text(value: float) -> str:
    """Return a figure with three digits, or all that stand before the point."""
    if value == 0:
        return "0"
    decimals = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{decimals}f}"


def figure_text(value: float, unit: str) -> str:
    """Return a figure of a benchmark in its unit; sizes and ratios bring their own."""
    if unit == "x":
        return times_text(value)
    return bytes_text(round(value)) if unit in ("bytes", "bytes/s") else value_text(value)


def short_text(value: float) -> str:
    """Return a round figure in few characters: 40k, 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def percent_text(share: float) -> str:
    """Return a share as a percentage, rounded down: "at least" must hold."""
    return f"{int(share * 1000) / 10}%"
