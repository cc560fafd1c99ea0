"""Where programs are run: the laboratory of the kernel tests, on plain TCP or accelerated."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel import harness

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

PLAIN = "plain"
POLICIES = ("safe", "all")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Traffic:
    """What `sockaccel status` says was sent, and how."""

    redirected: int = 0
    tcp: int = 0

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(self.redirected - other.redirected, self.tcp - other.tcp)

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.redirected + other.redirected, self.tcp + other.tcp)

    @property
    def share(self) -> float:
        """The redirected share of all bytes, 0 where there were none."""
        total = self.redirected + self.tcp
        return self.redirected / total if total else 0.0


class Arena:
    """A laboratory in one arm of the comparison: plain, or accelerated with a policy."""

    def __init__(self, lab: harness.Lab, arm: str) -> None:
        self.lab = lab
        self.arm = arm

    @property
    def accelerated(self) -> bool:
        return self.arm != PLAIN

    def start(self) -> None:
        """Accelerate from here on, in the arms that do."""
        if self.accelerated:
            self.lab.enable(f"--policy={self.arm}")

    def traffic(self) -> Traffic:
        """Return what was sent since `start`; nothing is counted in the plain arm."""
        if not self.accelerated:
            return Traffic()
        counters = self.lab.counters()
        return Traffic(counters["redirected_bytes"], counters["tcp_bytes"])

    def background(
        self,
        host: harness.Host,
        argv: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program of this machine, with Debian's PATH, that writes to a log."""
        settings = [f"{name}={value}" for name, value in {"PATH": PATH, **(env or {})}.items()]
        script = 'cd "$0" && log=$1 && shift && exec "$@" >"$log" 2>&1'
        place = ["env", *settings, "sh", "-c", script, str(cwd or log.parent), str(log)]
        process: subprocess.Popen[bytes] = host.popen(*place, *argv)
        return process

    def run(
        self,
        host: harness.Host,
        argv: Sequence[str | Path],
        log: Path,
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> int | None:
        """Run a program to its end and return its exit code, or None if time ran out."""
        process = self.background(host, argv, log, env=env, cwd=cwd)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            # Not only after a timeout: what it started and left must not meet the next one.
            self.end(process)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End a program and its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.lab.programs.remove(process)


@contextlib.contextmanager
def arena(arm: str) -> Iterator[Arena]:
    """Make a laboratory for one arm; remove it and insist that nothing is left behind."""
    with harness.removed(harness.Lab(PLAIN if arm == PLAIN else "accelerated")) as lab:
        try:
            yield Arena(lab, arm)
        finally:
            # Programs under test may have left their process group.
            (lab.cgroup / "cgroup.kill").write_text("1")
