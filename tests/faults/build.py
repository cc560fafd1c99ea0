"""Compiles the C programs of these tests, each once."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

TOOLS = ("gcc", "strace")
"""What these tests need beside what the tests of the kernel need."""


@functools.cache
def _directory() -> Path:
    directory = tempfile.mkdtemp(prefix="sockaccel-faults-")
    atexit.register(shutil.rmtree, directory)
    return Path(directory)


@functools.cache
def build(source: str) -> Path:
    """Compile a file that lies beside this one, and return where the program is."""
    made = _directory() / Path(source).stem
    text = Path(__file__).with_name(source)
    subprocess.run(["gcc", "-O2", "-pthread", "-o", made, text], check=True, timeout=60)
    return made
