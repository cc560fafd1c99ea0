"""Examines this kernel and host: first what can be looked at, then what must be tried.

To try, the programs are loaded into a pin directory of their own and attached to
a throw-away cgroup; connections are made in throw-away namespaces. What is
enabled meanwhile is not touched. Whatever could hang runs in a child that is
killed when it does not answer.
"""

from __future__ import annotations

import os
import resource
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sockaccel.datapath import lifecycle, pins
from sockaccel.datapath.compiler import MAPS, PROGRAMS
from sockaccel.datapath.lifecycle import Scope
from sockaccel.datapath.options import DEFAULT_MAX_CONNECTIONS, Options
from sockaccel.datapath.sandbox import Sandbox, in_child
from sockaccel.datapath.state import Datapath
from sockaccel.datapath.trial import STOPPED, Trial, trial
from sockaccel.errors import NotPermittedError, SockaccelError, reason
from sockaccel.inspect import probes
from sockaccel.inspect.environment import CHECKS, Host
from sockaccel.inspect.finding import Finding, Outcome, Verdict, failed, passed, warned
from sockaccel.render.units import bytes_text
from sockaccel.signals import hold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMEOUT_S = 15.0
"""For each check of the host. A hang is what it is meant to find, not a slow disk."""

# Without these nothing can be tried.
_ESSENTIAL = {"capabilities", "lockdown", "kernel-types", "bpffs", "cgroup", "namespaces", "bcc"}
_FREE_S = 2.0
_UPGRADE = "apt-get install linux-image-$(dpkg --print-architecture) && reboot"
_LEAVE_OUT = "docker run --label sockaccel.enable=false …"


@dataclass(frozen=True)
class Report:
    """What was found."""

    kernel: str
    findings: tuple[Finding, ...]
    not_tried: tuple[str, ...]
    """Checks that need what others found missing."""

    def count(self, verdict: Verdict) -> int:
        """Return how many findings there are of this kind."""
        return sum(finding.verdict is verdict for finding in self.findings)


class _NotTriedError(Exception):
    """What this check needs was not reached."""


@dataclass
class _Examination:
    """The findings so far."""

    debug: bool
    """An error is raised, not reported."""
    findings: list[Finding] = field(default_factory=list)
    not_tried: list[str] = field(default_factory=list)

    def check(self, name: str, look: Callable[[], Outcome]) -> None:
        """Add what `look` finds; an error is a finding too."""
        try:
            outcome = look()
        except _NotTriedError:
            self.not_tried.append(name)
            return
        except (SockaccelError, OSError) as error:
            if self.debug:
                raise
            not_permitted = isinstance(error, NotPermittedError | PermissionError)
            if not_permitted and self.failed({"capabilities"}):  # said already
                self.not_tried.append(name)
                return
            outcome = _failure(name, error)
        self.findings.append(Finding(name, *outcome))

    def failed(self, names: set[str]) -> bool:
        """Whether one of these has failed."""
        return any(each.verdict is Verdict.FAIL and each.name in names for each in self.findings)


def _failure(name: str, error: SockaccelError | OSError) -> Outcome:
    if isinstance(error, SockaccelError):
        return failed(str(error), error.hint)
    return failed(f"cannot check {name}: {reason(error)}", "sockaccel --debug doctor")


def examine(host: Host, *, debug: bool = False) -> Report:
    """Run all checks, which takes a second or two.

    Raises:
        SockaccelError, OSError: with `debug`, the first that a check meets.

    """
    examination = _Examination(debug)
    for name, look in CHECKS.items():
        examination.check(name, partial(in_child, partial(look, host), TIMEOUT_S))
    with ExitStack() as stack:
        laboratory: _Laboratory | None = None

        def load() -> Outcome:
            nonlocal laboratory
            if examination.failed(_ESSENTIAL):
                raise _NotTriedError
            laboratory = stack.enter_context(_laboratory(host))
            return laboratory.loaded()

        def try_it(look: Callable[[_Laboratory], Outcome]) -> Outcome:
            if laboratory is None:
                raise _NotTriedError
            return look(laboratory)

        def clean_up(used: _Laboratory) -> Outcome:
            with hold():
                stack.close()
            return _left_behind(used.directory)

        examination.check("programs", load)
        for name, attempt in (*_ATTEMPTS.items(), ("clean-up", clean_up)):
            examination.check(name, partial(try_it, attempt))
    return Report(os.uname().release, tuple(examination.findings), tuple(examination.not_tried))


# --- The laboratory -------------------------------------------------------------------------


@dataclass
class _Laboratory:
    """The programs, attached to one of two throw-away cgroups."""

    host: Host
    directory: Path
    mount: Path
    plain: Sandbox
    accelerated: Sandbox
    load_s: float
    result: Trial | None = None

    @property
    def trial(self) -> Trial:
        """What the quick trial found.

        Raises:
            _NotTriedError: it did not end.

        """
        if self.result is None:
            raise _NotTriedError
        return self.result

    def saw(self, fact: str) -> str:
        """Return what the trial saw of a fact.

        Raises:
            _NotTriedError: it did not come that far.

        """
        if fact not in self.trial.seen:
            raise _NotTriedError
        return self.trial.seen[fact]

    def loaded(self) -> Outcome:
        """Tell that the kernel accepts the programs, and what they cost."""
        with Datapath(self.directory) as datapath:
            size = sum(_map_memory(datapath.fd(name)) for name in MAPS)
        loader = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        return passed(
            f"{', '.join(PROGRAMS)} and the iterator load in {self.load_s:.1f} s; maps for "
            f"{DEFAULT_MAX_CONNECTIONS} connections take {bytes_text(size)}, "
            f"the loader {bytes_text(loader)} for that moment"
        )


@contextmanager
def _laboratory(host: Host) -> Iterator[_Laboratory]:
    for left in host.pin_dir.parent.glob(f"{_throw_away(host.pin_dir, '*').name}"):
        if not Path("/proc", left.name.rpartition("_")[2]).exists():
            lifecycle.disable(left)
    mount = host.cgroup_path()
    directory = _throw_away(host.pin_dir, str(os.getpid()))
    with Sandbox(mount) as plain, Sandbox(mount) as accelerated:
        options = Options(str(accelerated.cgroup), scope="all", policy="all")
        start = time.monotonic()
        # Forced: a kernel that fails the trial is what is to be examined.
        lifecycle.enable(directory, options, Scope(lambda *_: {}, frozenset()), dict, force=True)
        try:
            taken = time.monotonic() - start
            yield _Laboratory(host, directory, mount, plain, accelerated, taken)
        finally:
            lifecycle.disable(directory)


def _throw_away(pin_dir: Path, owner: str) -> Path:
    return pin_dir.with_name(f"{pin_dir.name}_doctor_{owner}")


def _left_behind(directory: Path) -> Outcome:
    left = lifecycle.wait_drained(directory, _FREE_S)
    if left:
        return failed(f"{left} sockets of this examination are still open", "sockaccel doctor")
    return passed("what was loaded and made for this examination is gone")


def _map_memory(map_fd: int) -> int:
    """Return what the kernel says a map takes."""
    info = Path(f"/proc/self/fdinfo/{map_fd}").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in info.splitlines())
    return int(fields["memlock"])


# --- What is tried --------------------------------------------------------------------------


def _redirection(lab: _Laboratory) -> Outcome:
    lab.result = trial(lab.directory, lab.mount)
    if lab.trial.redirected:
        return passed(f"a loopback connection pairs, {lab.saw('redirected')}")
    return failed(lab.saw(STOPPED), pins.command(lab.host.pin_dir, "--debug enable"))


def _back_pressure(lab: _Laboratory) -> Outcome:
    if lab.trial.charged or "charged" not in lab.trial.seen:
        return passed(lab.saw("charged"))
    return failed(f"{lab.saw('charged')}: nothing would stop a writer", _UPGRADE)


def _order(lab: _Laboratory) -> Outcome:
    if lab.trial.redirected and not lab.trial.intact:
        return failed(lab.saw(STOPPED), _UPGRADE)
    return passed(lab.saw("intact"))


def _copied_seq(lab: _Laboratory) -> Outcome:
    evidence = lab.saw("copied_seq_kept")
    if lab.trial.copied_seq_kept:
        return passed(evidence)
    return failed(f"{evidence}: redirected bytes move copied_seq, which guards the order", _UPGRADE)


def _one_queue(lab: _Laboratory) -> Outcome:
    evidence = lab.saw("one_queue")
    if lab.trial.one_queue:
        return passed(evidence)
    return warned(
        f"{evidence}: edge-triggered readers that trust a short read stall; "
        "--policy safe leaves them on TCP",
        _safe(lab),
    )


def _fionread(lab: _Laboratory) -> Outcome:
    attached = "fionread_with" if lab.trial.stream_verdict else "fionread_without"
    evidence = f"class {lab.trial.fionread or 'unknown'}: {lab.saw(attached)}"
    if lab.trial.fionread_right:
        return passed(evidence)
    return warned(
        f"{evidence}; nginx, Java NIO and .NET stall on that; --policy safe leaves them on TCP",
        _safe(lab),
    )


def _mptcp(lab: _Laboratory) -> Outcome:
    with Datapath(lab.directory) as datapath:
        entries = probes.mptcp_entries(datapath, lab.accelerated)
    if entries is None:
        return passed("this kernel makes no MPTCP sockets")
    if entries:
        return failed(
            f"{entries} ends of an MPTCP connection are enrolled, which crashes some kernels",
            "sysctl net.mptcp.enabled=0",
        )
    return passed("an MPTCP connection works and is not enrolled")


def _behaviour(
    scenario: probes.Scenario, who: str, hint: Callable[[_Laboratory], str]
) -> Callable[[_Laboratory], Outcome]:
    def attempt(lab: _Laboratory) -> Outcome:
        if not lab.trial.works:
            raise _NotTriedError
        try:
            found = probes.compare(scenario, lab.plain, lab.accelerated)
        except probes.RedirectedByOthersError as error:
            return warned(str(error), pins.command(lab.host.pin_dir, "disable"))
        return passed(str(found)) if found.same else warned(f"{found}; {who}", hint(lab))

    return attempt


def _safe(lab: _Laboratory) -> str:
    return pins.command(lab.host.pin_dir, "enable --policy safe")


def _leave_out(_: _Laboratory) -> str:
    return _LEAVE_OUT


_ATTEMPTS: dict[str, Callable[[_Laboratory], Outcome]] = {
    "redirection": _redirection,
    "back-pressure": _back_pressure,
    "copied-seq": _copied_seq,
    "one-queue": _one_queue,
    "order": _order,
    "fionread": _fionread,
    "splice": _behaviour(
        probes.splice,
        "docker-proxy, Go's io.Copy and HAProxy do that, --policy safe leaves them on TCP",
        _safe,
    ),
    "blocking-recv": _behaviour(
        probes.interrupted_recv,
        "non-blocking programs do not notice, --policy safe leaves the others on TCP",
        _safe,
    ),
    "recv-options": _behaviour(
        probes.recv_options, "--policy safe leaves programs that use them on TCP", _safe
    ),
    "close": _behaviour(
        probes.close_unread, "leave out writers that count on the reset", _leave_out
    ),
    "zerocopy": _behaviour(
        probes.zerocopy, "--policy safe leaves programs that ask for it on TCP", _safe
    ),
    "mptcp": _mptcp,
}
