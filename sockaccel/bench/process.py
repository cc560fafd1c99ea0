"""Tools and child processes of a measurement. Only what was started here is ever ended."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from sockaccel.errors import BenchError, HostError
from sockaccel.signals import hold

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Where administrators' tools are; missing in root's PATH after a plain `su`.
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


TICK_S = 0.2
LOAD_GRACE_S = 15.0


def find_tool(name: str, package: str | None = None) -> str:
    """Return the path of an installed program.

    Raises:
        HostError: it is not there; the hint installs the package, where one is given.

    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
    if path is None:
        hint = f"apt-get install {package}" if package else "scripts/setup"
        raise HostError(f"cannot run '{name}': it is not installed", hint)
    return path


class Child:
    """A child process in a session of its own, so that Ctrl-C reaches only its parent.

    env changes the environment it inherits; None takes a variable out of it.
    prepare runs in the child before the program does.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str | None] | None = None,
        cwd: str | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.argv = list(argv)
        self.killed = False  # whether end() had to, so that the kernel added up less of it
        try:
            self._popen = subprocess.Popen(
                self.argv,
                env=_environment(env or {}),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
                preexec_fn=prepare,  # noqa: PLW1509 - there is one thread only
            )
        except OSError as error:
            raise HostError(f"cannot run '{self.argv[0]}': {error.strerror}") from error
        except subprocess.SubprocessError as error:
            raise BenchError(f"cannot run '{self.argv[0]}': {error}") from error

    @property
    def pid(self) -> int:
        """The process id, which `ip netns exec` hands on to the program it runs."""
        return self._popen.pid

    def running(self) -> bool:
        """Whether the child has not ended."""
        return self._popen.poll() is None

    def await_ready(self, what: str, timeout_s: float) -> None:
        """Return when the child has printed the line "ready"; end it and raise if it does not."""
        assert self._popen.stdout is not None
        readable, _, _ = select.select([self._popen.stdout], [], [], timeout_s)
        if readable and self._popen.stdout.readline().strip() == "ready":
            return
        cause = f"not ready after {timeout_s:g} s"
        if readable:
            try:
                done = self.wait(1.0)
                cause = last_line(done.stderr, done.returncode)
            except subprocess.TimeoutExpired:
                cause = "it is not what it should be"
        self.end()
        raise BenchError(f"cannot start {what}: {cause}")

    def wait(self, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Return exit code and output once it ends; subprocess.TimeoutExpired if it does not."""
        out, err = self._popen.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(self.argv, self._popen.returncode, out, err)

    def end(self, signum: signal.Signals = signal.SIGTERM, grace_s: float = 3.0) -> None:
        """End the child and whatever it started; return when it is gone."""
        with hold():
            if self.running():
                self._popen.send_signal(signum)
            # Until its output ends: what it has left behind, if somebody killed it, holds that.
            with suppress(subprocess.TimeoutExpired):
                self._popen.communicate(timeout=grace_s)
                return
            self.killed = True
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._popen.communicate(timeout=grace_s)


def run(
    argv: Sequence[str],
    *,
    timeout_s: float = 30.0,
    env: Mapping[str, str | None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return exit code and output, whatever they are."""
    with hold():
        child = Child(argv, env=env)
        try:
            return child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            child.end(signal.SIGKILL)
            raise BenchError(
                f"cannot run '{' '.join(argv)}': no end after {timeout_s:g} s"
            ) from None


def run_load(
    start: Callable[[], Child],
    what: str,
    seconds: float,
    meanwhile: Callable[[int], None] = lambda _: None,
) -> str:
    """Run a load generator, which ends by itself after so many seconds, and return its stdout.

    start starts it; meanwhile is called with its process id at once, and then now and then, as
    long as it runs.

    Raises:
        BenchError: it failed, or did not end.

    """
    child: Child | None = None
    try:
        with hold():
            child = start()
        done = _wait_watching(child, seconds + LOAD_GRACE_S, meanwhile)
    except subprocess.TimeoutExpired:
        raise BenchError(
            f"cannot measure {what}: the client did not end {LOAD_GRACE_S:g} s after its time"
        ) from None
    finally:
        if child is not None:
            child.end(grace_s=1.0)
    if done.returncode != 0:
        said = last_line(done.stderr or done.stdout, done.returncode)
        raise BenchError(f"cannot measure {what}: {said}")
    return done.stdout


def _wait_watching(
    child: Child, timeout_s: float, meanwhile: Callable[[int], None]
) -> subprocess.CompletedProcess[str]:
    deadline = time.monotonic() + timeout_s
    while True:
        # First: the client may be quicker than a tick.
        meanwhile(child.pid)
        try:
            return child.wait(TICK_S)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise


def run_checked(argv: Sequence[str], *, timeout_s: float = 30.0) -> str:
    """Run a command that must succeed and return its stdout."""
    done = run(argv, timeout_s=timeout_s)
    if done.returncode != 0:
        raise BenchError(
            f"cannot run '{' '.join(argv)}': {last_line(done.stderr, done.returncode)}"
        )
    return done.stdout


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    merged = {**os.environ, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def last_line(text: str, exit_code: int) -> str:
    """Return the last line of what a program said, or else its exit code."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else f"exit code {exit_code}"
