"""Numbers for people."""

_STEP = 1024
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def bytes_text(number: int) -> str:
    """Return a size such as ``12.3 MiB``; exact below 1 KiB."""
    if number < _STEP:
        return f"{number} B"
    exponent = min((number.bit_length() - 1) // 10, len(_UNITS))
    return f"{number / _STEP**exponent:.1f} {_UNITS[exponent - 1]}"
