"""The machine and the programs that a result belongs to."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from sockaccel import __version__
from sockaccel.bench.process import find_tool, run


def describe_machine() -> dict[str, Any]:
    """Return what a figure depends on, and nothing that names the machine."""
    return {
        "cpu": _first("/proc/cpuinfo", r"^model name\s*:\s*(.+)$") or platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": int(_first("/proc/meminfo", r"^MemTotal:\s*(\d+) kB$") or 0) * 1024,
        "architecture": platform.machine(),
        "kernel": platform.release(),
    }


def describe_versions() -> dict[str, str | None]:
    """Return the versions of what took part."""
    return {
        "sockaccel": __version__,
        "python": platform.python_version(),
        "nginx": _version("nginx", "-v"),
        "wrk": _version("wrk", "-v"),
        "iproute2": _version("ip", "-V"),
    }


def _version(program: str, option: str) -> str | None:
    # nginx and wrk tell on stderr, and wrk calls it a usage error.
    done = run([find_tool(program), option])
    found = re.search(r"\d+(?:\.\d+)+", done.stdout + done.stderr)
    return found.group() if found else None


def _first(path: str, pattern: str) -> str | None:
    try:
        found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    except OSError:
        return None
    return found.group(1).strip() if found else None
