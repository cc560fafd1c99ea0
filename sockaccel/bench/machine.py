"""The machine and the programs that a result belongs to."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

from sockaccel.bench.process import run

# Not results/, where what was measured goes.
_MEASURED = ("bpf", "sockaccel", "benchmarks", ":!benchmarks/results")
CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")


def describe_machine() -> dict[str, Any]:
    """Return what a figure depends on, and nothing that names the machine."""
    return {
        "cpu": _first("/proc/cpuinfo", r"^model name\s*:\s*(.+)$") or platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": int(_first("/proc/meminfo", r"^MemTotal:\s*(\d+) kB$") or 0) * 1024,
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "virtualisation": _virtualisation(),
        "governor": _read(CPUFREQ / "scaling_governor"),
        "frequency_mhz": _frequency_mhz(),
    }


def describe_commit() -> str | None:
    """Return the commit of the source tree, "+changes" if what is measured differs."""
    tree = Path(__file__).resolve().parents[2]
    git = shutil.which("git")
    if git is None or not (tree / ".git").exists():
        return None
    commit = run([git, "-C", str(tree), "rev-parse", "--short=12", "HEAD"])
    if commit.returncode != 0:
        return None
    changes = run([git, "-C", str(tree), "status", "--porcelain", "--", *_MEASURED])
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def _virtualisation() -> str | None:
    """Return who made the virtual machine; None on hardware."""
    if not _first("/proc/cpuinfo", r"^flags\s*:.*\b(hypervisor)\b"):
        return None
    return _read(Path("/sys/class/dmi/id/sys_vendor")) or "unknown hypervisor"


def _frequency_mhz() -> list[float] | None:
    """Return the least and the greatest frequency that the governor may choose."""
    limits = [_read(CPUFREQ / f"scaling_{which}_freq") for which in ("min", "max")]
    return [int(limit) / 1000 for limit in limits if limit] if all(limits) else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def program_version(path: str, option: str) -> str | None:
    """Return the version that a program tells when it is asked, if there is one in what it says."""
    # nginx and wrk tell on stderr, and wrk calls it a usage error.
    done = run([path, option])
    found = re.search(r"\d+(?:\.\d+)+", done.stdout + done.stderr)
    return found.group() if found else None


def _first(path: str, pattern: str) -> str | None:
    found = re.search(pattern, _read(Path(path)) or "", re.MULTILINE)
    return found.group(1).strip() if found else None
