"""The private daemon itself: it shares nothing with the host's, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from containers.harness import IMAGE
from kernel.harness import run, wait_until

from sockaccel.bench.dockerd import Dockerd
from sockaccel.errors import BenchError, HostError
from sockaccel.scope.cgroup import default_cgroup

OWNER = """
import sys, time
from pathlib import Path
from sockaccel.bench.dockerd import Dockerd
from sockaccel.bench.image import build_image
with Dockerd(Path(sys.argv[1])) as dockerd:
    build_image(dockerd, "tools", ["sleep"])
    dockerd.docker("network", "create", "net")
    for _ in range(2):
        dockerd.docker("run", "-d", "-p", "80", "--net", "net", "tools", "sleep", "99")
    print("ready", flush=True)
    time.sleep(99)
"""

# What most hosts are: cgroup v2 alone, in systemd's hands, and containerd runs as a service.
# $1: where that one keeps its own, the rest: a command.
HOST = """
umount -R -l /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run
mkdir -p /run/systemd/system
containerd --root "$1/root" --state "$1/state" >/dev/null 2>&1 &
until [ -S /run/containerd/containerd.sock ]; do sleep 0.05; done
shift
"$@"
"""


def traces(directory: Path) -> list[str]:
    """Return what is on the host of a daemon with this directory."""
    name = directory.name
    found = [directory, Path("/run/netns", name), *Path("/sys/fs/cgroup").glob(f"*/{name}")]
    found += [default_cgroup() / name]
    left = [str(path) for path in found if path.exists()]
    left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if name in line]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if f"{directory}/".encode() in words:
            left.append(words.replace(b"\0", b" ").decode())
    return left


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_nothing_of_a_daemon_stays_when_its_owner_is_killed(signum: signal.Signals) -> None:
    directory = Path(tempfile.mkdtemp(prefix="sadt"))
    directory.rmdir()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, directory], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert owner.stdout
    with owner.stdout:
        assert owner.stdout.readline() == b"ready\n"
        assert any("containerd-shim" in line for line in traces(directory))
        owner.send_signal(signum)
        owner.wait(30)
    wait_until(lambda: not traces(directory), 10, "nothing of the daemon")


def test_bridges_and_rules_are_made_apart_from_the_hosts(dockerd: Dockerd) -> None:
    bridge = f"br-{dockerd.docker('network', 'create', 'apart')[:12]}"
    try:
        for command in (["ip", "-brief", "link"], ["iptables-save"]):
            assert bridge in run(*dockerd.enter(command))
            assert bridge not in run(*command)
    finally:
        dockerd.docker("network", "rm", "apart")


def test_a_daemon_that_does_not_start_says_why_and_leaves_nothing() -> None:
    directory = Path(tempfile.mkdtemp(prefix="sadt"))
    directory.rmdir()
    with (
        pytest.raises(BenchError, match=r"cannot start dockerd: .*no-such-option"),
        Dockerd(directory, options=["--no-such-option"]),
    ):
        pass
    assert not traces(directory)


@pytest.mark.parametrize("name", ["a b", "a:b", "a" * 80])
def test_a_path_that_a_daemon_cannot_live_with_is_refused(name: str) -> None:
    with pytest.raises(HostError, match=r"cannot start dockerd in .*: the path is"):
        Dockerd(Path("/tmp", name))


def test_a_command_that_fails_says_what_docker_said(dockerd: Dockerd) -> None:
    with pytest.raises(BenchError, match=r"cannot run 'docker rm nobody': .*No such container"):
        dockerd.docker("rm", "nobody")


@pytest.mark.parametrize("crash", [False, True])
def test_a_daemon_is_there_again_after_a_restart_and_a_crash(dockerd: Dockerd, crash: bool) -> None:
    before = dockerd.pid
    if crash:
        dockerd.kill()
        dockerd.start()
    else:
        dockerd.restart()
    assert dockerd.pid != before
    assert IMAGE in dockerd.docker("images")


def test_a_host_with_systemd_and_its_own_containerd_is_left_alone(tmp_path: Path) -> None:
    directory = Path(tempfile.mkdtemp(prefix="sadt"))
    directory.rmdir()
    host = ["unshare", "--mount", "--propagation=private", "sh", "-c", HOST, "sh", tmp_path]
    owner = subprocess.Popen(
        [*host, sys.executable, "-c", OWNER, directory],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert owner.stdout
    try:
        with owner.stdout:
            assert owner.stdout.readline() == b"ready\n"
        shims = [line for line in traces(directory) if "containerd-shim" in line]
        assert len(shims) == 2
        assert all(f"-address {directory}/" in line for line in shims)
    finally:
        os.killpg(owner.pid, signal.SIGKILL)
        owner.wait(30)
    wait_until(lambda: not traces(directory), 10, "nothing of the daemon")
