"""Numbers and names for people."""

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


def who_text(scope: str, namespaces: int) -> str:
    """Return for whom it is on."""
    if scope == "all":
        return "every network namespace"
    return f"{namespaces} network namespace{'s' * (namespaces != 1)}"
