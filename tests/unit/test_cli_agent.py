from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sockaccel.agent.agent import Start
from sockaccel.agent.presence import Agent, AgentState, DockerState, Skipped
from sockaccel.cli import agent, status
from sockaccel.datapath.lifecycle import Enabled
from sockaccel.datapath.options import Options

ABSENT = Path("/sys/fs/bpf/sockaccel_no_such_instance")


def run(*args: str, code: int) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "sockaccel", "--pin-dir", str(ABSENT), "agent", *args]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_it_has_the_options_of_enable_and_its_own() -> None:
    text = run("--help", code=0).stdout
    for option in (
        *("--cgroup PATH", "--scope [docker|all]", "--policy [safe|all]", "--netns PATH"),
        *("--ports LIST", "--max-connections", "--docker-host URL", "--opt-in", "--network NAME"),
        *("--project NAME", "--accelerate PROGRAM", "--keep-on-tcp PROGRAM", "--force"),
        "--dry-run",
        *("--disable-on-exit", "--debounce MIN:MAX"),
    ):
        assert option in text


@pytest.mark.parametrize(
    ("args", "says", "hint"),
    [
        (["--debounce", "1"], "cannot use debounce window '1'", "--debounce 2ms:50ms"),
        (["--docker-host", "tcp://h:1"], "cannot use Docker host 'tcp://h:1'", "--docker-host"),
        (["--ports", "bad"], "cannot use ports 'bad'", "--ports 80,8000-8999"),
        (["--cgroup", "/nowhere"], "'/nowhere'", ""),
        (["--scope=all", "--opt-in"], "cannot select containers", "--scope docker"),
        (["--netns", "/nowhere"], "cannot use network namespace '/nowhere'", "lsns"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_one_error_and_nothing_starts(
    args: list[str], says: str, hint: str
) -> None:
    done = run(*args, code=2)
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: cannot ")]
    (error,) = errors
    assert says in error
    assert f"Hint: {hint}" in done.stderr
    assert not ABSENT.exists()


NOW = 1_000_000.0
DOCKER = DockerState("unix:///s", connected=True, since=NOW - 7200, last_resync=NOW - 42)


@pytest.mark.parametrize(
    ("agent", "lines"),
    [
        (None, []),
        (Agent(7, None), ["agent         process 7"]),
        (Agent(0, AgentState()), ["agent         runs"]),
        (
            Agent(7, AgentState(docker=DOCKER, decisions={"in-scope": 2, "label": 1})),
            [
                "agent         process 7",
                "docker        unix:///s: connected for 2 h",
                "containers    2 in-scope, 1 label",
            ],
        ),
        (
            Agent(
                7,
                AgentState(
                    docker=DockerState(
                        *("unix:///s", True, NOW - 3, None, 2, NOW - 3),
                        resync_s=0.125,
                    ),
                    skipped=(Skipped("web", "f" * 64, "bad-label"),),
                    trouble="cannot put a network namespace in scope: full",
                    open_before=1,
                ),
            ),
            [
                "agent         process 7",
                (
                    "docker        unix:///s: connected for 3 s, 2 reconnects, "
                    "all listed 3 s ago in 0.12 s"
                ),
                "left on TCP   web (ffffffffffff): bad-label",
                (
                    "older         1 local connection was open before their containers came into "
                    "scope, and stay on TCP"
                ),
                "trouble       cannot put a network namespace in scope: full",
            ],
        ),
        (
            Agent(7, AgentState(docker=DockerState("unix:///s", since=NOW - 9, error="no"))),
            [
                "agent         process 7",
                "docker        unix:///s: away for 9 s: no; what is in scope stays",
            ],
        ),
    ],
    ids=["none", "silent", "elsewhere", "well", "much", "away"],
)
def test_status_tells_people_how_the_agent_fares(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    agent: Agent | None,
    lines: list[str],
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    status._print_agent(agent)
    assert capsys.readouterr().out.splitlines()[1:] == lines


def test_a_log_that_has_gone_does_not_end_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=1) as broken:
        monkeypatch.setattr(sys, "stderr", broken)
        agent._report(Options("/c"), Start(Enabled(already=False, namespaces=1)), forced=False)
