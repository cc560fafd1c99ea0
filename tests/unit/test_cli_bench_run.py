from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from sockaccel.bench.arms import Arm
from sockaccel.bench.result import Better, LeftOut, Metric, Result
from sockaccel.bench.runner import Plan, Progress
from sockaccel.bench.scenario import load_all
from sockaccel.cli import bench_run
from sockaccel.cli.bench_progress import ProgressLine
from sockaccel.cli.bench_run import choose
from sockaccel.cli.main import cli
from sockaccel.errors import BenchError, HostError, InputError, SockaccelError
from sockaccel.signals import Interrupted

if TYPE_CHECKING:
    from collections.abc import Sequence

SCENARIOS = load_all()


def result(**changes: Any) -> Result:
    fields = {
        "id": "x", "started": "2026-01-01T00:00:00+00:00", "finished": None, "commit": None,
        "command": ["sockaccel"], "machine": {"cores": 2, "cpu": "a CPU", "kernel": "6.1"},
        "versions": {}, "parameters": {}, "cases": [],
    }  # fmt: skip
    return Result(**{**fields, **changes})


class Session:
    """Stands for run_plan(), and keeps what it was asked for."""

    def __init__(self, ending: Interrupted | SockaccelError | OSError | None = None) -> None:
        self.plan: Plan | None = None
        self.left_out: list[LeftOut] = []
        self._ending = ending

    def __call__(
        self, plan: Plan, left_out: Sequence[LeftOut], **_: object
    ) -> tuple[Result, Interrupted | SockaccelError | OSError | None]:
        self.plan, self.left_out = plan, list(left_out)
        return result(left_out=self.left_out), self._ending


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    made = Session()
    monkeypatch.setattr(bench_run, "run_plan", made)
    monkeypatch.setattr(bench_run, "default_policy", lambda: "safe")
    return made


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["bench", "run", *arguments], standalone_mode=False)


def without_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *present: str) -> None:
    for name in present:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sockaccel.bench.process.SYSTEM_PATH", str(tmp_path))
    monkeypatch.setattr("sockaccel.bench.workloads.postgres._VERSIONS", tmp_path)


def test_all_scenarios_are_the_default(session: Session) -> None:
    run()
    assert session.plan
    assert [each.name for each in session.plan.scenarios] == list(SCENARIOS)
    assert (session.plan.rounds, session.plan.seconds, session.plan.quick) == (10, None, False)
    assert session.plan.arms == list(Arm)


def test_quick_is_short(session: Session) -> None:
    run("--quick")
    assert session.plan
    assert (session.plan.rounds, session.plan.seconds, session.plan.quick) == (6, 0.5, True)
    assert session.plan.arms == [Arm.BASELINE, Arm.ACCELERATED]
    cases = [case for scenario in session.plan.scenarios for case in scenario.cases]
    assert 0 < len(cases) <= 5
    assert all(case.quick for case in cases)


def test_quick_does_not_ask_for_programs_of_scenarios_that_it_does_not_run(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_tools(monkeypatch, tmp_path, "cc", "nginx", "wrk")
    run("--quick")
    assert [each.scenario for each in session.left_out] == ["redis"]


def test_a_named_scenario_without_a_quick_case_is_an_error(session: Session) -> None:
    error = run("postgres", "--quick").exception
    assert isinstance(error, InputError)
    assert error.hint == "sockaccel bench run postgres"
    assert session.plan is None


def test_options_reach_the_plan(session: Session) -> None:
    run("echo/64", "--arm", "unix", "--pairs", "7", "--seconds", "2.5", "--policy", "all")
    assert session.plan
    (scenario,) = session.plan.scenarios
    assert [case.name for case in scenario.cases] == ["64"]
    assert session.plan.arms == [Arm.BASELINE, Arm.UNIX]
    assert (session.plan.rounds, session.plan.seconds) == (7, 2.5)
    assert session.plan.setting.policy == "all"


def test_a_parameter_can_have_another_value_than_the_scenario_says(session: Session) -> None:
    run("nginx-lb/upstream-keepalive-on", "--set", "sendfile=true", "--set", "connections=7")
    assert session.plan
    ((case,),) = (scenario.cases for scenario in session.plan.scenarios)
    assert case.parameters == {
        **SCENARIOS["nginx-lb"].cases[0].parameters, "sendfile": True, "connections": 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "said", "hint"),
    [
        ("sendfile", "cannot set 'sendfile': it is not NAME=VALUE", "--set sendfile=true"),
        ("=1", "cannot set '=1': it is not NAME=VALUE", "--set sendfile=true"),
        (
            "sendfle=true",
            "cannot set a parameter of 'nginx-lb': there is no parameter 'sendfle'",
            "'sendfile' may be meant",
        ),
        (
            "message_bytes=1_000_000_000_000",
            (
                "cannot set a parameter of 'nginx-lb': parameter message_bytes is not from 1 to"
                " 16,777,216 but 1,000,000,000,000"
            ),
            "sockaccel bench list nginx-lb",
        ),
        (
            f"connections=0x{'f' * 5000}",
            (
                "cannot set a parameter of 'nginx-lb': parameter connections is not from 1 to 1,000"
                " but a number of more than 64 bits"
            ),
            "sockaccel bench list nginx-lb",
        ),
        (
            f"threads={'9' * 5000}",
            (
                "cannot set a parameter of 'nginx-lb': parameter threads is not an integer but"
                f" '{'9' * 59}"
            ),
            "sockaccel bench list nginx-lb",
        ),
        (
            f"least_redirected=0x{'f' * 5000}",
            "cannot set a parameter of 'nginx-lb': parameter least_redirected is too large",
            "sockaccel bench list nginx-lb",
        ),
        (
            "connections=1",
            "cannot set a parameter of 'nginx-lb': threads are 2, more than connections",
            "sockaccel bench list nginx-lb",
        ),
        (
            "message_bytes=16_000_000",
            (
                "cannot set a parameter of 'nginx-lb': message_bytes x connections is more than"
                " 512 MiB"
            ),
            "sockaccel bench list nginx-lb",
        ),
        (
            "sendfile=1",
            "cannot set a parameter of 'nginx-lb': parameter sendfile is not true or false but 1",
            "sockaccel bench list nginx-lb",
        ),
        (
            "upstream_keepalive=false",
            "cannot set a parameter of 'nginx-lb': upstream_keepalive is what its cases differ in",
            "sockaccel bench list nginx-lb",
        ),
    ],
)
def test_a_parameter_that_cannot_be_set_is_an_error(
    session: Session, setting: str, said: str, hint: str
) -> None:
    error = run("nginx-lb/upstream-keepalive-on", "--set", setting).exception
    assert isinstance(error, InputError)
    assert (str(error), error.hint) == (said, hint)
    assert session.plan is None


def test_a_kernel_that_leaves_nginx_on_tcp_is_measured_with_the_other_policy_and_that_is_said(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_run, "default_policy", lambda: "all")
    done = run("echo")
    assert session.plan
    assert session.plan.setting.policy == "all"
    assert "measured with --policy all" in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["--pairs", "5"],
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--arm", "baseline"],
        ["--topology", "vm"],
    ],
)
def test_unusable_options_are_refused(session: Session, arguments: list[str]) -> None:
    done = CliRunner().invoke(cli, ["bench", "run", *arguments])
    assert done.exit_code == 2
    assert session.plan is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ngnix-lb", "sockaccel bench run nginx-lb"),
        ("echo/1025", "sockaccel bench run echo/1024"),
        ("echoes/64", "sockaccel bench run echo"),
        ("quite-another-thing", "sockaccel bench list"),
    ],
)
def test_an_unknown_scenario_is_an_error_with_the_nearest_one(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"cannot run scenario '{name}'") as raised:
        choose(SCENARIOS, [name])
    assert raised.value.hint == hint


def test_a_scenario_and_some_of_its_cases_are_chosen_once() -> None:
    (echo,) = choose(SCENARIOS, ["echo/64", "echo/1"])
    assert [case.name for case in echo.cases] == ["1", "64"]
    (echo,) = choose(SCENARIOS, ["echo/64", "echo"])
    assert len(echo.cases) == len(SCENARIOS["echo"].cases)


def test_what_cannot_be_run_is_left_out_and_said(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_tools(monkeypatch, tmp_path, "cc")
    done = run()
    assert session.plan
    assert {each.name for each in session.plan.scenarios} == {
        "echo", "echo-rate", "stream", "stream-default", "connect", "slow-reader",
    }  # fmt: skip
    assert (
        LeftOut("redis", "'redis-server' is not installed", "apt-get install redis-server")
        in session.left_out
    )
    assert "Left out: redis: 'redis-server' is not installed" in done.output


def test_a_named_scenario_that_cannot_be_run_is_an_error(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_tools(monkeypatch, tmp_path, "cc", "redis-server")
    error = run("redis").exception
    assert isinstance(error, HostError)
    assert error.exit_code == 78
    assert str(error) == "cannot run scenario 'redis': 'redis-benchmark' is not installed"
    assert error.hint == "apt-get install redis-tools"
    assert session.plan is None


def test_nothing_that_can_be_run_is_an_error(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_tools(monkeypatch, tmp_path)
    assert isinstance(run().exception, HostError)
    assert session.plan is None


def test_a_scenario_without_a_form_in_containers_is_an_error(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_run.dockerd, "missing", list)
    error = run("redis", "--topology", "docker").exception
    assert isinstance(error, HostError)
    assert error.hint == "--topology netns"
    monkeypatch.setattr(bench_run.dockerd, "missing", lambda: ["dockerd"])
    error = run("nginx-lb", "--topology", "docker").exception
    assert isinstance(error, HostError)
    assert error.hint == "scripts/setup --docker"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "cpus=one"], "cannot set cpus of 'nginx-lb' to 'one': containers have all"),
        (["--cgroup", "/a/group"], "cannot measure in cgroup '/a/group': containers are in"),
    ],
)
def test_what_containers_cannot_be_measured_with_is_refused_before_anything_runs(
    session: Session, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.setattr(bench_run.dockerd, "missing", list)
    monkeypatch.setattr(bench_run, "check_cgroup", Path)
    error = run("nginx-lb", "--topology", "docker", *arguments).exception
    assert isinstance(error, InputError)
    assert str(error).startswith(said)
    assert error.hint == "--topology netns"
    assert session.plan is None
    run("nginx-lb", *arguments)
    assert session.plan


def test_a_temporary_directory_that_keeps_servers_out_is_said_before_they_are_started(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench_run, "closed_directory", lambda: tmp_path)
    error = run("nginx-lb").exception
    assert isinstance(error, HostError)
    assert str(error) == (
        "cannot run scenario 'nginx-lb': its servers are not root, and"
        f" '{tmp_path}' keeps them from temporary files"
    )
    assert error.hint == "TMPDIR=/tmp sockaccel bench run nginx-lb"
    assert session.plan is None
    run()
    left_out = {"nginx-direct", "nginx-large", "nginx-lb", "postgres"}
    assert {each.scenario for each in session.left_out} == left_out
    monkeypatch.setattr(bench_run.dockerd, "missing", list)
    run("nginx-lb", "--topology", "docker")
    assert session.plan
    assert [each.name for each in session.plan.scenarios] == ["nginx-lb"]


def test_a_scenario_without_the_wanted_arm_is_an_error_or_left_out(session: Session) -> None:
    error = run("nginx-lb", "--arm", "unix").exception
    assert isinstance(error, HostError)
    assert (str(error), error.hint) == (
        "cannot run scenario 'nginx-lb': it has no arm unix in topology netns",
        "--arm accelerated",
    )
    run("--arm", "unix")
    assert {each.scenario for each in session.left_out} == {
        "nginx-lb", "nginx-direct", "nginx-large",
    }  # fmt: skip


def test_a_gate_that_names_nothing_is_refused_before_anything_runs(session: Session) -> None:
    error = run("echo", "--gate", "echo.req_ss.ratio>=1").exception
    assert isinstance(error, InputError)
    assert session.plan is None


def test_a_gate_on_what_is_not_known_in_containers_is_refused_before_anything_runs(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_run.dockerd, "missing", list)
    gate = "nginx-lb.context_switches_per_million.ratio<=1"
    error = run("nginx-lb", "--topology", "docker", "--gate", gate).exception
    assert isinstance(error, InputError)
    name = "context_switches_per_million"
    assert str(error) == f"cannot use gate '{gate}': '{name}' is not measured in topology docker"
    assert error.hint == "--topology netns"
    assert session.plan is None
    run("nginx-lb", "--gate", gate)
    assert session.plan


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, session: Session) -> None:
    assert run("echo").return_value == 1  # no case is no valid result
    monkeypatch.setattr(bench_run, "run_plan", Session(Interrupted(2)))
    done = run("echo")
    assert done.return_value == 130
    assert "Interrupted by SIGINT; everything was removed." in done.output


def test_an_error_that_ends_the_session_comes_after_what_was_done_until_then(
    monkeypatch: pytest.MonkeyPatch, session: Session, tmp_path: Path
) -> None:
    error = BenchError("cannot remove network namespace 'x': no", "ip netns delete x")
    monkeypatch.setattr(bench_run, "run_plan", Session(error))
    saved, junit = tmp_path / "result.json", tmp_path / "junit.xml"
    done = run("echo", "--save", str(saved), "--junit", str(junit))
    assert done.exception is error
    assert "INTERRUPTED" in done.output
    assert json.loads(saved.read_text())["finished"] is None
    assert junit.exists()


def test_a_signal_whose_clean_up_failed_says_what_is_left(
    monkeypatch: pytest.MonkeyPatch, session: Session
) -> None:
    for left, said in [
        (BenchError("cannot remove 'x': no", "rmdir x"), "Error: cannot remove 'x': no"),
        (OSError(errno.EBUSY, "busy"), "Error: cannot remove what was built: "),
    ]:
        signal = Interrupted(15)
        signal.__cause__ = left
        monkeypatch.setattr(bench_run, "run_plan", Session(signal))
        done = run("echo")
        assert done.return_value == 143
        assert said in done.output
        assert "Interrupted by SIGTERM; not everything may have been removed." in done.output


def test_the_list_has_every_scenario_and_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_tools(monkeypatch, tmp_path, "cc")
    shown = CliRunner().invoke(cli, ["bench", "list"]).output
    lines = {line.split()[0]: line for line in shown.splitlines()}
    assert set(lines) == {"SCENARIO", *SCENARIOS}
    assert lines["redis"].endswith("redis-server")
    assert lines["echo"].endswith("one core")
    data = json.loads(CliRunner().invoke(cli, ["bench", "list", "-o", "json"]).output)
    assert data["schema"] == "sockaccel.bench-list/1"
    redis = next(each for each in data["scenarios"] if each["name"] == "redis")
    assert (redis["missing"], redis["hint"]) == ("redis-server", "apt-get install redis-server")
    assert redis["cases"][0]["metrics"][0] == "req_s"


def test_the_list_of_a_named_scenario_has_its_cases() -> None:
    shown = CliRunner().invoke(cli, ["bench", "list", "redis", "echo/64"]).output
    names = [line.split()[0] for line in shown.splitlines()[1:]]
    assert names == [*(f"redis/{case.name}" for case in SCENARIOS["redis"].cases), "echo/64"]
    assert "message_bytes=64" in shown
    assert run_list("no-such-thing").exit_code == 1


def run_list(name: str) -> Any:
    return CliRunner().invoke(cli, ["bench", "list", name])


def progress(**changes: Any) -> Progress:
    metric = Metric("req_s", "requests/s", "1/s", Better.HIGHER)
    fields: dict[str, Any] = {"case": "echo/64", "round": 2, "rounds": 6, "arm": Arm.BASELINE}
    return Progress(**{**fields, "metric": metric, **changes})


def test_without_a_terminal_there_is_a_line_for_each_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show = ProgressLine(28)
    show(progress(round=0))
    show(progress(round=0, value=1000.0))
    show(progress())
    show(progress(value=23456.0))
    show.clear()
    assert capsys.readouterr().err.splitlines() == [
        "[1/28] echo/64, warm-up, plain TCP: 1,000 requests/s",
        "[2/28] echo/64, pair 2/6, plain TCP: 23,456 requests/s",
    ]


def test_a_run_that_does_not_count_is_shown_with_its_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ProgressLine(28)(progress(problems=["baseline: no request was answered"]))
    assert capsys.readouterr().err.splitlines() == [
        "[1/28] echo/64, pair 2/6, plain TCP",
        "INVALID  echo/64: baseline: no request was answered",
    ]


def test_on_a_terminal_there_is_one_line_that_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    show = ProgressLine(28)
    show(progress())
    show(progress(value=23456.0))
    show.clear()
    said = capsys.readouterr().err
    assert "\n" not in said
    assert said.count("\r") == 3
