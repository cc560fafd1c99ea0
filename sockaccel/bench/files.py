"""What benchmarks/ holds: scenarios, comparators, load generators, scripts."""

from __future__ import annotations

from pathlib import Path

from sockaccel.errors import HostError


def directory() -> Path:
    """Return benchmarks/: inside the package once installed, beside it in a source tree."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "benchmarks"
    return installed if installed.is_dir() else package.parent / "benchmarks"


def find(name: str) -> Path:
    """Return a file of benchmarks/.

    Raises:
        HostError: it is missing.

    """
    path = directory() / name
    if not path.is_file():
        raise HostError(f"cannot use '{path}': it is missing", "install sockaccel again")
    return path
