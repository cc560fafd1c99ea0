"""The benchmark in containers of a daemon of its own: the same proof as in namespaces, and
nothing of it stays.

Ratios are not asserted: a busy machine is no defect of ours. An arm that did not do what it
claims makes the run invalid, and that is exit code 1.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sockaccel.bench.arms import Arm
from sockaccel.bench.proof import problems_of_round, problems_of_run
from sockaccel.bench.runner import Plan, run_plan
from sockaccel.bench.scenario import load_all
from sockaccel.bench.stage import Cast, Setting, Stage, default_policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sockaccel.bench.stage import Played

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = load_all()["nginx-lb"]
SHORT = ("--docker", "--keepalive", "on", "--seconds", "1")
STEPS = ("Starting a Docker daemon", "warm-up, plain TCP", "pair 1/6")


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return where temporary files go; a short path, as the names of sockets have to be."""
    made = Path(tempfile.mkdtemp(prefix="sadb"))
    monkeypatch.setenv("TMPDIR", str(made))
    monkeypatch.setattr(tempfile, "tempdir", None)  # what it has found before
    yield made
    shutil.rmtree(made)


def traces(directory: Path, pid: int) -> list[str]:
    """Return what is on this host of a benchmark with this process id."""
    left = [str(path) for path in directory.iterdir()]
    for where, name in {
        "/run/netns": f"sockaccel-{pid}*",
        "/sys/fs/cgroup": f"*/sockaccel*{pid}",
        "/sys/fs/bpf": f"sockaccel_bench_{pid}*",
    }.items():
        left += [str(path) for path in Path(where).glob(name)]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    left += [line for line in mounts if str(directory) in line]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"{directory}/" in words:
            left.append(words)
    return left


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [ROOT / "scripts/quickstart", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(running: subprocess.Popen[str], step: str) -> None:
    """Return when it has said so."""
    assert running.stderr
    lines = []
    for line in running.stderr:
        lines.append(line)
        if step in line:
            return
    pytest.fail(f"it ended without a word of '{step}': {lines}")


def interrupted(running: subprocess.Popen[str]) -> None:
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert err.splitlines()[-1] == "Interrupted by SIGINT; everything was removed."


@pytest.mark.timeout(300)
def test_both_arms_of_a_scenario_prove_themselves_in_containers() -> None:
    stage = Stage(SCENARIO, Setting(topology="docker", policy=default_policy()))
    with closing(stage), stage:
        cast = Cast(SCENARIO, SCENARIO.cases[0])
        runs: list[Played] = [stage.play(cast, arm, 1) for arm in (Arm.BASELINE, Arm.ACCELERATED)]
    for run in runs:
        assert problems_of_run(run.evidence) == []
        assert run.memory.peak_rss_bytes > 1 << 20
        assert run.cpu.seconds_total > 0.1
        assert run.context_switches is None
    assert problems_of_round([run.evidence for run in runs]) == {}


@pytest.mark.timeout(300)
def test_the_quickstart_in_containers_shows_and_proves_the_effect(directory: Path) -> None:
    running = started(*SHORT, "-o", "json")
    out, err = running.communicate(timeout=280)
    assert running.returncode == 0, err
    result = json.loads(out)
    assert result["valid"] is True
    assert result["parameters"]["topology"] == "docker"
    (case,) = result["cases"]
    assert case["case"] == "upstream-keepalive-on"
    assert not traces(directory, running.pid)


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_quickstart_leaves_nothing(directory: Path, step: str) -> None:
    running = started(*SHORT)
    said(running, step)
    interrupted(running)
    assert not traces(directory, running.pid)


@pytest.mark.timeout(240)
def test_two_at_once_do_not_disturb_each_other(directory: Path) -> None:
    both = [started(*SHORT), started(*SHORT)]
    for running in both:
        said(running, "pair 1/6")
    interrupted(both[0])
    said(both[1], "pair 2/6")
    interrupted(both[1])
    assert not [line for running in both for line in traces(directory, running.pid)]


def test_a_step_that_fails_is_the_reason_and_leaves_nothing(directory: Path) -> None:
    script = "import sys; sys.exit('Error: cannot do it' if 'enable' in sys.argv else 0)"
    setting = Setting(topology="docker", command=[sys.executable, "-c", script])
    arms = (Arm.BASELINE, Arm.ACCELERATED)
    result, _ = run_plan(Plan([SCENARIO], 6, 1.0, arms, quick=False, setting=setting))
    assert not result.valid
    for case in result.cases:
        assert case.problems[0].startswith("cannot enable sockaccel for the measurement: ")
        assert "cannot do it" in case.problems[0]
    assert not traces(directory, os.getpid())
