"""Kills a command of sockaccel at a chosen step.

strace delivers the signal when the process enters its n-th call of one kind, before the call
is carried out; so every change that a command makes to the kernel is a step, and none is
missed by chance. Between the calls, a sweep over the time it takes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# What changes the kernel's state, and what starts the compiler.
CALLS = ("bpf", "mkdir", "rename", "unlink", "rmdir", "flock", "vfork", "execve")
_TIMEOUT_S = 60


@dataclass(frozen=True)
class Point:
    """One step at which a command is killed."""

    whom: str
    """`command`; `compiler`, its child; or `both`, by time."""
    call: str
    """The system call, or `ms` for a time."""
    number: int

    def __str__(self) -> str:
        if self.call == "ms":
            return f"{self.whom} after {self.number} ms"
        return f"{self.whom} at {self.call} {self.number}"


def _strace(*arguments: str | Path) -> list[str]:
    return ["strace", "-qq", "-o", *map(str, arguments)]


@contextlib.contextmanager
def _compiler_under(strace: Sequence[str], argv: Sequence[str]) -> Iterator[list[str]]:
    """Yield a command line that does the same as argv, its compiler run by strace."""
    with tempfile.TemporaryDirectory(prefix="sockaccel-") as directory:
        # The command starts its compiler by sys.executable.
        wrapper = Path(directory) / "python"
        wrapper.write_text(f'#!/bin/sh\nexec {shlex.join([*strace, sys.executable])} "$@"\n')
        wrapper.chmod(0o700)
        code = (
            f"import sys; sys.executable = {str(wrapper)!r}; "
            "from sockaccel.cli.main import main; main()"
        )
        yield [sys.executable, "-c", code, *argv[argv.index("sockaccel") + 1 :]]


def steps(argv: Sequence[str], whom: str) -> list[Point]:
    """Run a command that succeeds, and return every step of it, or of its compiler."""
    with tempfile.NamedTemporaryFile(prefix="sockaccel-") as log:
        watch = _strace(log.name, "-e", f"trace={','.join(CALLS)}")
        with contextlib.ExitStack() as stack:
            if whom == "compiler":
                line = stack.enter_context(_compiler_under(watch, argv))
            else:
                line = [*watch, *argv]
            subprocess.run(line, check=True, capture_output=True, timeout=_TIMEOUT_S)
        found = Counter(re.findall(r"^(\w+)\(", Path(log.name).read_text(), re.M))
    # The first execve() is strace's own, of the command.
    found["execve"] -= 1
    return [Point(whom, call, number) for call in CALLS for number in range(1, found[call] + 1)]


def times(until_ms: int, step_ms: int, whom: str) -> list[Point]:
    """Return steps by time."""
    return [Point(whom, "ms", number) for number in range(step_ms, until_ms + 1, step_ms)]


def run_and_kill(argv: Sequence[str], point: Point) -> int:
    """Run a command, kill it at this step, and return its exit code."""
    if point.call == "ms":
        return _kill_after(argv, point.number / 1000, group=point.whom == "both")
    skipped = 1 if point.call == "execve" else 0
    inject = f"inject={point.call}:signal=KILL:when={point.number + skipped}"
    kill = _strace("/dev/null", "-e", f"trace={point.call}", "-e", inject)
    with contextlib.ExitStack() as stack:
        if point.whom == "compiler":
            line = stack.enter_context(_compiler_under(kill, argv))
        else:
            line = [*kill, *argv]
        return _wait(line, lambda _: None)


def _kill_after(argv: Sequence[str], seconds: float, *, group: bool) -> int:
    def kill(process: subprocess.Popen[bytes]) -> None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()

    return _wait(argv, kill)


def _wait(argv: Sequence[str], then: Callable[[subprocess.Popen[bytes]], None]) -> int:
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    then(process)
    return process.wait(_TIMEOUT_S)
