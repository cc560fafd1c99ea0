"""What of the agent needs neither kernel nor Docker; the rest: tests/kernel, tests/docker."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

from sockaccel.agent.agent import Agent
from sockaccel.agent.debounce import DEFAULT
from sockaccel.agent.notify import Notifier
from sockaccel.agent.presence import Presence
from sockaccel.datapath.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


def agent(pin_dir: Path, reload: Callable[[], Options]) -> Agent:
    presence = Presence(pin_dir, pin_dir / "run")
    return Agent(pin_dir, Options("/c"), presence, Notifier({}), window=DEFAULT, reload=reload)


def test_what_was_enabled_anew_by_somebody_else_is_not_reloaded(tmp_path: Path) -> None:
    def reload() -> Options:
        raise AssertionError("asked for options")

    agent(tmp_path, reload)._reload()  # it has never begun: the directory is not its own


def test_a_reload_that_the_system_refuses_does_not_end_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def reload() -> Options:
        raise BrokenPipeError(errno.EPIPE, "")

    made = agent(tmp_path, reload)
    made._identity = tmp_path.stat().st_ino
    with caplog.at_level(logging.WARNING):
        made._reload()
    assert caplog.messages == ["not reloaded: broken pipe (EPIPE)"]
