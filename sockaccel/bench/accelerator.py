"""sockaccel as the measured thing: switched on and off by its own commands."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sockaccel.bench.process import last_line, run
from sockaccel.errors import BenchError, HostError, NotPermittedError, SockaccelError
from sockaccel.signals import hold

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from pathlib import Path

# What is measured must not depend on how this host is configured, nor (-P) on the directory.
COMMAND = (sys.executable, "-P", "-m", "sockaccel", "--config", os.devnull)
SCHEMA = "sockaccel.status/1"
EXIT_ACTIVE, EXIT_INACTIVE = 0, 3


@dataclass(frozen=True)
class Counters:
    """Where the bytes of accelerated connections went since enable."""

    active: bool
    redirected_bytes: int
    tcp_bytes: int


def parse_status(text: str) -> Counters:
    """Return the counters in the output of `sockaccel -o json status`."""
    try:
        data: Any = json.loads(text)
        if data["schema"] != SCHEMA:
            raise BenchError(f"cannot read sockaccel's status: schema '{data['schema']}'")
        active = bool(data["active"])
        counters = data.get("counters") or {}
        if active:
            return Counters(True, int(counters["redirected_bytes"]), int(counters["tcp_bytes"]))
        return Counters(False, 0, 0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"cannot read sockaccel's status: {error!r} in {text[:200]!r}") from error


class Accelerator:
    """sockaccel with pins of its own, for one topology and nobody else.

    scope: the options of `enable` that say so; no_docker: a path where nothing is, which
    stands for Docker's socket unless they name one, because the default scope would take this
    host's containers in.
    """

    def __init__(
        self,
        pin_dir: Path,
        scope: Sequence[str],
        no_docker: Path,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.pin_dir = pin_dir
        self._docker_host = f"unix://{no_docker}"
        self._options = list(scope)
        self._command = list(command)
        self._enabled = False

    def enable(self) -> None:
        """Switch it on; connections made from now on are accelerated."""
        self._switched_on()

    def counts_unread_bytes(self) -> bool:
        """Return whether FIONREAD is right on accelerated sockets of this kernel.

        Where it is not (class K0) the default policy leaves nginx on TCP.
        """
        done = self._switched_on("-o", "json")
        self.disable()
        try:
            return bool(json.loads(done.stdout)["trial"]["fionread_right"])
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(f"cannot read what enable found: {done.stdout[:200]!r}") from error

    def disable(self) -> None:
        """Switch it off, if enable was called."""
        with hold():
            if self._enabled:
                self._checked("disable", [])
                self._enabled = False

    def counters(self) -> Counters:
        """Return what `status` says now."""
        done = self._run("status", ["-o", "json"], [])
        if done.returncode not in (EXIT_ACTIVE, EXIT_INACTIVE):
            raise _failure("read sockaccel's status", done)
        return parse_status(done.stdout)

    def _switched_on(self, *options: str) -> subprocess.CompletedProcess[str]:
        with hold():
            self._enabled = True
            try:
                return self._checked("enable", self._options, options)
            except SockaccelError:
                # It may have left something. Whatever keeps that from being undone, the first
                # cause is what has to be mended, and its error the one to show.
                with suppress(SockaccelError):
                    self.disable()
                self._enabled = False
                raise

    def _checked(
        self, verb: str, arguments: Sequence[str], options: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        done = self._run(verb, options, arguments)
        if done.returncode != 0:
            raise _failure(f"{verb} sockaccel for the measurement", done)
        return done

    def _run(
        self, verb: str, options: Sequence[str], arguments: Sequence[str]
    ) -> subprocess.CompletedProcess[str]:
        # Settings for the user's own instance must not reach this one.
        env: dict[str, str | None] = {
            name: None for name in os.environ if name.startswith("SOCKACCEL_")
        }
        env["DOCKER_HOST"] = self._docker_host
        argv = [*self._command, "--pin-dir", str(self.pin_dir), *options, verb, *arguments]
        return run(argv, timeout_s=60.0, env=env)


def _failure(what: str, done: subprocess.CompletedProcess[str]) -> SockaccelError:
    """Return what a sockaccel command complained of, as the error that it was there."""
    kind = {error.exit_code: error for error in (NotPermittedError, HostError)}.get(
        done.returncode, BenchError
    )
    said = {
        prefix: line.removeprefix(f"{prefix}: ")
        for line in done.stderr.splitlines()
        for prefix in ("Error", "Hint")
        if line.startswith(f"{prefix}: ")
    }
    cause = said.get("Error") or last_line(done.stderr, done.returncode)
    return kind(f"cannot {what}: {cause}", said.get("Hint"))
