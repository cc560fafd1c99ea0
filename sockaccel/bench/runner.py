"""The runs of a session: which, in what order, and what becomes of each."""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sockaccel import __version__
from sockaccel.bench.advice import with_advice
from sockaccel.bench.arms import Arm, balanced_order
from sockaccel.bench.machine import describe_commit, describe_machine
from sockaccel.bench.proof import problems_of_round, problems_of_run
from sockaccel.bench.result import CaseResult, LeftOut, Metric, Result, Run
from sockaccel.bench.stage import Cast, Setting, Stage, check_permitted
from sockaccel.bench.summary import conclude
from sockaccel.bench.workloads.base import per
from sockaccel.errors import BenchError, HostError, NotPermittedError, SockaccelError, reason
from sockaccel.signals import Interrupted, interruption

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from sockaccel.bench.scenario import Case, Scenario
    from sockaccel.bench.stage import Played

GIB = 1 << 30
# What servers, switch and proof take of a run besides its length, in the published results.
SET_UP_S = {"netns": 0.5, "docker": 2.5}
CONTEXT_SWITCHES = [f"context_switches_per_{per(streams=each)[0]}" for each in (True, False)]


@dataclass(frozen=True)
class Plan:
    """What a session is to do.

    seconds: the length of a run, None for each scenario's own; arms: those that are
    wanted of each scenario's; quick: whether this is all of it, which is noted.
    """

    scenarios: Sequence[Scenario]
    rounds: int
    seconds: float | None
    arms: Sequence[Arm]
    quick: bool
    setting: Setting

    def arms_of(self, scenario: Scenario) -> list[Arm]:
        """Return the arms that are compared in a scenario."""
        return arms_of(scenario, self.arms, self.setting.topology)

    def runs(self) -> int:
        """Return how many runs there are, warm-ups included."""
        return sum(
            len(scenario.cases) * len(self.arms_of(scenario)) * (1 + self.rounds)
            for scenario in self.scenarios
        )

    def estimated_s(self) -> float:
        """Return about how long it takes, in seconds, once the first lab is there."""
        loads = sum(
            len(scenario.cases)
            * len(self.arms_of(scenario))
            * (self.warm_up_s(scenario) + self.rounds * self.seconds_of(scenario))
            for scenario in self.scenarios
        )
        return loads + self.runs() * SET_UP_S[self.setting.topology]

    def seconds_of(self, scenario: Scenario) -> float:
        """Return the length of a run."""
        return self.seconds or scenario.seconds

    def warm_up_s(self, scenario: Scenario) -> float:
        """Return the length of a warm-up, in seconds."""
        return min(self.seconds_of(scenario), scenario.warm_up_s)


def arms_of(scenario: Scenario, wanted: Sequence[Arm], topology: str) -> list[Arm]:
    """Return those of the wanted arms that a scenario has in a topology.

    The textbook program and the Unix socket need a cgroup and a file system that both
    ends share, which containers do not.
    """
    possible = (Arm.BASELINE, Arm.ACCELERATED) if topology == "docker" else tuple(Arm)
    return [arm for arm in scenario.arms if arm in wanted and arm in possible]


def metrics_of(scenario: Scenario, case: Case, topology: str) -> list[Metric]:
    """Return those of a scenario's metrics that a case of it has in a topology.

    Of processes in containers, which are no children of ours, nobody adds up the context
    switches.
    """
    unknown = CONTEXT_SWITCHES if topology == "docker" else ()
    return [metric for metric in scenario.metrics(case) if metric.name not in unknown]


@dataclass(frozen=True)
class Progress:
    """A run that begins or has ended, for whoever waits."""

    case: str  # "scenario/case"
    round: int  # 0: warm-up
    rounds: int
    arm: Arm
    metric: Metric  # the case's first
    value: float | None = None  # of that metric; None: the run begins
    problems: list[str] = field(default_factory=list)


def run_plan(
    plan: Plan,
    left_out: Iterable[LeftOut] = (),
    *,
    report: Callable[[Progress], None] = lambda _: None,
    store: Callable[[Result], None] = lambda _: None,
) -> tuple[Result, Interrupted | SockaccelError | OSError | None]:
    """Make all runs and return what they found; store is called after each case.

    A case that turns out invalid ends there, and the next one begins; those of a scenario
    whose lab cannot be built are invalid. A signal ends the session, and so does a lab that
    cannot be removed: nothing is to be built beside its rest. Either is returned with the
    result, which holds what was done until then; what could not be removed after a signal
    is the signal's __cause__.

    Raises:
        NotPermittedError: not root.
        HostError: this host cannot do it, as was found before anything was measured.

    """
    check_permitted()
    seed = int.from_bytes(os.urandom(4), "big")
    result = Result(
        id=f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{seed:08x}",
        started=_now(),
        finished=None,
        commit=describe_commit(),
        command=["sockaccel", *sys.argv[1:]],
        machine=describe_machine(),
        versions=_versions(plan.scenarios),
        parameters={
            "seed": seed,
            "pairs": plan.rounds,
            "seconds": plan.seconds,
            "quick": plan.quick,
            "topology": plan.setting.topology,
            "policy": plan.setting.policy,
            "cgroup": str(plan.setting.cgroup) if plan.setting.cgroup else None,
            "arms": list(
                dict.fromkeys(str(arm) for each in plan.scenarios for arm in plan.arms_of(each))
            ),
        },
        cases=[],
        left_out=list(left_out),
    )
    try:
        with closing(_cases(plan, random.Random(seed), report)) as cases:
            for case in cases:
                result = replace(result, cases=[*result.cases, conclude(case)])
                store(with_advice(result))
    except Interrupted as signal:
        return with_advice(result), signal
    except (SockaccelError, OSError) as error:
        if found := interruption():
            found.__cause__ = error
            return with_advice(result), found
        if not result.cases:
            raise
        return with_advice(result), error
    return with_advice(replace(result, finished=_now())), None


def _cases(
    plan: Plan, rng: random.Random, report: Callable[[Progress], None]
) -> Generator[CaseResult, None, None]:
    counted = False
    for scenario in plan.scenarios:
        stage = Stage(scenario, plan.setting)
        unbuilt: list[str] = []
        # Twice: a signal is raised once, and may be so just before the inner clean-up.
        with closing(stage), ExitStack() as stack:
            try:
                stack.enter_context(stage)
            except (SockaccelError, OSError) as error:
                unbuilt = [_borne(error, counted=counted)]
            for case in scenario.cases:
                recorder = _Recorder(plan, scenario, case, report)
                recorder.problems += unbuilt
                try:
                    if not unbuilt:
                        order = balanced_order(recorder.arms, plan.rounds, rng)
                        recorder.attempt(stage, order, counted=counted)
                except Interrupted:
                    yield recorder.result()
                    raise
                counted = counted or recorder.counted
                yield recorder.result()


def _borne(error: SockaccelError | OSError, *, counted: bool) -> str:
    """Return what is a problem of a case or two; raise what ends the session.

    That is the signal whose clean-up met the error; and, before any run has counted, what
    this host cannot do, which every case would find out anew.
    """
    if signal := interruption():
        raise signal from error
    if not counted and isinstance(error, NotPermittedError | HostError):
        raise error
    return _text(error)


def _text(error: Exception) -> str:
    if isinstance(error, SockaccelError):
        return str(error)
    if isinstance(error, OSError) and error.errno:
        where = f" '{error.filename}'" if error.filename else ""
        return f"cannot measure: {reason(error)}{where}"
    return f"cannot measure: {error}"


class _Recorder:
    """Plays one case and keeps what was found."""

    def __init__(
        self, plan: Plan, scenario: Scenario, case: Case, report: Callable[[Progress], None]
    ) -> None:
        self.problems: list[str] = []
        self.arms = plan.arms_of(scenario)
        self._plan = plan
        self._scenario = scenario
        self._case = case
        self._cast = Cast(scenario, case)
        self._report = report
        self._metrics = metrics_of(scenario, case, plan.setting.topology)
        self._runs: list[Run] = []
        self._commands: dict[str, list[str]] = {}

    @property
    def counted(self) -> bool:
        """Whether there is a run besides the warm-ups."""
        return any(not run.warm_up for run in self._runs)

    def attempt(self, stage: Stage, order: Sequence[Sequence[Arm]], *, counted: bool) -> None:
        """Play it, and note the error of a run that could not be made as a problem.

        counted: whether another case has a run that counts; raises as _borne() does.
        """
        try:
            self._play_all(stage, order)
        except SockaccelError as error:
            self.problems.append(_borne(error, counted=counted or self.counted))

    def _play_all(self, stage: Stage, order: Sequence[Sequence[Arm]]) -> None:
        """Make a warm-up of each arm, then every round, up to the first problem."""
        for number, arms in enumerate([self.arms, *order]):
            played: list[Played] = []
            for position, arm in enumerate(arms, 1):
                played.append(self._play(stage, number, position, arm))
                if self._runs[-1].problems:
                    return
            if number and self._fails(played):
                return

    def result(self) -> CaseResult:
        """Return what was found."""
        scenario, case = self._scenario, self._case
        return CaseResult(
            scenario=scenario.name,
            case=case.name,
            title=scenario.title,
            topology=self._plan.setting.topology,
            parameters=case.parameters,
            commands=self._commands,
            arms=[str(arm) for arm in self.arms],
            # All of them, also where no run has got as far: gates name them.
            metrics=self._metrics,
            runs=self._runs,
            problems=self.problems,
        )

    def _play(self, stage: Stage, number: int, position: int, arm: Arm) -> Played:
        metric = self._metrics[0]
        progress = Progress(
            f"{self._scenario.name}/{self._case.name}", number, self._plan.rounds, arm, metric
        )
        self._report(progress)
        length = self._plan.seconds_of if number else self._plan.warm_up_s
        try:
            played = stage.play(self._cast, arm, length(self._scenario))
        except (OSError, subprocess.SubprocessError) as error:
            # Not that of a report, which nobody may be there to read.
            raise BenchError(_text(error)) from error
        outcome = played.evidence.outcome
        run = Run(
            round=number,
            position=position,
            arm=str(arm),
            warm_up=not number,
            seconds=outcome.seconds,
            metrics=values_of(played, streams=self._cast.client.streams),
            proof=played.evidence.proof,
            latency=outcome.latency,
            errors=outcome.errors,
            cpu=played.cpu,
            context_switches=played.context_switches,
            memory=played.memory,
            problems=problems_of_run(played.evidence),
        )
        self._runs.append(run)
        self._commands.update(played.commands)
        self._report(replace(progress, value=run.metrics.get(metric.name), problems=run.problems))
        return played

    def _fails(self, played: Sequence[Played]) -> bool:
        """Note what speaks against a round as a whole, and return whether anything does."""
        problems = problems_of_round([each.evidence for each in played])
        for arm, problem in problems.items():
            (run,) = (each for each in self._runs[-len(played) :] if each.arm == arm)
            run.problems.append(problem)
        return bool(problems)


def values_of(played: Played, *, streams: bool) -> dict[str, float]:
    """Return the values of Scenario.metrics(), those that there are."""
    outcome = played.evidence.outcome
    values = dict(outcome.metrics)
    short = per(streams=streams)[0]
    work = outcome.payload_bytes / GIB if streams else outcome.requests / 1e6
    if not work:
        return values
    values[f"cpu_s_per_{short}"] = played.cpu.seconds_total / work
    if played.context_switches:
        switches = played.context_switches
        count = switches.voluntary + switches.involuntary
        values[f"context_switches_per_{short}"] = count / work
    values["tcp_memory_bytes"] = float(played.memory.tcp_bytes)
    values["rss_bytes"] = float(played.memory.peak_rss_bytes)
    if not streams:
        values["interface_bytes_per_request"] = played.evidence.interface_bytes_per_request
    return values


def _versions(scenarios: Iterable[Scenario]) -> dict[str, str | None]:
    tools = {tool.name: tool for scenario in scenarios for tool in scenario.tools}
    return {
        "sockaccel": __version__,
        "python": platform.python_version(),
        **{name: tool.version() for name, tool in sorted(tools.items())},
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
