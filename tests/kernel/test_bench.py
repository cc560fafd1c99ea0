"""The benchmark itself, in a short form: every workload runs and proves its arms, a broken one
is INVALID, a signal leaves nothing behind.

Ratios are not asserted: a busy machine is no defect of ours.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from sockaccel.bench.accelerator import COMMAND as COMMAND_OF_SOCKACCEL
from sockaccel.bench.arms import Arm
from sockaccel.bench.cgroup import Cgroup, cgroup_of
from sockaccel.bench.lab import NETNS_DIR
from sockaccel.bench.proof import problems_of_round, problems_of_run
from sockaccel.bench.scenario import load_all, overruled
from sockaccel.bench.stage import Cast, Setting, Stage, default_policy
from sockaccel.bench.workloads import redis
from sockaccel.cli import bench_run
from sockaccel.cli.main import cli
from sockaccel.scope.cgroup import default_cgroup
from sockaccel.scope.netns import in_netns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sockaccel.bench.workloads.base import Outcome, Place

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = load_all()
PINS = Path("/sys/fs/bpf")
SECONDS = 0.3
COMMAND = [sys.executable, "-m", "sockaccel", "bench", "run"]
# One of each kind; streams of small writes and slow readers stay on TCP for a part.
CASES = [
    "connect/64",
    "echo/16384",
    "echo-rate/64",
    "nginx-direct/only",
    "nginx-large/only",
    "nginx-lb/upstream-keepalive-on",
    "nginx-lb/upstream-keepalive-off",
    "postgres/clients-1",
    "redis/set-clients-50-pipeline-16",
    "slow-reader/16384",
    "stream/64",
    "stream/65536",
]


def left() -> set[str]:
    NETNS_DIR.mkdir(exist_ok=True)
    places = (PINS, NETNS_DIR, default_cgroup())
    return {name for place in places for name in os.listdir(place) if "sockaccel" in name}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = left()
    yield
    mine = f"{os.getpid()}"
    assert not {name for name in left() - before if mine in name}


@pytest.fixture(scope="module")
def policy() -> str:
    return default_policy()


@contextmanager
def staged(name: str, setting: Setting, **parameters: Any) -> Iterator[tuple[Stage, Cast]]:
    scenario_name, _, case_name = name.partition("/")
    scenario = overruled(SCENARIOS[scenario_name], parameters)
    (case,) = (each for each in scenario.cases if each.name == case_name)
    stage = Stage(scenario, setting)
    with closing(stage), stage:
        yield stage, Cast(scenario, case)


@pytest.mark.parametrize("name", CASES)
def test_every_arm_of_a_workload_proves_itself_and_what_it_costs(name: str, policy: str) -> None:
    scenario = SCENARIOS[name.partition("/")[0]]
    with staged(name, Setting(policy=policy)) as (stage, cast):
        runs = [stage.play(cast, arm, SECONDS) for arm in scenario.arms]
    for run in runs:
        assert problems_of_run(run.evidence) == []
        assert run.evidence.outcome.requests > 0
        assert run.cpu.seconds_total > 0
        assert run.context_switches is not None
        assert run.context_switches.voluntary > 0
        assert run.memory.peak_rss_bytes > 1 << 20
        assert set(run.commands) == {*(at.node for at in scenario.servers), scenario.client.node}
    assert problems_of_round([run.evidence for run in runs]) == {}


def connections_opened(namespace: Path) -> int:
    """Return how many TCP connections the programs of a network namespace have asked for."""
    text = in_netns(namespace, Path("/proc/thread-self/net/snmp").read_text)
    names, values = (line.split() for line in text.splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("ActiveOpens")])


def test_a_load_balancer_keeps_few_upstream_connections_and_none_on_plain_tcp(policy: str) -> None:
    """With one client they are one for each web server, so that each has half of the bytes."""
    alone = {"connections": 1, "threads": 1, "balancer_workers": 1}
    setting = Setting(policy=policy)
    with staged("nginx-lb/upstream-keepalive-on", setting, **alone) as (stage, cast):
        evidence = stage.play(cast, Arm.ACCELERATED, 1).evidence
        opened = connections_opened(stage.lab.nodes["balancer"].path)
    assert problems_of_run(evidence) == []
    assert evidence.outcome.requests > 3000
    assert opened <= 4
    assert evidence.data_packets < evidence.outcome.requests / 100


def test_an_accelerated_run_beside_connections_that_sockaccel_never_saw_is_invalid(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(policy=policy)
    with staged("redis/get-clients-50-pipeline-1", setting) as (stage, cast):
        load = cast.client.load

        def partly_plain(at: Place, server: Place, seconds: float) -> Outcome:
            stage.accelerator.disable()
            plain = load(at, server, seconds)
            stage.accelerator.enable()
            other = load(at, server, seconds)
            return replace(
                other,
                requests=plain.requests + other.requests,
                payload_bytes=plain.payload_bytes + other.payload_bytes,
            )

        monkeypatch.setattr(cast.client, "load", partly_plain)
        evidence = stage.play(cast, Arm.ACCELERATED, 1).evidence
    (problem,) = problems_of_run(evidence)
    assert problem.startswith("accelerated: sockaccel counted ")
    # Not even where they are few.
    assert evidence.proof.redirected_bytes > 64 * evidence.outcome.requests


def afterwards(
    monkeypatch: pytest.MonkeyPatch, cast: Cast, what: str, act: Callable[[Place, Place], None]
) -> None:
    """Have something done as soon as the client has prepared or loaded."""
    does = getattr(cast.client, what)

    def and_then(at: Place, server: Place, *seconds: float) -> Any:
        done = does(at, server, *seconds)
        act(at, server)
        return done

    monkeypatch.setattr(cast.client, what, and_then)


def test_a_load_balancer_that_answers_with_errors_is_invalid(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(policy=policy)
    with staged("nginx-lb/upstream-keepalive-on", setting) as (stage, cast):

        def end_the_web_servers(*_: Place) -> None:
            for child in stage._children[:2]:
                child.end()

        afterwards(monkeypatch, cast, "prepare", end_the_web_servers)
        run = stage.play(cast, Arm.BASELINE, SECONDS)
    failed, *more = problems_of_run(run.evidence)
    assert failed.startswith("baseline: ")
    assert "failed requests" in failed
    assert "status" in failed
    assert any("baseline: nginx: " in problem for problem in more)


def test_redis_whose_gets_find_nothing_is_invalid(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with staged("redis/get-clients-50-pipeline-1", Setting(policy=policy)) as (stage, cast):

        def lose_the_value(at: Place, server: Place) -> None:
            redis.ask(at, server, f"DEL {redis.KEY}")

        afterwards(monkeypatch, cast, "prepare", lose_the_value)
        run = stage.play(cast, Arm.BASELINE, SECONDS)
    assert "baseline: redis has done 0 of 20000 commands (keyspace_hits)" in problems_of_run(
        run.evidence
    )


def test_a_baseline_in_which_sockaccel_was_on_for_a_while_is_invalid(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off before and after, and with more bytes on the interfaces than the payload needs."""
    with staged("echo/64", Setting(policy=policy)) as (stage, cast):
        load = cast.client.load

        def partly_accelerated(at: Place, server: Place, seconds: float) -> Outcome:
            plain = load(at, server, seconds)
            stage.accelerator.enable()
            other = load(at, server, seconds / 10)
            stage.accelerator.disable()
            return replace(
                plain,
                requests=plain.requests + other.requests,
                payload_bytes=plain.payload_bytes + other.payload_bytes,
                packets=plain.packets + other.packets,
            )

        monkeypatch.setattr(cast.client, "load", partly_accelerated)
        run = stage.play(cast, Arm.BASELINE, SECONDS)
    assert not run.evidence.proof.active
    assert not run.evidence.others_on
    (problem,) = problems_of_run(run.evidence)
    assert "something else redirected meanwhile" in problem


def test_a_server_that_had_to_be_killed_makes_its_run_invalid(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What such a one has used is not added up, and would be too little or below nothing."""
    with staged("echo/64", Setting(policy=policy)) as (stage, cast):

        def stop_the_server(*_: Place) -> None:
            os.kill(stage._children[0].pid, signal.SIGSTOP)

        afterwards(monkeypatch, cast, "load", stop_the_server)
        run = stage.play(cast, Arm.BASELINE, SECONDS)
    assert problems_of_run(run.evidence) == [
        "baseline: the server on 'server' had to be killed: what it has used is not known"
    ]
    assert run.cpu.seconds_total > 0


def test_a_postgres_that_was_killed_is_not_taken_for_the_next_one(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with staged("postgres/clients-1", Setting(policy=policy)) as (stage, cast):

        def kill_the_server(*_: Place) -> None:
            os.kill(stage._children[0].pid, signal.SIGKILL)

        afterwards(monkeypatch, cast, "load", kill_the_server)
        for _ in range(3):
            assert stage.play(cast, Arm.BASELINE, SECONDS).evidence.outcome.requests > 0


def test_children_are_born_in_a_cgroup_that_their_parent_only_visits() -> None:
    own = cgroup_of("self")
    with Cgroup(f"sockaccel_born_{os.getpid()}") as cgroup:
        with cgroup.entered():
            child = subprocess.Popen(["sleep", "60"])
        try:
            assert cgroup_of(child.pid) == cgroup.path
            assert cgroup_of("self") == own
        finally:
            child.kill()
            child.wait()


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=170, check=False
    )


def test_sockaccel_on_the_wrong_cgroup_is_invalid_and_not_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Cgroup(f"sockaccel_wrong_{os.getpid()}") as wrong:
        # sockaccel itself, called by someone who mistakes the cgroup.
        script = (
            "import os, sys; argv = sys.argv[1:];"
            f" argv += ['--cgroup', {str(wrong.path)!r}] if 'enable' in argv else [];"
            " os.execv(argv[0], argv)"
        )
        command = [sys.executable, "-c", script, *COMMAND_OF_SOCKACCEL]
        monkeypatch.setattr(bench_run, "Setting", partial(Setting, command=command))
        done = CliRunner().invoke(
            cli, ["bench", "run", "echo/64", "--seconds", "0.1", "-o", "json"],
            standalone_mode=False,
        )  # fmt: skip
    assert done.return_value == 1, done.stderr
    assert "INVALID  echo/64: accelerated: no byte was redirected" in done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["valid"] is False
    (case,) = result["cases"]
    assert case["ratios"] == []
    assert [run["arm"] for run in case["runs"] if run["problems"]] == ["accelerated"]


def test_what_is_measured_is_in_the_cgroup_that_sockaccel_is_on_for(policy: str) -> None:
    with Cgroup(f"sockaccel_chosen_{os.getpid()}") as chosen:
        setting = Setting(policy=policy, cgroup=chosen.path)
        with staged("echo/64", setting) as (stage, cast):
            runs = [stage.play(cast, arm, SECONDS) for arm in Arm]
    assert [problems_of_run(run.evidence) for run in runs] == [[]] * len(Arm)
    assert problems_of_round([run.evidence for run in runs]) == {}


def test_a_baseline_beside_another_instance_is_invalid(policy: str) -> None:
    pins = PINS / f"sockaccel_other_{os.getpid()}"
    command = [sys.executable, "-m", "sockaccel", "--pin-dir", str(pins)]
    nobody = "unix:///nonexistent/docker.sock"
    with staged("echo/64", Setting(policy=policy)) as (stage, cast):
        assert problems_of_run(stage.play(cast, Arm.BASELINE, 0.1).evidence) == []
        networks = [str(node.path) for node in stage.lab.nodes.values()]
        scope = [word for path in networks for word in ("--netns", path)]
        env = {**os.environ, "DOCKER_HOST": nobody}
        try:
            subprocess.run([*command, "enable", *scope], env=env, capture_output=True, check=True)
            problems = problems_of_run(stage.play(cast, Arm.BASELINE, 0.1).evidence)
        finally:
            subprocess.run([*command, "disable"], capture_output=True, check=True)
        assert "baseline: another instance of sockaccel is on for these namespaces" in problems
        assert problems_of_run(stage.play(cast, Arm.BASELINE, 0.1).evidence) == []


@pytest.mark.timeout(240)
def test_a_session_is_measured_saved_and_valid(tmp_path: Path) -> None:
    saved = tmp_path / "result.json"
    done = bench(
        "echo/64", "--arm", "accelerated", "--pairs", "6", "--seconds", "0.1", "--save", str(saved)
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(saved.read_text())
    assert result["schema"] == "sockaccel.bench/1"
    assert result["valid"] is True
    (case,) = result["cases"]
    assert case["arms"] == ["baseline", "accelerated"]
    assert [run["round"] for run in case["runs"]] == [number for number in range(7) for _ in "ab"]
    assert {ratio["metric"] for ratio in case["ratios"]} >= {"req_s", "cpu_s_per_million"}
    assert case["commands"]["server"][1:3] == ["echo", "server"]
    assert "echo: request and response" in done.stdout


@pytest.mark.timeout(240)
def test_the_quickstart_shows_and_proves_the_effect() -> None:
    done = subprocess.run(
        [ROOT / "scripts/quickstart", "--seconds", "1", "-o", "json"],
        capture_output=True, text=True, timeout=230, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["valid"] is True
    assert [case["case"] for case in result["cases"]] == [
        "upstream-keepalive-on", "upstream-keepalive-off",
    ]  # fmt: skip
    assert all(case["arms"] == ["baseline", "accelerated"] for case in result["cases"])


def test_the_quickstart_refuses_what_bench_run_does_not_know() -> None:
    for arguments in (["--keepalive", "maybe"], ["--keepalive"], ["--sendfile=no"]):
        done = subprocess.run(
            [ROOT / "scripts/quickstart", *arguments],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert "there is no such option" in done.stderr


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_leaves_nothing_behind(signum: signal.Signals) -> None:
    child = subprocess.Popen(
        [*COMMAND, "echo/64", "--seconds", "1", "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stderr
        # In the midst of the second warm-up, or of switching sockaccel on for it.
        while "warm-up" not in child.stderr.readline():
            assert child.poll() is None
        time.sleep(0.7)
        child.send_signal(signum)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 128 + signum, err
    assert f"Interrupted by {signum.name}; everything was removed." in err
    result = json.loads(out)
    assert (result["valid"], result["finished"]) == (False, None)
    assert len(result["cases"][0]["runs"]) >= 1
    assert not {name for name in left() if f"{child.pid}" in name}


def test_not_root_is_one_line_and_a_hint() -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", *COMMAND, "echo/64"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 77, done.stderr
    assert "Error: cannot" in done.stderr
    assert "Traceback" not in done.stderr
