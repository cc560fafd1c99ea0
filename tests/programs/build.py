"""Compiles the programs of src/, once for each of their versions."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from .arena import PATH

SOURCES = Path(__file__).parent / "src"


def cache() -> Path:
    """Return where what is made once is kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "sockaccel"


def go(name: str) -> Path:
    """Return the program compiled from src/<name>.go by Debian's Go."""
    source = SOURCES / f"{name}.go"
    key = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    program = cache() / "go" / f"{name}-{key}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        # Standard library only: nothing is downloaded.
        env = {
            "PATH": PATH,
            "HOME": str(program.parent),
            "GOCACHE": str(cache() / "go" / "build"),
            "GOPROXY": "off",
            "GOFLAGS": "-mod=mod",
            "CGO_ENABLED": "0",
        }
        subprocess.run(["go", "build", "-o", program, source], check=True, env=env, timeout=300)
    return program
