"""Runs a scenario plain and accelerated and compares what was observed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kernel.harness import Lab, removed

from sockaccel.datapath import libbpf
from sockaccel.datapath.state import Datapath
from sockaccel.inspect.status import Counters

from .counting import counters
from .stage import Stage
from .table import DIFFERS, SAME, STAYS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .table import Policy, Scenario, Variant

PLAIN = None
"""In the place of a policy: sockaccel is not there."""


@dataclass(frozen=True)
class Result:
    """What one run showed."""

    notes: dict[str, Any]
    redirected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Why something went by TCP, with how many connections or messages."""


@dataclass(frozen=True)
class Comparison:
    """What a run under a policy showed next to plain TCP."""

    plain: Result
    accelerated: Result

    @property
    def differences(self) -> dict[str, Any]:
        """What the accelerated run observed where it differs; None for what it did not note."""
        names = dict.fromkeys([*self.plain.notes, *self.accelerated.notes])
        return {
            name: self.accelerated.notes.get(name)
            for name in names
            if self.plain.notes.get(name) != self.accelerated.notes.get(name)
        }

    @property
    def verdict(self) -> str:
        if self.differences:
            return DIFFERS
        return SAME if self.accelerated.redirected else STAYS


def complaint(comparison: Comparison, scenario: Scenario, variant: Variant, policy: Policy) -> str:
    """Return what is not as the table expects, or nothing."""
    known = scenario.known
    reasons = comparison.accelerated.reasons
    if comparison.verdict not in scenario.verdicts(policy):
        wrong = "not what the table expects"
    elif comparison.verdict == DIFFERS and known and comparison.differences != known.seen:
        wrong = f"not as recorded for row {known.row}: {known.seen}"
    elif comparison.verdict == STAYS and not reasons:
        wrong = "and nothing says why"
    elif scenario.stays and scenario.stays not in reasons and not policy.protects:
        wrong = f"but not for {scenario.stays!r}"
    else:
        return ""
    plain = {name: comparison.plain.notes.get(name) for name in comparison.differences}
    return (
        f"{scenario.title!r} ({variant}) {comparison.verdict} under --policy {policy.name}, "
        f"{wrong}\n"
        f"plain TCP   {plain}\naccelerated {comparison.differences}\n"
        f"redirected  {comparison.accelerated.redirected} bytes, reasons {reasons}"
    )


@contextlib.contextmanager
def world(policy: Policy | None) -> Iterator[Lab]:
    """Give a laboratory with two worlds of two joined namespaces and the same addresses."""
    with removed(Lab("plain" if policy is PLAIN else "accelerated")) as lab:
        lab.pair()
        lab.pair()
        for host in lab.hosts:
            # 3: clients and servers; what Fast Open does is decided per socket.
            host.sysctl("net.ipv4.tcp_fastopen", 3)
        if policy is not PLAIN:
            lab.enabled_once = True
            arguments = [a for a in lab.enable_arguments() if not str(a).startswith("--policy")]
            lab.cli(*arguments, *policy.options)
        yield lab


def forget_programs(lab: Lab) -> None:
    """Make each scenario a program that nobody knows; they are all one process."""
    with Datapath(lab.pin_dir) as datapath:
        for key, _ in datapath.learned():
            libbpf.delete(datapath.fd("programs"), bytes(key))


def run(lab: Lab, policy: Policy | None, scenario: Scenario, variant: Variant) -> Result:
    """Run a scenario once."""
    if policy is not PLAIN and policy.protects:
        forget_programs(lab)
    before = Counters() if policy is PLAIN else counters(lab)
    stage = Stage(lab, variant)
    try:
        scenario.run(stage)
        if policy is PLAIN:
            return Result(stage.notes)
        after = stage.final or counters(lab)
        reasons = {
            reason: count - before.fallbacks.get(reason, 0)
            for reason, count in after.fallbacks.items()
            if count > before.fallbacks.get(reason, 0)
        }
        return Result(stage.notes, after.redirected_bytes - before.redirected_bytes, reasons)
    finally:
        stage.close()


class Judge:
    """Holds the laboratories of plain TCP and of one policy, and the results of plain TCP."""

    def __init__(self, plain: Lab, plain_results: dict[tuple[str, Variant], Result]) -> None:
        self._plain = plain
        self._results = plain_results

    def compare(self, lab: Lab, policy: Policy, scenario: Scenario, variant: Variant) -> Comparison:
        """Run a scenario accelerated, and on plain TCP if that was not done before."""
        key = (scenario.name, variant)
        if key not in self._results:
            self._results[key] = self._run(self._plain, PLAIN, scenario, variant)
        return Comparison(self._results[key], self._run(lab, policy, scenario, variant))

    @staticmethod
    def _run(lab: Lab, policy: Policy | None, scenario: Scenario, variant: Variant) -> Result:
        if not scenario.fresh:
            return run(lab, policy, scenario, variant)
        with world(policy) as own:
            return run(own, policy, scenario, variant)
