"""A laboratory whose hosts are containers.

Sockets are made in a container's network namespace by a process of the test, as in
tests/kernel, so that a scenario reads in one place. The kernel sees no difference to
the container's own processes, except which program they are: hence --policy all,
unless a test runs real programs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel.harness import Host, Lab, attached, cookie, receive, wait_until

from sockaccel.bench.dockerd import Dockerd
from sockaccel.bench.image import PYTHON, build_image
from sockaccel.datapath.layout import Reason
from sockaccel.datapath.state import Datapath
from sockaccel.scope.netns import netns_cookie

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from sockaccel.datapath.layout import Conn

IMAGE = "tools"
PROGRAMS = ("/usr/bin/python3", "nginx", "redis-server", "redis-benchmark", "sleep", "sh", "curl")
FOLLOW_S = 5
"""How long the agent may take to follow on a busy machine; scripts/docker-latency measures."""

MESSAGE = b"sockaccel " * 100
MESSAGES = 20
PORT = 7000


@contextlib.contextmanager
def daemon(*options: str) -> Iterator[Dockerd]:
    """Run a daemon that has an image of tools."""
    # mkdtemp finds a name that is free; the daemon makes the directory itself.
    directory = Path(tempfile.mkdtemp(prefix="sadt"))
    directory.rmdir()
    with Dockerd(directory, options=options) as dockerd:
        build_image(dockerd, IMAGE, PROGRAMS, [PYTHON])
        yield dockerd


class Container:
    """A container by its name; what is asked is what is so now."""

    def __init__(self, dockerd: Dockerd, name: str) -> None:
        self._dockerd = dockerd
        self.name = name

    def inspect(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self._dockerd.docker("inspect", self.name))
        return found[0]

    @property
    def pid(self) -> int:
        return int(self.inspect()["State"]["Pid"])

    @property
    def path(self) -> Path:
        """The file that stands for its network namespace."""
        return Path(f"/proc/{self.pid}/ns/net")

    @property
    def cookie(self) -> int:
        return netns_cookie(str(self.path))

    def address(self, network: str, *, ipv6: bool = False) -> str:
        settings = self.inspect()["NetworkSettings"]["Networks"][network]
        return str(settings["GlobalIPv6Address" if ipv6 else "IPAddress"])

    def exec(self, *argv: str) -> str:
        """Run a program in it and return what that prints."""
        return self._dockerd.docker("exec", self.name, *argv)


class DockerLab(Lab):
    """What one test uses of a daemon that all tests share, and its removal."""

    def __init__(self, dockerd: Dockerd) -> None:
        super().__init__("accelerated", dockerd.cgroup)
        self.dockerd = dockerd
        self.docker = dockerd.docker
        self.agents: list[Agent] = []

    # Containers

    def container(self, name: str, *options: str, command: tuple[str, ...] = ()) -> Container:
        """Start a container, of which nothing but its namespaces is used if no command is given."""
        command = command or ("sleep", "infinity")
        # With an init process, without which a program that handles no signals cannot be stopped.
        self.docker("run", "--init", "--detach", "--name", name, *options, IMAGE, *command)
        return Container(self.dockerd, name)

    def network(self, name: str, *options: str) -> str:
        """Make a user-defined network and return its name."""
        self.docker("network", "create", *options, name)
        return name

    def inside(self, container: Container) -> Host:
        """Return the host whose sockets are in the container's network namespace."""
        self.hosts.append(Host(self, container.name, container.path))
        return self.hosts[-1]

    def outside(self) -> Host:
        """Return the host that the daemon runs on."""
        self.hosts.append(Host(self, "outside", self.dockerd.netns))
        return self.hosts[-1]

    def pair_on(self, network: str, *options: str) -> tuple[Container, Container]:
        """Start two containers on a new network of the default kind."""
        self.network(network)
        one, two = (
            self.container(f"{network}-{number}", "--network", network, *options)
            for number in (1, 2)
        )
        return one, two

    # sockaccel

    def cli(
        self,
        *args: str | Path,
        expect: int | None = 0,
        env: dict[str, str] | None = None,
        prefix: list[str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run sockaccel on the daemon's host."""
        env = {"DOCKER_HOST": self.dockerd.url} | (env or {})
        return super().cli(*args, expect=expect, env=env, prefix=self.dockerd.enter(prefix or []))

    def options(self, *more: str) -> list[str]:
        """Return what enable and agent are given."""
        given = ["--cgroup", str(self.dockerd.cgroup), "--docker-host", self.dockerd.url]
        policy = [] if any(word.startswith("--policy") for word in more) else ["--policy=all"]
        return [*given, *policy, *more]

    def enable(self, *options: str, hosts: list[Host] | None = None) -> None:
        """Accelerate the containers that run now."""
        assert hosts is None, "the containers decide"
        self.enabled_once = True
        self.cli("enable", *self.options(*options))

    def agent(self, *options: str, await_docker: bool = True) -> Agent:
        """Start the agent; return when it has seen every container."""
        self.enabled_once = True
        agent = Agent(self, self.options(*options))
        self.agents.append(agent)
        if await_docker:
            agent.await_word("connected to Docker", seconds=30)
        return agent

    def decisions(self) -> dict[str, tuple[bool, str]]:
        """Return for each container whether it is in scope, and why, as `scope list` says."""
        listed = json.loads(self.cli("-o", "json", "scope", "list").stdout)
        return {each["name"]: (each["in_scope"], each["why"]) for each in listed["containers"]}

    def scope(self) -> set[int]:
        """Return the cookies of the namespaces in scope, from the pinned map itself."""
        with Datapath(self.pin_dir) as datapath:
            return set(datapath.namespaces())

    def await_scope(self, *containers: Container) -> None:
        """Wait until exactly these containers are in scope."""
        wanted = {container.cookie for container in containers}
        try:
            wait_until(lambda: self.scope() == wanted, FOLLOW_S)
        except AssertionError:
            said = "".join(agent.said() for agent in self.agents)
            names = [container.name for container in containers]
            raise AssertionError(
                f"in scope within {FOLLOW_S} s: {self.scope()}, not {wanted}, {names}\n{said}"
            ) from None

    # Proof

    def ways(
        self,
        client: Host,
        server: Host,
        address: str,
        *,
        to: tuple[str, int] | None = None,
        port: int = PORT,
    ) -> set[str]:
        """Exchange messages on a new connection; return the ways that the two ends' bytes took.

        ``redirect``, or why TCP; where sockaccel has no reason (it does not know the connection,
        or takes TCP for one message alone) ``tcp``.
        """
        listener = server.listen(address, port)
        near, far = self.connect(client, listener, to)
        found = self.ways_of(near, far)
        for sock in (near, far, listener):
            self.close_one(sock)
        return found

    def ways_of(self, near: socket.socket, far: socket.socket) -> set[str]:
        """Exchange messages on this connection; return the ways that they took."""
        before = self._records()
        talk(near, far)
        after = self._records()
        ways = set()
        for number in map(cookie, (near, far)):
            old, new = before.get(number), after.get(number)
            redirected = (new.redirected_bytes if new else 0) - (old.redirected_bytes if old else 0)
            if redirected:
                ways.add("redirect")
            if redirected < MESSAGES * len(MESSAGE):
                reason = Reason(new.last_reason if new else Reason.NONE)
                ways.add(reason.label if reason else "tcp")
        return ways

    def _records(self) -> dict[int, Conn]:
        """Return what the datapath itself counts, by the sockets' cookies; `dump` takes longer."""
        with Datapath(self.pin_dir) as datapath:
            return {record.conn.cookie: record.conn for record in datapath.records()}

    # The end

    def close(self) -> None:
        try:
            for agent in self.agents:
                agent.kill()
            super().close()
        finally:
            if names := self.docker("ps", "--all", "--quiet").split():
                self.docker("rm", "--force", "--volumes", *names)
            self.docker("network", "prune", "--force")

    def left_behind(self) -> list[str]:
        return [
            *super().left_behind(),
            *(f"attached: {item}" for item in attached(self.dockerd.cgroup)),
        ]


class Agent:
    """A running `sockaccel agent` on the daemon's host."""

    def __init__(self, lab: DockerLab, options: list[str]) -> None:
        self._lab = lab
        self.log = Path(tempfile.mkstemp(prefix=f"{lab.name}-agent-")[1])
        argv = lab.dockerd.enter(lab.argv("agent", *options))
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.pid = self._process.pid

    def said(self) -> str:
        """Return all that it wrote so far."""
        return self.log.read_text()

    def await_word(self, *words: str, seconds: float = FOLLOW_S) -> str:
        """Wait until it has said something in one line, and return that line."""

        def line() -> str | None:
            assert self._process.poll() is None, "the agent has ended"
            lines = self.said().splitlines()
            return next((each for each in lines if all(word in each for word in words)), None)

        try:
            return str(wait_until(line, seconds, f"a line with {words}"))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()}") from None

    def end(self) -> int:
        """Ask it to end, and return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(10)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.log.unlink(missing_ok=True)


def talk(one: socket.socket, two: socket.socket) -> None:
    """Exchange messages and check each."""
    for _ in range(MESSAGES):
        for sender, receiver in ((one, two), (two, one)):
            sender.sendall(MESSAGE)
            assert receive(receiver, len(MESSAGE)) == MESSAGE


def wire_silent(hosts: list[Host], action: Callable[[], Any]) -> bool:
    """Return whether an action put fewer bytes on the hosts' interfaces than one message has."""
    before = [host.interface_bytes() for host in hosts]
    action()
    return all(
        host.interface_bytes() - count < len(MESSAGE)
        for host, count in zip(hosts, before, strict=True)
    )
