"""The quickstart's lab in containers: it proves what it says, and nothing of it stays.

Ratios are not asserted: a busy machine is no defect of ours. An arm that did not do what it
claims makes the run invalid, and that is exit code 1.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sockaccel.bench.quickstart import BODY_BYTES, quickstart
from sockaccel.bench.report import as_json
from sockaccel.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--docker", "--keepalive", "on", "--seconds", "1")
STEPS = ("Starting a Docker daemon", "Making an image", "Note: ")


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return where temporary files go; a short path, as the names of sockets have to be."""
    made = Path(tempfile.mkdtemp(prefix="sadq"))
    monkeypatch.setenv("TMPDIR", str(made))
    monkeypatch.setattr(tempfile, "tempdir", None)  # what it has found before
    yield made
    shutil.rmtree(made)


def traces(directory: Path, pid: int) -> list[str]:
    """Return what is on this host of a quickstart with this process id."""
    left = [str(path) for path in directory.iterdir()]
    for where, name in {
        "/run/netns": f"sockaccel-{pid}*",
        "/sys/fs/cgroup": f"*/sockaccel-{pid}",
        "/sys/fs/bpf": f"sockaccel_quickstart_{pid}*",
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
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, ""), err
    assert err.splitlines()[-1] == "Interrupted by SIGINT; everything was removed."


@pytest.mark.timeout(240)
def test_the_quickstart_in_containers_shows_and_proves_the_effect(directory: Path) -> None:
    result = as_json(quickstart(pairs=6, seconds=1, keepalive=[True], docker=True))
    assert result["valid"], result["scenarios"]
    assert result["parameters"]["topology"] == "docker"
    assert result["versions"]["docker"]
    (scenario,) = result["scenarios"]
    for sample in (sample for pair in scenario["pairs"] for sample in pair):
        by_wire = sample["interface_bytes"] / sample["requests"]
        if sample["arm"] == "baseline":
            assert sample["redirected_bytes"] == 0
            assert by_wire > 4 * BODY_BYTES
        else:
            assert sample["redirected_bytes"] > 2 * BODY_BYTES * sample["requests"]
            assert by_wire < BODY_BYTES
    assert not traces(directory, os.getpid())


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


def test_a_step_that_fails_is_the_error_and_leaves_nothing(directory: Path) -> None:
    script = "import sys; sys.exit('Error: cannot do it' if 'enable' in sys.argv else 0)"
    failing = [sys.executable, "-c", script]
    with pytest.raises(BenchError, match=r"cannot enable sockaccel .*: cannot do it"):
        quickstart(pairs=6, seconds=1, keepalive=[True], docker=True, command=failing)
    assert not traces(directory, os.getpid())
