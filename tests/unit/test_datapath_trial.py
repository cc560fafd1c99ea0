"""What of the quick trial and its sandbox needs no kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sockaccel.datapath.sandbox import Sandbox
from sockaccel.datapath.trial import Counted, Fionread, Trial
from sockaccel.errors import HostError, NotPermittedError


@pytest.mark.parametrize(
    ("counted", "kind", "right"),
    [
        (Counted(redirected=0, by_tcp=700, both=700), Fionread.K0, False),
        (Counted(redirected=300, by_tcp=0, both=300), Fionread.K1, False),
        (Counted(redirected=300, by_tcp=700, both=300), Fionread.K1, False),
        (Counted(redirected=300, by_tcp=700, both=1000), Fionread.K2, True),
    ],
)
def test_the_class_of_a_kernel_follows_from_what_it_counts(
    counted: Counted, kind: Fionread, right: bool
) -> None:
    assert counted.kind is kind
    assert counted.right is right


@pytest.mark.parametrize("missing", ["paired", "redirected", "intact", "charged"])
def test_acceleration_needs_every_one_of_these(missing: str) -> None:
    facts = dict.fromkeys(("paired", "redirected", "intact", "charged"), True)
    assert Trial(True, **facts).works
    assert not Trial(True, **{**facts, missing: False}).works


def test_one_queue_is_not_needed_to_work() -> None:
    assert Trial(False, True, True, True, True, one_queue=False).works


def test_what_a_killed_trial_left_is_removed_and_what_a_live_one_uses_is_not(
    tmp_path: Path,
) -> None:
    dead = tmp_path / f"sockaccel_trial_{int(Path('/proc/sys/kernel/pid_max').read_text()) + 1}_x"
    alive = tmp_path / f"sockaccel_trial_{os.getppid()}_x"
    dead.mkdir()
    alive.mkdir()
    with Sandbox(tmp_path) as sandbox:
        assert sandbox.cgroup.is_dir()
        assert not dead.exists()
    assert list(tmp_path.iterdir()) == [alive]


def test_a_cgroup_that_cannot_be_made_is_the_hosts_fault(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with (
        pytest.raises(HostError, match=r"cannot use cgroup '.*missing'.*\(ENOENT\)"),
        Sandbox(missing),
    ):
        pass


def test_a_cgroup_that_must_not_be_made_is_not_permitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> str:
        raise PermissionError(13, "")

    monkeypatch.setattr("sockaccel.datapath.sandbox.tempfile.mkdtemp", refuse)
    with pytest.raises(NotPermittedError, match="EACCES"), Sandbox(tmp_path):
        pass
