"""What all tests share: the rule about skipping."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

# No test depends on how this host is configured, nor does any process that it starts.
os.environ["SOCKACCEL_CONFIG"] = os.devnull
# Nor on who started it: what runs in the background of a shell without job control, or under
# nohup, ignores these, and so would every process that is to be interrupted.
for _signal, _usual in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, _usual)


@pytest.fixture(scope="session")
def require() -> Callable[[str, list[str]], None]:
    """Return a function that skips a kind of test, or fails it where it was promised to run.

    SOCKACCEL_REQUIRE lists the kinds (``kernel``, ``docker``) that must run; a
    machine that sets it cannot be green by skipping.
    """

    def check(kind: str, missing: list[str]) -> None:
        if not missing:
            return
        names = ", ".join(missing)
        if kind in os.environ.get("SOCKACCEL_REQUIRE", "").split(","):
            pytest.fail(f"SOCKACCEL_REQUIRE={kind}, but this machine lacks {names}", pytrace=False)
        pytest.skip(f"the {kind} tests need {names}; SOCKACCEL_REQUIRE={kind} makes this a failure")

    return check
