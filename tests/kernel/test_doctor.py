"""sockaccel doctor on this kernel: what it finds, what it finds missing, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sockaccel.inspect import doctor, environment

from .foreign import Foreign
from .harness import BPFFS, cgroup2_mounts, wait_until

if TYPE_CHECKING:
    from .harness import Lab

NAMES = [*environment.CHECKS, "programs", *doctor._ATTEMPTS, "clean-up"]
MOUNT = cgroup2_mounts()[0] if cgroup2_mounts() else Path("/nonexistent")


class Exclusive(Foreign):
    """A program that allows no other beside it."""

    FLAGS = 0


def examine(
    lab: Lab, *options: str | Path, expect: int = 0, **keywords: Any
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return doctor's findings by name, and what it did not try."""
    answer = json.loads(lab.cli("-o", "json", "doctor", *options, expect=expect, **keywords).stdout)
    assert answer["schema"] == "sockaccel.doctor/1"
    assert answer["kernel"] == os.uname().release
    findings = {each["name"]: each for each in answer["findings"]}
    assert [name for name in NAMES if name in findings] == list(findings)
    assert set(findings).isdisjoint(answer["not_tried"])
    assert {*findings, *answer["not_tried"]} == set(NAMES)
    for each in findings.values():
        assert each["evidence"]
        assert each["hint"] or each["verdict"] == "PASS"
    return findings, answer["not_tried"]


def failures(findings: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, each in findings.items() if each["verdict"] == "FAIL"]


def places(lab: Lab) -> set[Path]:
    """Return the pins and cgroups that examinations of this lab's pin directory could leave."""
    return {*BPFFS.glob(f"{lab.pin_dir.name}_doctor_*"), *lab.cgroup.glob("*/")}


def test_this_machine_is_fit(accelerated_lab: Lab) -> None:
    findings, not_tried = examine(accelerated_lab, "--cgroup", accelerated_lab.cgroup)
    assert failures(findings) == []
    assert not_tried == []
    for name in ("redirection", "back-pressure", "copied-seq", "one-queue", "order", "clean-up"):
        assert findings[name]["verdict"] == "PASS", findings[name]
    assert not places(accelerated_lab)


def test_the_default_cgroup_is_the_root_and_the_table_says_the_same(accelerated_lab: Lab) -> None:
    done = accelerated_lab.cli("doctor")
    first = [line.split()[:2] for line in done.stdout.splitlines()]
    assert ["PASS", "redirection"] in first
    assert f"cgroup v2 at {MOUNT}" in done.stdout
    assert "0 FAIL" in done.stdout
    for left in MOUNT.glob("sockaccel_trial_*"):
        assert Path("/proc", left.name.split("_")[2]).exists(), left


def test_it_finds_what_splice_does(accelerated_lab: Lab) -> None:
    """Hazard 9: the verdict is what the same call does on a connection of this test."""
    lab = accelerated_lab
    host = lab.host()
    lab.enable()
    client, server = lab.connect(host, host.listen())
    client.sendall(b"first")
    assert server.recv(5) == b"first"
    client.sendall(b"bytes")
    reader, writer = os.pipe()
    try:
        works = os.splice(server.fileno(), writer, 5, flags=2) == 5
    except BlockingIOError:
        works = False
    os.close(reader)
    os.close(writer)
    lab.expect_redirected(client)
    lab.disable()
    findings, _ = examine(lab, "--cgroup", lab.cgroup)
    assert findings["splice"]["verdict"] == ("PASS" if works else "WARN")
    assert works or "EAGAIN" in findings["splice"]["evidence"]


def test_beside_what_is_enabled(accelerated_lab: Lab) -> None:
    """It says so, and neither disturbs nor is disturbed."""
    lab = accelerated_lab
    host = lab.host()
    lab.enable()
    client, server = lab.connect(host, host.listen())
    client.sendall(b"before")
    before = lab.status()
    findings, _ = examine(lab, "--cgroup", lab.cgroup)
    assert failures(findings) == []
    assert findings["enabled"]["evidence"] == f"enabled on {lab.cgroup}, 2 sockets"
    assert findings["splice"]["evidence"].startswith(("splice()", "as on TCP"))
    assert server.recv(9) == b"before"
    client.sendall(b"after")
    assert server.recv(9) == b"after"
    after = lab.status()
    assert after["programs"] == before["programs"]
    assert after["counters"]["connections_paired"] == 1
    lab.expect_redirected(client)


def test_where_everything_is_redirected_there_is_nothing_to_compare_with(
    accelerated_lab: Lab,
) -> None:
    lab = accelerated_lab
    lab.enable()  # for every namespace: the lab has none
    findings, _ = examine(lab, "--cgroup", lab.cgroup)
    assert failures(findings) == []
    assert findings["splice"]["verdict"] == "WARN"
    assert "cannot compare with TCP" in findings["splice"]["evidence"]
    assert findings["splice"]["hint"] == f"sockaccel --pin-dir {lab.pin_dir} disable"


def test_other_owners_are_shown(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    with Foreign(lab.cgroup):
        findings, _ = examine(lab, "--cgroup", lab.cgroup)
    assert findings["owners"]["verdict"] == "WARN"
    assert "sock_ops '" in findings["owners"]["evidence"]
    assert failures(findings) == []


def test_an_owner_that_allows_nobody_else_is_a_failure(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    with Exclusive(lab.cgroup):
        findings, not_tried = examine(lab, "--cgroup", lab.cgroup, expect=1)
    assert failures(findings) == ["owners", "programs"]
    assert str(lab.cgroup) in findings["owners"]["evidence"]
    assert "EPERM" in findings["programs"]["evidence"]
    assert not_tried == [*doctor._ATTEMPTS, "clean-up"]
    assert not places(lab)


@pytest.mark.parametrize(
    ("point", "name", "evidence"),
    [
        (MOUNT, "cgroup", "cannot find the root of cgroup v2"),
        (BPFFS, "bpffs", "no bpffs is mounted"),
    ],
    ids=["cgroup", "bpffs"],
)
def test_what_is_not_mounted_is_a_failure(
    accelerated_lab: Lab, point: Path, name: str, evidence: str
) -> None:
    """In a mount namespace of its own, where nothing of that kind is mounted any more."""
    kind = {"cgroup": "cgroup2", "bpffs": "bpf"}[name]
    unmount = f'while umount -l -t {kind} "$0" 2>/dev/null; do :; done; exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", unmount, str(point)]
    findings, not_tried = examine(accelerated_lab, expect=1, prefix=prefix)
    assert name in failures(findings)
    assert evidence in findings[name]["evidence"]
    assert "programs" in not_tried


def test_a_cgroup_of_another_kind_is_a_failure(accelerated_lab: Lab, tmp_path: Path) -> None:
    findings, not_tried = examine(accelerated_lab, "--cgroup", tmp_path, expect=1)
    assert "cgroup" in failures(findings)
    assert "not a directory of cgroup v2" in findings["cgroup"]["evidence"]
    assert "programs" in not_tried


def test_the_bcc_of_pypi_is_recognised(accelerated_lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "bcc.py").write_text("def lattice(): ...\n")
    findings, not_tried = examine(accelerated_lab, expect=1, env={"PYTHONPATH": str(tmp_path)})
    assert failures(findings) == ["bcc"]
    assert "not the BPF Compiler Collection" in findings["bcc"]["evidence"]
    assert "pip uninstall bcc" in findings["bcc"]["hint"]
    assert "programs" in not_tried


def test_an_unprivileged_user_is_told_what_is_missing(accelerated_lab: Lab) -> None:
    prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    findings, not_tried = examine(accelerated_lab, expect=1, prefix=prefix)
    assert failures(findings) == ["capabilities"]
    assert "CAP_SYS_ADMIN" in findings["capabilities"]["evidence"]
    assert findings["kernel-types"]["verdict"] == "PASS"
    assert {"owners", "programs", *doctor._ATTEMPTS} <= set(not_tried)


def test_what_a_killed_one_left_goes_with_the_next(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    argv = lab.argv("doctor", "--cgroup", lab.cgroup)
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as killed:
        pins = BPFFS / f"{lab.pin_dir.name}_doctor_{killed.pid}"
        wait_until(pins.exists, 20, "the pins of the examination")
        killed.send_signal(signal.SIGKILL)
    assert pins.exists()
    examine(lab, "--cgroup", lab.cgroup)
    assert not places(lab)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_one_that_is_interrupted_leaves_nothing(
    accelerated_lab: Lab, number: signal.Signals
) -> None:
    lab = accelerated_lab
    argv = lab.argv("doctor", "--cgroup", lab.cgroup)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as interrupted:
        pins = BPFFS / f"{lab.pin_dir.name}_doctor_{interrupted.pid}"
        wait_until(pins.exists, 20, "the pins of the examination")
        interrupted.send_signal(number)
        out, err = interrupted.communicate(timeout=30)
    assert interrupted.returncode == 128 + number
    assert (out, err) == (b"", b"")
    assert not places(lab)
