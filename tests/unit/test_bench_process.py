from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from sockaccel.bench.process import Child, run_load
from sockaccel.bench.usage import Watch
from sockaccel.errors import BenchError

if TYPE_CHECKING:
    from pathlib import Path


def python(script: str) -> Child:
    return Child([sys.executable, "-c", script])


def test_a_child_is_ready_when_it_says_so() -> None:
    child = python("import time; print('ready', flush=True); time.sleep(60)")
    child.await_ready("it", 10.0)
    assert child.running()
    child.end()


def test_what_a_child_says_after_ready_is_kept() -> None:
    child = python("import time; print('ready', flush=True); time.sleep(0.3); print('more')")
    child.await_ready("it", 10.0)
    assert child.wait(10.0).stdout == "more\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import sys; sys.exit('the reason')", "cannot start it: the reason"),
        ("import sys; sys.exit(3)", "cannot start it: exit code 3"),
        ("import time; time.sleep(60)", "cannot start it: not ready after 0.5 s"),
    ],
)
def test_a_child_that_does_not_get_ready_is_ended(script: str, said: str) -> None:
    child = python(script)
    start = time.monotonic()
    with pytest.raises(BenchError, match=said):
        child.await_ready("it", 0.5 if "sleep" in script else 10.0)
    assert not child.running()
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(("seconds", "looks"), [(0.0, 1), (0.9, 3)])
def test_a_load_generator_is_looked_at_at_once_and_then_now_and_then(
    seconds: float, looks: int
) -> None:
    watch = Watch()
    pids: list[int] = []

    def look(pid: int) -> None:
        pids.append(pid)
        watch(pid)

    run_load(lambda: Child(["sleep", f"{seconds}"]), "nothing", 1.0, look)
    assert len(pids) >= looks
    assert len(set(pids)) == 1
    if seconds:
        assert watch.client_peak_rss_bytes > 0


def test_a_child_that_had_to_be_killed_is_known() -> None:
    polite, deaf = (
        python(f"import signal, time; {deafness}; print('ready', flush=True); time.sleep(60)")
        for deafness in ("pass", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    )
    for child in (polite, deaf):
        child.await_ready("it", 10.0)
        child.end(grace_s=1.0)
        assert not child.running()
    assert (polite.killed, deaf.killed) == (False, True)


def test_prepare_runs_in_the_child(tmp_path: Path) -> None:
    def prepare() -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))

    child = Child(["true"], prepare=prepare)
    child.wait(10.0)
    assert (tmp_path / "pid").read_text() == str(child.pid) != str(os.getpid())


def test_a_failure_to_prepare_is_an_error() -> None:
    def prepare() -> None:
        raise OSError("no")

    with pytest.raises(BenchError, match="cannot run 'true'"):
        Child(["true"], prepare=prepare)


def test_what_a_killed_child_left_behind_is_ended_and_not_waited_for() -> None:
    script = (
        "import subprocess; left = subprocess.Popen(['sleep', '60']);"
        " print('ready', flush=True); left.wait()"
    )
    child = python(script)
    child.await_ready("it", 10.0)
    os.kill(child.pid, signal.SIGKILL)
    start = time.monotonic()
    child.end(grace_s=0.5)
    assert time.monotonic() - start < 20
    assert child._popen.stdout
    assert child._popen.stdout.closed, "somebody still holds it"
