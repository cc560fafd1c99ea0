"""The agent on real namespaces and the real datapath; only the daemon is a fake."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from unit.fake_docker import FakeDocker

from sockaccel.agent import presence
from sockaccel.datapath import libbpf
from sockaccel.datapath.scope_map import ScopeMap
from sockaccel.datapath.state import Datapath, instance
from sockaccel.scope.netns import netns_cookie

from .harness import BPFFS, IPV4_B, Host, Lab, attached, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sockaccel.scope.plan import Entry

# Without a lock in the way it is milliseconds; this machine may be busy.
SOON_S = 20
MOST_RSS_KB = 45 * 1024


class Service:
    """An agent, as a service manager has it."""

    def __init__(self, lab: Lab, directory: Path, docker_url: str, *args: str | Path) -> None:
        self.heard: list[str] = []
        self._said = directory / f"said{len(lab.programs)}"
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = directory / f"notify{len(lab.programs)}"
        self._manager.bind(str(address))
        self._manager.settimeout(SOON_S)
        command = ["agent", "--cgroup", lab.cgroup, "--docker-host", docker_url, *args]
        with self._said.open("w") as stderr:
            self.process = subprocess.Popen(
                lab.argv(*command),
                env={**os.environ, "NOTIFY_SOCKET": str(address)},
                stderr=stderr,
                start_new_session=True,
            )
        lab.programs.append(self.process)

    def close(self) -> None:
        self._manager.close()

    def until(self, word: str) -> Self:
        """Wait until the service manager is told a line that begins so."""
        while True:
            try:
                lines = self._manager.recv(4096).decode().split("\n")
            except TimeoutError:
                pytest.fail(f"never heard {word}: {self.said()}")
            self.heard += lines
            if any(line.startswith(word) for line in lines):
                return self

    def said(self) -> str:
        return self._said.read_text()

    def until_said(self, text: str) -> None:
        wait_until(lambda: text in self.said(), SOON_S, f"{text!r} on stderr: {self.said()}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        code = self.process.wait(SOON_S)
        assert "Traceback" not in self.said(), self.said()
        return code


class Scene:
    """A laboratory with a daemon, and agents."""

    def __init__(self, lab: Lab, daemon: FakeDocker, directory: Path) -> None:
        self.lab = lab
        self.daemon = daemon
        self._directory = directory
        self.services: list[Service] = []

    def agent(self, *args: str | Path, url: str | None = None) -> Service:
        """Start an agent."""
        made = Service(self.lab, self._directory, url or self.daemon.url, "--policy=all", *args)
        self.services.append(made)
        return made

    def run(self, name: str, host: Host, **labels: str) -> str:
        """Run a container without a word; return its id."""
        process = host.popen("sleep", "300")
        cookie = self.cookie(host)
        wait_until(
            lambda: netns_cookie(f"/proc/{process.pid}/ns/net") == cookie, what="the namespace"
        )
        return self.daemon.add(name, process.pid, **labels)

    def start(self, name: str, host: Host, **labels: str) -> str:
        """Run a container, and tell; return its id."""
        identifier = self.run(name, host, **labels)
        self.daemon.event("start", identifier, name)
        return identifier

    def cookie(self, host: Host) -> int:
        return netns_cookie(str(host.path))

    def scope(self) -> dict[int, Entry]:
        with Datapath(self.lab.pin_dir) as datapath:
            return ScopeMap(datapath).entries()

    def epoch(self) -> int:
        with Datapath(self.lab.pin_dir) as datapath:
            return datapath.config.scope_epoch

    def until_in_scope(self, *hosts: Host) -> None:
        wanted = {self.cookie(host) for host in hosts}
        wait_until(lambda: self.scope().keys() == wanted, SOON_S, f"{wanted} in scope")

    def transfer(self, near: socket.socket, far: socket.socket) -> None:
        near.sendall(b"x" * 3000)
        left = 3000
        while left:
            left -= len(far.recv(left))

    def redirected(self, near: socket.socket, far: socket.socket) -> bool:
        """Return whether a message is redirected now."""
        before, _ = self.lab.sent(near)
        self.transfer(near, far)
        return self.lab.sent(near)[0] > before


@pytest.fixture
def scene(accelerated_lab: Lab, tmp_path: Path) -> Iterator[Scene]:
    accelerated_lab.enabled_once = True  # so that its objects are looked for
    with FakeDocker(tmp_path / "docker.sock") as daemon:
        made = Scene(accelerated_lab, daemon, tmp_path)
        yield made
        for service in made.services:
            service.close()
            service.process.kill()
            service.process.wait()


def test_containers_are_accelerated_because_they_run(scene: Scene) -> None:
    one, two = scene.lab.pair()
    agent = scene.agent().until("READY=1")
    scene.start("one", one)
    second = scene.start("two", two)
    scene.until_in_scope(one, two)
    near, far = scene.lab.connect(one, two.listen(IPV4_B))
    scene.transfer(near, far)
    scene.lab.expect_redirected(near)
    assert all(entry.by_docker for entry in scene.scope().values())
    agent.until("STATUS=accelerating 2 network namespaces; 2 of 2 containers in scope")
    scene.daemon.remove(second)
    scene.daemon.event("die", second)
    scene.until_in_scope(one)
    agent.until("STATUS=accelerating 1 network namespace; 1 of 1 container in scope")
    for line in ("'one' (000000000000) is in scope", f"'two' ({second[:12]}) has ended"):
        agent.until_said(line)


def test_what_runs_before_the_agent_is_in_scope_when_it_is_ready(scene: Scene) -> None:
    hosts = [scene.lab.host() for _ in range(3)]
    for number, host in enumerate(hosts):
        scene.run(f"web{number}", host)
    agent = scene.agent().until("READY=1")
    assert scene.scope().keys() == {scene.cookie(host) for host in hosts}
    assert "STATUS=accelerating 3 network namespaces; 3 of 3 containers in scope" in agent.heard
    said = agent.said()
    assert "connected to Docker at 'unix://" in said
    assert ": 3 of 3 containers in scope" in said
    assert "is in scope" not in said  # not one line for each


def test_a_bad_label_is_named_and_skips_its_container_only(scene: Scene) -> None:
    good, bad, refusing = (scene.lab.host() for _ in range(3))
    scene.run("bad", bad, enable="maybe")
    scene.run("refusing", refusing, enable="false")
    agent = scene.agent().until("READY=1")
    scene.start("good", good)
    scene.until_in_scope(good)
    assert "label sockaccel.enable of container 'bad': 'maybe'" in agent.said()
    agent.until("STATUS=accelerating 1")
    shown = scene.lab.status()["agent"]
    assert shown["running"] is True
    assert shown["pid"] == agent.process.pid
    assert shown["decisions"] == {"bad-label": 1, "in-scope": 1, "label": 1}
    assert [(each["container"], each["why"]) for each in shown["skipped"]] == [
        ("bad", "bad-label"),
        ("refusing", "label"),
    ]
    assert shown["docker"]["connected"] is True
    table = scene.lab.cli("status").stdout
    for text in (f"process {agent.process.pid}", "connected for", "refusing", "bad-label"):
        assert text in table
    assert agent.end() == 0
    assert scene.lab.status()["agent"] == {"running": False, "pid": None}


def test_a_killed_agent_is_followed_by_one_that_touches_nothing(scene: Scene) -> None:
    one, two = scene.lab.pair()
    scene.run("one", one)
    gone = scene.run("two", two)
    first = scene.agent().until("READY=1")
    near, far = scene.lab.connect(one, two.listen(IPV4_B))
    assert scene.redirected(near, far)
    stranger = (1 << 60).to_bytes(8, "little")
    with Datapath(scene.lab.pin_dir) as datapath:
        libbpf.update(datapath.fd("scope"), stranger, (1).to_bytes(4, "little"))
    before = scene.scope(), scene.epoch(), scene.lab.pin_dir.stat().st_ino
    programs = attached(scene.lab.cgroup)
    first.end(signal.SIGKILL)
    assert scene.lab.status()["agent"]["running"] is False
    assert scene.redirected(near, far)
    second = scene.agent().until("READY=1")
    assert "took over" in second.said()
    assert (scene.scope(), scene.epoch(), scene.lab.pin_dir.stat().st_ino) == before
    assert attached(scene.lab.cgroup) == programs
    assert scene.redirected(near, far)
    # It owns what the first one put there, and not what somebody else did.
    scene.daemon.remove(gone)
    scene.daemon.event("die", gone)
    wait_until(lambda: scene.cookie(two) not in scene.scope(), SOON_S, "two out of scope")
    assert not scene.redirected(near, far)
    assert 1 << 60 in scene.scope()
    second.end(signal.SIGKILL)
    left = f"agent-{instance(scene.lab.pin_dir):016x}.*"
    assert list(presence.RUNTIME_DIR.glob(left))
    scene.lab.disable()
    assert not list(presence.RUNTIME_DIR.glob(left))


def test_without_docker_it_starts_and_shows_it_and_what_netns_names_is_in_scope(
    scene: Scene,
) -> None:
    named, later = scene.lab.host(), scene.lab.host()
    scene.daemon.die()
    scene.daemon.path.unlink()
    agent = scene.agent("--netns", named.path).until("READY=1")
    assert scene.scope().keys() == {scene.cookie(named)}
    assert any("ENOENT" in line for line in agent.heard if line.startswith("STATUS="))
    shown = scene.lab.status()["agent"]["docker"]
    assert (shown["connected"], shown["last_resync"]) == (False, None)
    assert "no such file or directory (ENOENT)" in shown["error"]
    assert "away for" in scene.lab.cli("status").stdout
    scene.run("later", later)
    scene.daemon.start()
    scene.until_in_scope(named, later)
    agent.until("STATUS=accelerating 2")
    # Gone again: what is in scope stays, and it is said once, whatever it tries.
    scene.daemon.die()
    agent.until_said(f"lost Docker at '{scene.daemon.url}': it closed the connection")
    agent.until("STATUS=accelerating 2 network namespaces; cannot reach Docker")
    assert "ECONNREFUSED" in scene.lab.status()["agent"]["docker"]["error"]
    assert scene.scope().keys() == {scene.cookie(named), scene.cookie(later)}
    assert agent.said().count("what is in scope stays") == 2
    assert agent.end() == 0


def test_taking_over_without_docker_leaves_containers_in_scope(scene: Scene) -> None:
    host = scene.lab.host()
    scene.run("web", host)
    scene.agent().until("READY=1").end(signal.SIGKILL)
    before = scene.scope(), scene.epoch()
    scene.daemon.die()
    scene.agent().until("READY=1")
    assert (scene.scope(), scene.epoch()) == before


def test_connections_that_are_older_are_counted(scene: Scene) -> None:
    one, two = scene.lab.pair()
    listener = two.listen(IPV4_B)
    near, far = scene.lab.connect(one, listener)
    scene.run("one", one)
    scene.run("two", two)
    scene.agent().until("READY=1")
    wait_until(lambda: scene.lab.status()["agent"]["open_before"] == 1, SOON_S)
    assert "1 local connection was open before" in scene.lab.cli("status").stdout
    scene.transfer(near, far)
    assert scene.lab.connection(near) is None


def test_it_ends_at_once_and_leaves_acceleration_on_unless_told_otherwise(scene: Scene) -> None:
    host = scene.lab.host()
    scene.run("web", host)
    for number in (signal.SIGTERM, signal.SIGINT):
        agent = scene.agent().until("READY=1")
        began = time.monotonic()
        assert agent.end(number) == 0
        assert time.monotonic() - began < 5
        assert scene.lab.status()["active"]
        agent.until("STOPPING=1")
    assert scene.agent("--disable-on-exit").until("READY=1").end() == 0
    assert not scene.lab.pin_dir.exists()
    assert presence.find(scene.lab.pin_dir) is None


def test_a_second_agent_is_refused_and_changes_nothing(scene: Scene) -> None:
    first = scene.agent().until("READY=1")
    second = scene.agent("--ports=80")
    assert second.ended() == 1
    error, hint = second.said().splitlines()
    pid = first.process.pid
    assert error.startswith(
        f"Error: cannot start the agent of '{scene.lab.pin_dir}': process {pid}"
    )
    assert hint == f"Hint: kill {pid}"
    assert first.process.poll() is None
    with Datapath(scene.lab.pin_dir) as datapath:
        assert datapath.options.ports is None


def test_disable_ends_it_with_success_so_that_nobody_starts_it_again(scene: Scene) -> None:
    agent = scene.agent().until("READY=1")
    scene.lab.disable()
    assert agent.ended() == 0
    assert "disabled by somebody else: the agent ends" in agent.said()
    assert not scene.lab.pin_dir.exists()


def test_options_that_can_be_adjusted_are_and_the_others_are_an_error(scene: Scene) -> None:
    host = scene.lab.host()
    scene.run("web", host)
    scene.agent().until("READY=1").end()
    before = scene.lab.pin_dir.stat().st_ino
    agent = scene.agent("--ports=80", "--opt-in").until("READY=1")
    assert "adjusted what was enabled: --ports is 80, not unset" in agent.said()
    assert scene.lab.pin_dir.stat().st_ino == before
    assert scene.scope() == {}  # it does not ask for it
    agent.end()
    refused = scene.agent("--max-connections=100")
    assert refused.ended() == 1
    assert "--max-connections is 65536, not 100" in refused.said()
    assert "Hint: " in refused.said()
    with Datapath(scene.lab.pin_dir) as datapath:
        assert (datapath.options.ports, datapath.options.opt_in) == ("80", True)


def test_sighup_reads_the_configuration_again(scene: Scene, tmp_path: Path) -> None:
    host = scene.lab.host()
    scene.run("web", host)
    file = tmp_path / "config.toml"
    file.write_text("opt_in = false\n")
    scene.lab.argv = (
        lambda *args, argv=scene.lab.argv: [  # type: ignore[method-assign]
            *argv()[:3],
            "--config",
            str(file),
            *argv(*args)[3:],
        ]
    )
    agent = scene.agent().until("READY=1")
    scene.until_in_scope(host)
    file.write_text("opt_in = true\n")
    agent.process.send_signal(signal.SIGHUP)
    agent.until("RELOADING=1").until("READY=1")
    assert scene.scope() == {}
    agent.until_said("reloaded: --opt-in is set, not unset")
    for wrong, why in {
        "opt_in = 3\n": "cannot use key 'opt_in'",
        "max_connections = 7\n": "--max-connections is 65536, not 7",
        'debounce = "1s:2s"\n': "cannot change debounce to '1s:2s'",
        "disable_on_exit = true\n": "cannot change disable_on_exit to 'true'",
    }.items():
        file.write_text(wrong)
        agent.process.send_signal(signal.SIGHUP)
        agent.until("RELOADING=1").until("READY=1")
        agent.until_said(why)
        assert scene.scope() == {}
    assert agent.said().count("everything stays as it was") == 4
    file.write_text("")
    agent.process.send_signal(signal.SIGHUP)
    scene.until_in_scope(host)
    assert agent.end() == 0


def test_told_to_end_while_it_compiles_it_leaves_nothing(scene: Scene) -> None:
    agent = scene.agent().until("EXTEND_TIMEOUT_USEC=")
    assert agent.end() == 0
    assert not scene.lab.pin_dir.exists()
    assert not attached(scene.lab.cgroup)


def test_a_container_does_not_wait_for_somebody_who_compiles(scene: Scene) -> None:
    host = scene.lab.host()
    scene.agent().until("READY=1")
    lock = os.open(BPFFS, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        scene.start("web", host)
        scene.until_in_scope(host)
    finally:
        os.close(lock)


def test_it_is_small_and_never_loads_the_compiler(scene: Scene) -> None:
    agent = scene.agent().until("READY=1")
    maps = Path(f"/proc/{agent.process.pid}/maps").read_text()
    assert "libbpf" in maps
    assert "LLVM" not in maps
    assert "libbcc" not in maps
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    assert int(found[1]) < MOST_RSS_KB


def test_addresses_of_the_host_are_local_as_they_come_and_go(scene: Scene) -> None:
    scene.agent("--scope=all").until("READY=1")

    def networks() -> set[str]:
        with Datapath(scene.lab.pin_dir) as datapath:
            return {str(network) for network in ScopeMap(datapath).networks()}

    wait_until(lambda: "127.0.0.0/8" in networks(), SOON_S)
    address = "127.77.77.77"  # harmless: it was loopback's all along
    subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    try:
        wait_until(lambda: f"{address}/32" in networks(), SOON_S)
    finally:
        subprocess.run(["ip", "address", "del", f"{address}/32", "dev", "lo"], check=True)
    wait_until(lambda: f"{address}/32" not in networks(), SOON_S)


def test_a_cgroup_that_is_removed_is_shown_as_trouble(scene: Scene) -> None:
    below = scene.lab.cgroup / "below"
    below.mkdir()
    agent = scene.agent("--cgroup", below).until("READY=1")
    below.rmdir()
    scene.start("web", scene.lab.host())
    agent.until_said(f"cannot use the scope of '{scene.lab.pin_dir}': nothing is enabled there")
    wait_until(lambda: scene.lab.status(expect=3)["agent"]["trouble"], SOON_S)
    assert agent.process.poll() is None
    scene.lab.disable()
    assert agent.ended() == 0
