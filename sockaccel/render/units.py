"""Numbers and names for people."""

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
