"""The systemd unit: sound, tight, and no tighter than the real program can bear."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sockaccel.errors import HostError, InputError, NotPermittedError

from .harness import Lab, attached, wait_until

UNIT = Path(__file__).parents[2] / "packaging" / "systemd" / "sockaccel.service"
# systemd-analyze security: 0 is tight, 10 is open; docker.service has 9.6.
MOST_EXPOSED = 3.4


def settings(name: str) -> list[str]:
    """Return what a directive of the unit says, once for each of its lines."""
    return re.findall(rf"(?m)^{name}=(.*)$", UNIT.read_text())


def capabilities() -> list[str]:
    """Return the capabilities that the unit leaves, as setpriv spells them."""
    (line,) = settings("CapabilityBoundingSet")
    return [name.removeprefix("CAP_").lower() for name in line.split()]


def confined(names: list[str]) -> list[str]:
    """Return a prefix that runs a command with these capabilities at most."""
    bounds = ",".join(["-all", *(f"+{name}" for name in names)])
    return ["setpriv", f"--bounding-set={bounds}", "--inh-caps=-all", "--no-new-privs"]


@pytest.fixture
def lab(accelerated_lab: Lab) -> Lab:
    accelerated_lab.enabled_once = True  # so that its objects are looked for
    return accelerated_lab


@pytest.fixture
def stranger(lab: Lab) -> str:
    """Return the namespace of a process that has other rights than the agent."""
    namespace = lab.host()
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "60"]
    process = namespace.popen(*other)
    wait_until(lambda: b"sleep" in cmdline(process.pid), what="a process of another user")
    return f"/proc/{process.pid}/ns/net"


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the unit as it is where sockaccel is installed in this environment."""
    path = tmp_path / UNIT.name
    installed = str(Path(sys.executable).with_name("sockaccel"))
    path.write_text(UNIT.read_text().replace("/usr/bin/sockaccel", installed))
    return path


def analyze(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    assert shutil.which("systemd-analyze"), "scripts/setup --test installs systemd"
    return subprocess.run(
        ["systemd-analyze", *argv], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_capabilities_of_the_unit_suffice(lab: Lab, stranger: str) -> None:
    prefix = confined(capabilities())
    enable = ["enable", "--cgroup", lab.cgroup, "--netns", stranger]
    for command in (enable, enable, ["status"], ["dump"], ["disable"]):
        lab.cli(*command, prefix=prefix)


def test_with_them_connections_are_accelerated_and_their_processes_found(lab: Lab) -> None:
    host = lab.host()
    lab.cli(*lab.enable_arguments(), prefix=confined(capabilities()))
    near, far = lab.connect(host, host.listen())
    near.sendall(b"x" * 1000)
    assert len(far.recv(2000)) == 1000
    lab.expect_redirected(near)
    shown = lab.cli("-o", "json", "dump", prefix=confined(capabilities())).stdout
    assert '"pid": null' not in shown, shown


def test_the_agent_gets_ready_with_them_and_ends_when_told(
    lab: Lab, stranger: str, tmp_path: Path
) -> None:
    absent = f"unix://{tmp_path}/docker.sock"
    args = ["agent", "--cgroup", lab.cgroup, "--netns", stranger, "--docker-host", absent]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        agent = subprocess.Popen(
            [*confined(capabilities()), *lab.argv(*args)],
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        lab.programs.append(agent)
        while b"READY=1" not in manager.recv(4096).split(b"\n"):
            assert agent.poll() is None
        assert lab.status()["namespaces"] == 1
        agent.terminate()
        _, said = agent.communicate(timeout=30)
    assert agent.returncode == 0, said
    assert "Traceback" not in said
    assert lab.status()["active"]


@pytest.mark.parametrize("name", capabilities())
def test_none_of_them_is_superfluous(lab: Lab, stranger: str, name: str) -> None:
    prefix = confined([each for each in capabilities() if each != name])
    args = ["enable", "--cgroup", lab.cgroup, "--netns", stranger]
    done = lab.cli(*args, prefix=prefix, expect=NotPermittedError.exit_code)
    assert done.stderr.startswith("Error: cannot "), done.stderr
    assert not lab.pin_dir.exists()
    assert not attached(lab.cgroup)


def test_systemd_understands_every_line(unit: Path) -> None:
    done = analyze("verify", "--man=no", unit)
    said = [line for line in done.stderr.splitlines() if unit.name in line]
    assert said == []
    assert done.returncode == 0, done.stderr


def test_systemd_finds_it_no_more_exposed_than_it_must_be(unit: Path) -> None:
    threshold = str(round(MOST_EXPOSED * 10))
    done = analyze("security", "--offline=true", "--no-pager", f"--threshold={threshold}", unit)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_it_is_not_started_again_where_that_mends_nothing() -> None:
    hopeless = {error.exit_code for error in (InputError, NotPermittedError, HostError)}
    (line,) = settings("RestartPreventExitStatus")
    assert set(map(int, line.split())) == hopeless
    assert settings("Restart") == ["on-failure"]


def test_it_is_bound_to_no_docker() -> None:
    assert settings("After") == ["docker.service"]
    for name in ("Requires", "Requisite", "BindsTo", "PartOf"):
        assert settings(name) == []


def test_what_must_stay_off_is_off() -> None:
    _, _, explained = UNIT.read_text().partition("# What must stay off")
    names = re.findall(r"(?m)^# (\w+)=(?:, (\w+)=)?", explained)
    found = [name for pair in names for name in pair if name]
    assert {"ProtectKernelTunables", "ProtectControlGroups", "ProcSubset"} <= set(found)
    for name in found:
        assert settings(name) == []
