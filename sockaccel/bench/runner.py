"""The runs of a session: which, in what order, and what becomes of each."""

from __future__ import annotations

import os
import platform
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sockaccel import __version__
from sockaccel.bench.arms import Arm, balanced_order
from sockaccel.bench.machine import describe_machine
from sockaccel.bench.process import run
from sockaccel.bench.proof import problems_of_round, problems_of_run
from sockaccel.bench.result import Better, CaseResult, LeftOut, Metric, Result, Run
from sockaccel.bench.signals import Interrupted
from sockaccel.bench.stage import Cast, Played, Setting, Stage
from sockaccel.bench.summary import conclude
from sockaccel.errors import BenchError, HostError, NotPermittedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sockaccel.bench.scenario import Case, Scenario

GIB = 1 << 30
K0 = (
    "Note: this kernel does not count redirected bytes in FIONREAD, so that --policy safe leaves"
    " some programs on TCP; measured with --policy all."
)


@dataclass(frozen=True)
class Plan:
    """What a session is to do.

    seconds: None for each scenario's own; arms: those that are wanted of each scenario's;
    quick: of each case those that its scenario names for it.
    """

    scenarios: Sequence[Scenario]
    rounds: int
    seconds: float | None
    arms: Sequence[Arm]
    quick: bool
    setting: Setting
    policy_given: bool = False

    def cases(self) -> list[tuple[Scenario, Case]]:
        """Return all cases, in order."""
        return [
            (scenario, case)
            for scenario in self.scenarios
            for case in scenario.cases
            if case.quick or not self.quick
        ]

    def arms_of(self, scenario: Scenario) -> list[Arm]:
        """Return the arms that are compared in a scenario.

        The textbook program and the Unix socket need one cgroup and one file system for
        both ends, which containers do not have.
        """
        possible = [arm for arm in scenario.arms if arm in self.arms]
        if self.setting.topology == "docker":
            possible = [arm for arm in possible if arm in (Arm.BASELINE, Arm.ACCELERATED)]
        return possible


@dataclass(frozen=True)
class Progress:
    """What has just happened, for whoever waits."""

    scenario: str
    case: str
    round: int  # 0: warm-up
    rounds: int
    arm: Arm
    value: float | None  # of the case's first metric; None: the run begins
    metric: Metric
    problems: list[str] = field(default_factory=list)


Report = Callable[[Progress], None]
Store = Callable[[Result], None]


def run_plan(
    plan: Plan,
    left_out: Iterable[LeftOut] = (),
    *,
    report: Report = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    store: Store = lambda _: None,
    rng: random.Random | None = None,
) -> Result:
    """Make all runs and return what they found; store is called after each case.

    A case that turns out invalid ends at once, and the next one begins. A signal ends the
    session: what was done is in the result, which says that it was interrupted.

    Raises:
        NotPermittedError: not root.

    """
    if os.geteuid() != 0:
        raise NotPermittedError("cannot make network namespaces: not root", "sudo sockaccel bench")
    seed = int.from_bytes(os.urandom(4), "big")
    result = Result(
        id=f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{seed:08x}",
        started=_now(),
        finished=None,
        commit=describe_commit(),
        command=sys.argv,
        machine=describe_machine(),
        versions=describe_versions(plan.scenarios),
        parameters={
            "seed": seed,
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "quick": plan.quick,
            "topology": plan.setting.topology,
            "policy": plan.setting.policy,
            "cgroup": str(plan.setting.cgroup) if plan.setting.cgroup else None,
        },
        cases=[],
        left_out=list(left_out),
    )
    session = _Session(plan, result, report, say, store, rng or random.Random(seed))
    try:
        session.run()
    except Interrupted as signal:
        session.interrupted(signal)
        return result
    return replace(result, finished=_now())


class _Session:
    def __init__(
        self,
        plan: Plan,
        result: Result,
        report: Report,
        say: Callable[[str], None],
        store: Store,
        rng: random.Random,
    ) -> None:
        self._plan = plan
        ...
