"""The session, on a stage that plays what it is told; the real one is in tests/kernel."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from sockaccel.bench import runner
from sockaccel.bench.arms import Arm
from sockaccel.bench.gate import judge, parse
from sockaccel.bench.proof import Evidence
from sockaccel.bench.result import (
    ContextSwitches,
    Cpu,
    Latency,
    LeftOut,
    Load,
    Memory,
    Proof,
    dumps,
    loads,
)
from sockaccel.bench.runner import SET_UP_S, Plan, Progress, run_plan
from sockaccel.bench.scenario import load_all
from sockaccel.bench.stage import Played, Setting
from sockaccel.bench.workloads.base import Outcome
from sockaccel.cli.bench_output import FORMS
from sockaccel.errors import BenchError, HostError, InputError, NotPermittedError
from sockaccel.signals import Interrupted, raising

if TYPE_CHECKING:
    from sockaccel.bench.scenario import Case, Scenario
    from sockaccel.bench.stage import Cast

SCENARIOS = load_all()
ECHO, STREAM = SCENARIOS["echo"], SCENARIOS["stream"]
REQUESTS = 1000
PROOFS = {
    Arm.BASELINE: Proof(False, 0, 0, 600_000),
    Arm.ACCELERATED: Proof(True, 128_000, 0, 100),
    Arm.TEXTBOOK: Proof(False, 0, 0, 100),
    Arm.UNIX: Proof(False, 0, 0, 0),
}


def play(cast: Cast, arm: Arm, seconds: float) -> Played:
    """Return a run that counts, twice as fast where it is accelerated."""
    latency = None
    payload = REQUESTS * 128
    metrics = {"bytes_s": payload / seconds}
    if not cast.client.streams:
        latency = Latency(Load.SATURATION, [(8.0, REQUESTS)])
        rate = REQUESTS / seconds * (2 if arm is Arm.ACCELERATED else 1)
        metrics = {"req_s": rate, "latency_saturated_us_p50": 8.0, "latency_saturated_us_p99": 8.0}
    outcome = Outcome(REQUESTS, seconds, payload, 0, metrics, ["client"], latency=latency)
    return Played(
        Evidence(arm, outcome, PROOFS[arm], 1, 0.9, others_on=False, data_packets=0),
        {"client": ["client"], "server": ["server"]},
        Memory(1000, 4096),
        Cpu(0.01, 0.02, 0.0, 0.01, 10.0),
        ContextSwitches(3, 1),
    )


class FakeStage:
    """Keeps what was asked for; `change` may spoil a run, by its number."""

    played: list[tuple[str, Arm, float]]
    opened = 0

    def __init__(self, scenario: Scenario, _: Setting) -> None:
        self.scenario = scenario

    def __enter__(self) -> FakeStage:
        FakeStage.build(self.scenario.name)
        FakeStage.opened += 1
        return self

    def __exit__(self, *_: object) -> None:
        FakeStage.opened -= 1
        FakeStage.remove(self.scenario.name)

    def close(self) -> None:
        assert FakeStage.opened == 0

    def play(self, cast: Cast, arm: Arm, seconds: float) -> Played:
        FakeStage.played.append((f"{self.scenario.name}/{cast.case.name}", arm, seconds))
        return FakeStage.change(len(FakeStage.played), play(cast, arm, seconds))

    @staticmethod
    def change(_: int, played: Played) -> Played:
        return played

    @staticmethod
    def build(_: str) -> None:
        pass

    @staticmethod
    def remove(_: str) -> None:
        pass


@pytest.fixture(autouse=True)
def stage(monkeypatch: pytest.MonkeyPatch) -> type[FakeStage]:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(runner, "Stage", FakeStage)
    monkeypatch.setattr(FakeStage, "played", [], raising=False)
    monkeypatch.setattr(FakeStage, "opened", 0)
    return FakeStage


def only(scenario: Scenario, *names: str) -> Scenario:
    cases: list[Case] = [case for case in scenario.cases if case.name in names]
    return replace(scenario, cases=tuple(cases))


def plan(*scenarios: Scenario, **changes: Any) -> Plan:
    made = Plan(scenarios, 6, None, list(Arm), False, Setting())
    return replace(made, **changes)


def test_every_case_has_a_warm_up_of_each_arm_then_its_rounds(stage: type[FakeStage]) -> None:
    result, interrupted = run_plan(plan(only(ECHO, "1", "64")))
    assert interrupted is None
    assert result.valid
    assert [name for name, _, _ in stage.played] == ["echo/1"] * 28 + ["echo/64"] * 28
    warm_up, counted = stage.played[:4], stage.played[4:28]
    assert {(arm, seconds) for _, arm, seconds in warm_up} == {(arm, 0.2) for arm in Arm}
    assert Counter((arm, seconds) for _, arm, seconds in counted) == {(arm, 1.0): 6 for arm in Arm}
    assert [{arm for _, arm, _ in counted[start : start + 4]} for start in range(0, 24, 4)] == [
        set(Arm)
    ] * 6
    case = result.cases[0]
    assert [run.round for run in case.runs] == [number for number in range(7) for _ in range(4)]
    assert [run.warm_up for run in case.runs] == [True] * 4 + [False] * 24
    (gain,) = (each for each in case.ratios if (each.arm, each.to) == ("accelerated", "baseline")
               and each.metric == "req_s")  # fmt: skip
    assert gain.median == 2.0


def test_how_long_it_takes_is_known_before(stage: type[FakeStage]) -> None:
    two_cases = plan(only(ECHO, "1", "64"))
    # 4 arms, each a warm-up of 0.2 s and 6 runs of 1 s, and half a second around every one.
    assert two_cases.estimated_s() == pytest.approx(2 * 4 * (0.2 + 6 * 1.0 + 7 * 0.5))
    run_plan(two_cases)
    around = two_cases.runs() * SET_UP_S["netns"]
    assert two_cases.estimated_s() - around == pytest.approx(sum(s for _, _, s in stage.played))
    shorter = replace(two_cases, seconds=0.1)
    assert shorter.estimated_s() == pytest.approx(2 * 4 * 7 * 0.6)


def test_the_order_is_that_of_the_seed_which_is_noted(stage: type[FakeStage]) -> None:
    result, _ = run_plan(plan(only(ECHO, "64")))
    assert isinstance(result.parameters["seed"], int)
    first = [arm for _, arm, _ in stage.played]
    stage.played.clear()
    run_plan(plan(only(ECHO, "64")))
    assert [arm for _, arm, _ in stage.played[:4]] == first[:4]  # the warm-ups
    assert [arm for _, arm, _ in stage.played] != first


def test_arms_and_seconds_are_those_that_are_asked_for(stage: type[FakeStage]) -> None:
    short = plan(only(ECHO, "64"), seconds=0.1, arms=[Arm.BASELINE, Arm.UNIX])
    result, _ = run_plan(short)
    assert short.runs() == len(stage.played) == 14
    assert {(arm, seconds) for _, arm, seconds in stage.played} == {
        (Arm.BASELINE, 0.1),
        (Arm.UNIX, 0.1),
    }
    assert result.cases[0].arms == ["baseline", "unix"]


def test_containers_have_neither_the_textbook_program_nor_a_unix_socket() -> None:
    arms = plan(setting=Setting(topology="docker")).arms_of(SCENARIOS["nginx-lb"])
    assert arms == [Arm.BASELINE, Arm.ACCELERATED]


def stop_at(number: int, error: BaseException | None = None) -> Any:
    def change(now: int, played: Played) -> Played:
        if now == number:
            raise error or Interrupted(2)
        return played

    return change


def spoil(number: int, **proof: Any) -> Any:
    def change(now: int, played: Played) -> Played:
        if now != number:
            return played
        evidence = played.evidence
        spoilt = replace(evidence, proof=replace(evidence.proof, **proof))
        return replace(played, evidence=spoilt)

    return change


@pytest.mark.parametrize("number", [2, 9])
def test_a_case_ends_at_its_first_run_that_does_not_count_and_the_next_begins(
    stage: type[FakeStage], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(stage, "change", staticmethod(spoil(number, active=True,
                                                            redirected_bytes=0)))  # fmt: skip
    reports: list[Progress] = []
    result, _ = run_plan(plan(only(ECHO, "1", "64")), report=reports.append)
    first, second = result.cases
    assert len(first.runs) == number
    assert (first.valid, second.valid, result.valid) == (False, True, False)
    assert first.ratios == []
    (problem,) = first.runs[-1].problems
    assert [report.problems for report in reports if report.problems] == [[problem]]


def test_a_round_whose_runs_contradict_each_other_ends_its_case(
    stage: type[FakeStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(_: int, played: Played) -> Played:
        if played.evidence.arm is not Arm.UNIX:
            return played
        return spoil(0, interface_bytes=500_000)(0, played)

    monkeypatch.setattr(stage, "change", staticmethod(change))
    result, _ = run_plan(plan(only(ECHO, "64")))
    (case,) = result.cases
    assert len(case.runs) == 8
    assert {run.arm for run in case.runs if run.problems} == {"unix"}
    assert not case.valid


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (BenchError("cannot measure the echo: no"), "cannot measure the echo: no"),
        (
            InputError("cannot use network namespace 'x': no"),
            "cannot use network namespace 'x': no",
        ),
        (
            FileNotFoundError(errno.ENOENT, "", "/sys/fs/cgroup/x/cpu.stat"),
            "cannot measure: no such file or directory (ENOENT) '/sys/fs/cgroup/x/cpu.stat'",
        ),
        (TimeoutError("timed out"), "cannot measure: timed out"),
        (
            subprocess.TimeoutExpired("nginx", 10.0),
            "cannot measure: Command 'nginx' timed out after 10.0 seconds",
        ),
    ],
)
def test_a_run_that_could_not_be_made_is_a_problem_of_its_case(
    stage: type[FakeStage], monkeypatch: pytest.MonkeyPatch, error: Exception, problem: str
) -> None:
    monkeypatch.setattr(stage, "change", staticmethod(stop_at(3, error)))
    result, ending = run_plan(plan(only(ECHO, "1", "64")))
    assert ending is None
    assert result.cases[0].problems == [problem]
    assert [case.valid for case in result.cases] == [False, True]
    assert stage.opened == 0


@pytest.mark.parametrize("kind", [HostError, NotPermittedError])
@pytest.mark.parametrize("number", [1, 4])
def test_what_this_host_cannot_do_ends_the_session_before_a_run_has_counted(
    stage: type[FakeStage], monkeypatch: pytest.MonkeyPatch, kind: type[Exception], number: int
) -> None:
    monkeypatch.setattr(stage, "change", staticmethod(stop_at(number, kind("cannot enable: no"))))
    with pytest.raises(kind):
        run_plan(plan(only(ECHO, "1", "64")))
    assert stage.opened == 0
    assert len(stage.played) == number


@pytest.mark.parametrize("number", [6, 30])
def test_what_this_host_could_do_before_is_a_problem_of_one_case(
    stage: type[FakeStage], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    change = stop_at(number, HostError("cannot enable: no"))
    monkeypatch.setattr(stage, "change", staticmethod(change))
    result, ending = run_plan(plan(only(ECHO, "1", "64", "1024")))
    assert ending is None
    assert [case.valid for case in result.cases] == [number == 30, number != 30, True]
    assert result.finished


def test_a_session_whose_reports_nobody_reads_ends(stage: type[FakeStage]) -> None:
    def report(progress: Progress) -> None:
        if progress.value:
            raise BrokenPipeError(errno.EPIPE, "broken pipe")

    with pytest.raises(BrokenPipeError):
        run_plan(plan(only(ECHO, "1", "64")), report=report)
    assert len(stage.played) == 1
    assert stage.opened == 0


def failing(name: str, error: Exception) -> Any:
    def fail(scenario: str) -> None:
        if scenario == name:
            raise error

    return staticmethod(fail)


def test_a_lab_that_cannot_be_built_makes_its_cases_invalid_and_the_next_scenario_begins(
    stage: type[FakeStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = BenchError("cannot start dockerd: no answer in 30 s")
    monkeypatch.setattr(stage, "build", failing("echo", error))
    result, ending = run_plan(plan(only(ECHO, "1", "64"), only(STREAM, "16384")))
    assert ending is None
    assert [case.all_problems for case in result.cases] == [[str(error)], [str(error)], []]
    assert {name for name, _, _ in stage.played} == {"stream/16384"}


def test_a_host_without_labs_ends_the_session(
    stage: type[FakeStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "build", failing("echo", HostError("cannot run 'ip': no")))
    with pytest.raises(HostError, match="cannot run 'ip'"):
        run_plan(plan(only(ECHO, "1", "64"), only(STREAM, "16384")))
    monkeypatch.setattr(stage, "build", failing("stream", HostError("cannot run 'ip': no")))
    result, _ = run_plan(plan(only(ECHO, "64"), only(STREAM, "16384")))
    assert [case.valid for case in result.cases] == [True, False]


@pytest.mark.parametrize("error", [BenchError("cannot remove it"), OSError(errno.EBUSY, "busy")])
def test_a_lab_that_cannot_be_removed_ends_the_session_and_what_was_done_is_reported(
    stage: type[FakeStage], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(stage, "remove", failing("echo", error))
    result, ending = run_plan(plan(only(ECHO, "1", "64"), only(STREAM, "16384")))
    assert ending is error
    assert [case.id for case in result.cases] == ["echo/1", "echo/64"]
    assert all(case.valid for case in result.cases)
    assert (result.finished, result.valid) == (None, False)


@pytest.mark.parametrize("clean_up", ["play", "build", "remove"])
def test_a_signal_ends_the_session_also_when_its_clean_up_fails(
    stage: type[FakeStage], monkeypatch: pytest.MonkeyPatch, clean_up: str
) -> None:
    error = BenchError("cannot disable sockaccel: no")

    def signalled() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            if clean_up != "remove":
                raise error

    def change(now: int, played: Played) -> Played:
        if clean_up != "build" and now == 35:
            signalled()
        return played

    def build(scenario: str) -> None:
        if clean_up == "build" and scenario == "stream":
            signalled()

    monkeypatch.setattr(stage, "change", staticmethod(change))
    monkeypatch.setattr(stage, "build", staticmethod(build))
    if clean_up == "remove":
        monkeypatch.setattr(stage, "remove", failing("echo", error))
    with raising():
        result, ending = run_plan(plan(only(ECHO, "1", "64"), only(STREAM, "16384")))
    assert isinstance(ending, Interrupted)
    assert ending.exit_code == 130
    assert ending.__cause__ is error
    assert result.finished is None
    assert [case.valid for case in result.cases] == [True, clean_up == "build"]
    assert len(stage.played) == (56 if clean_up == "build" else 35)


def test_a_signal_ends_the_session_and_what_was_done_is_reported(
    stage: type[FakeStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "change", staticmethod(stop_at(35)))
    stored = []
    result, interrupted = run_plan(plan(only(ECHO, "1", "64", "1024")), store=stored.append)
    assert interrupted is not None
    assert interrupted.exit_code == 130
    assert result.finished is None
    assert not result.valid
    first, second = result.cases
    assert (first.valid, second.valid) == (True, False)
    assert len(second.runs) == 6
    assert [len(each.cases) for each in stored] == [1, 2]
    assert stage.opened == 0


def test_a_result_that_cannot_be_stored_leaves_nothing_behind(stage: type[FakeStage]) -> None:
    error = HostError("cannot write: no room")

    def store(_: object) -> None:
        raise error

    result, ending = run_plan(plan(only(ECHO, "64", "1024")), store=store)
    assert ending is error
    assert [case.id for case in result.cases] == ["echo/64"]
    assert stage.opened == 0


def test_what_was_left_out_is_in_the_result() -> None:
    left_out = [LeftOut("redis", "'redis-benchmark' is not installed", "apt-get install")]
    assert run_plan(plan(only(ECHO, "64")), left_out)[0].left_out == left_out


def test_what_is_not_known_in_containers_is_no_metric(
    stage: type[FakeStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(_: int, played: Played) -> Played:
        return replace(played, context_switches=None)

    monkeypatch.setattr(stage, "change", staticmethod(change))
    in_containers = Setting(topology="docker")
    result, _ = run_plan(plan(only(ECHO, "64"), only(STREAM, "16384"), setting=in_containers))
    assert result.valid
    for case in result.cases:
        assert {metric.name for metric in case.metrics} == set(case.runs[0].metrics)
        assert not [name for name in case.runs[0].metrics if name.startswith("context")]


def test_a_case_whose_only_run_measured_nothing_is_judged_and_shown_as_invalid(
    stage: type[FakeStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(_: int, played: Played) -> Played:
        outcome = replace(played.evidence.outcome, requests=0, metrics={"req_s": 0.0}, latency=None)
        return replace(played, evidence=replace(played.evidence, outcome=outcome))

    monkeypatch.setattr(stage, "change", staticmethod(change))
    result, _ = run_plan(plan(only(ECHO, "64")))
    gates = [
        parse(f"echo.{name}.ratio<=1")
        for name in ("req_s", "latency_saturated_us_p99", "context_switches_per_million")
    ]
    found = judge(gates, loads(dumps(result), "it"))
    assert [each.text.partition(": ")[2] for each in found] == [
        "INVALID: baseline: no request was answered"
    ] * 3
    for form in FORMS.values():
        assert "no request was answered" in form(result)


def test_costs_are_reckoned_by_request_or_by_gibibyte() -> None:
    result, _ = run_plan(plan(only(ECHO, "64"), only(STREAM, "16384")))
    echo, stream = (case.runs[0].metrics for case in result.cases)
    assert echo["cpu_s_per_million"] == pytest.approx(10.0)
    assert echo["context_switches_per_million"] == pytest.approx(4000.0)
    assert echo["interface_bytes_per_request"] == 600.0
    assert stream["cpu_s_per_gib"] == pytest.approx(0.01 / 128_000 * 2**30)
    assert "interface_bytes_per_request" not in stream
    for case in result.cases:
        assert {metric.name for metric in case.metrics} == set(case.runs[0].metrics)


def test_each_run_is_reported_when_it_begins_and_when_it_ends() -> None:
    reports: list[Progress] = []
    run_plan(plan(only(ECHO, "64")), report=reports.append)
    assert [report.value is None for report in reports] == [True, False] * 28
    assert {report.case for report in reports} == {"echo/64"}


def test_only_root_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Exception, match="not root"):
        run_plan(plan(only(ECHO, "64")))
