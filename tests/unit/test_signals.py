from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sockaccel.bench.process import Child, run, run_checked
from sockaccel.errors import BenchError
from sockaccel.signals import Interrupted, hold, interruption, raising


def kill_self(signum: signal.Signals) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_become_one_exception_with_their_exit_code(signum: signal.Signals) -> None:
    with pytest.raises(Interrupted, match=signum.name) as raised, raising():
        kill_self(signum)
    assert raised.value.exit_code == 128 + signum


def test_held_signals_come_when_the_outermost_hold_ends() -> None:
    seen = []

    def work() -> None:
        with hold():
            with hold():
                kill_self(signal.SIGTERM)
                seen.append("inner")
            seen.append("outer")
        seen.append("never")

    with raising(), pytest.raises(Interrupted):
        work()
    assert seen == ["inner", "outer"]


def test_a_second_signal_does_not_disturb_the_clean_up() -> None:
    cleaned = []

    def work() -> None:
        try:
            kill_self(signal.SIGINT)
        finally:
            kill_self(signal.SIGTERM)
            with hold():
                kill_self(signal.SIGINT)
            cleaned.append(True)

    with raising(), pytest.raises(Interrupted, match="SIGINT"):
        work()
    assert cleaned


def test_what_an_error_of_the_clean_up_has_replaced_is_still_known() -> None:
    def work() -> None:
        try:
            kill_self(signal.SIGTERM)
        finally:
            raise BenchError("cannot clean up")

    with raising():
        assert interruption() is None
        with pytest.raises(BenchError):
            work()
        found = interruption()
    assert found is not None
    assert (str(found), found.exit_code) == ("SIGTERM", 143)
    assert interruption() is None, "it was that block's"


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with raising():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raising():
            kill_self(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_end_ends_also_what_the_child_started_and_what_ignores_sigterm() -> None:
    script = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.fork()\n"
        "os.write(1, b'%d\\n' % os.getpid())\n"
        "time.sleep(60)\n"
    )
    child = Child([sys.executable, "-c", script])
    group = child.pid
    deadline = time.monotonic() + 10
    while not Path(f"/proc/{group}/task/{group}/children").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.end(grace_s=0.1)
    assert not child.running()
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    pytest.fail("a process of the group is left")


def test_end_twice_is_as_good_as_once() -> None:
    child = Child(["sleep", "60"])
    child.end()
    child.end()
    assert not child.running()


def test_run_gives_output_and_exit_code_and_changes_the_environment() -> None:
    os.environ["SOCKACCEL_TEST_GONE"] = "1"
    try:
        done = run(
            ["sh", "-c", 'echo "$A${SOCKACCEL_TEST_GONE-unset}"; echo err >&2; exit 3'],
            env={"A": "a", "SOCKACCEL_TEST_GONE": None},
        )
    finally:
        del os.environ["SOCKACCEL_TEST_GONE"]
    assert isinstance(done, subprocess.CompletedProcess)
    assert (done.returncode, done.stdout, done.stderr) == (3, "aunset\n", "err\n")


def test_run_does_not_wait_for_ever() -> None:
    started = time.monotonic()
    with pytest.raises(BenchError, match="no end after"):
        run(["sleep", "60"], timeout_s=0.1)
    assert time.monotonic() - started < 10


def test_run_checked_says_what_the_program_said_last() -> None:
    with pytest.raises(BenchError, match=r"cannot run 'sh -c .*': second"):
        run_checked(["sh", "-c", "echo first >&2; echo second >&2; exit 1"])
