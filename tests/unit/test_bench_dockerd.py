"""The end of a daemon, without one; the real ones are in tests/docker."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from sockaccel.bench import dockerd
from sockaccel.bench.dockerd import Dockerd
from sockaccel.errors import BenchError

if TYPE_CHECKING:
    from pathlib import Path


def daemon(
    monkeypatch: pytest.MonkeyPatch, directory: Path, script: str
) -> tuple[Dockerd, subprocess.Popen[bytes]]:
    """Return a daemon that nobody has started, and an undertaker that runs another script."""
    monkeypatch.setattr(dockerd, "_find", lambda name: name)
    made = Dockerd(directory)
    undertaker = subprocess.Popen(
        ["sh", "-c", script, "sh", directory],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    made._undertaker = undertaker
    return made, undertaker


def test_an_undertaker_that_cannot_end_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dockerd, "REMOVE_TIMEOUT_S", 0.2)
    made, undertaker = daemon(monkeypatch, tmp_path, "cat >/dev/null; sleep 20")
    start = time.monotonic()
    try:
        with pytest.raises(BenchError) as raised:
            made.close()
    finally:
        os.killpg(undertaker.pid, signal.SIGKILL)
        undertaker.communicate()
    assert time.monotonic() - start < 10
    assert str(raised.value) == (
        f"cannot remove dockerd's directory '{tmp_path}': its processes have not ended after 0.2 s"
    )
    made.close()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("cat >/dev/null; echo no room >&2", "no room"),
        ('cat >/dev/null; rmdir "$1"; echo no room >&2', "no room"),
        ("cat >/dev/null; exit 3", "exit code 3"),
        ('cat >/dev/null; rmdir "$1"', None),
    ],
)
def test_what_could_not_be_removed_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, said: str | None
) -> None:
    made, _ = daemon(monkeypatch, tmp_path, script)
    if said is None:
        made.close()
    else:
        with pytest.raises(BenchError, match=f": {said}$"):
            made.close()
