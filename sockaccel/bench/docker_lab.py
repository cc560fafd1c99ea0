"""A lab of Docker containers on a user-defined internal bridge, a container for each node.

    with Dockerd(directory) as dockerd:
        build_image(dockerd, "lab", [*PROGRAMS, "nginx", "wrk"])
        with DockerLab(dockerd, "lab", ["client", "web"], shared, clients=["client"]) as lab:
            server = lab.start("web", ["nginx", "-p", f"{shared}/", "-c", "nginx.conf"])
            run(lab.command("client", ["wrk", f"http://{lab.nodes['web'].address}/"]))
            server.end()

A server is the main program of its container, which begins and ends with it: started again, it
has another network namespace. A client is run by `docker exec` in a container that waits.
"""

from __future__ import annotations

import ipaddress
import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sockaccel.bench.built import Built
from sockaccel.bench.dockerd import without_advice
from sockaccel.bench.lab import SUBNET, sum_port_bytes
from sockaccel.bench.process import Child, find_tool, run, run_checked
from sockaccel.errors import BenchError
from sockaccel.signals import hold

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from sockaccel.bench.dockerd import Dockerd

WAIT = ("sleep", "infinity")
PROGRAMS = ("env", "sleep")  # that the image has to have besides the measured ones
START_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class ContainerNode:
    """A node whose programs run in the container of its name."""

    name: str
    container: str
    address: str
    dockerd: Dockerd

    @property
    def pid(self) -> int:
        """The container's main process, as this host numbers it.

        Raises:
            BenchError: no container runs.

        """
        pid = int(self.dockerd.docker("inspect", "--format={{.State.Pid}}", self.container))
        if not pid:
            raise BenchError(f"cannot find container '{self.container}': it has ended")
        return pid

    @property
    def path(self) -> Path:
        """The file that stands for the container's network namespace; raises as pid does."""
        return Path(f"/proc/{self.pid}/ns/net")


class DockerLab(Built):
    """Containers <prefix>-<node> on network <prefix>; gone when the block ends.

    directory: what all nodes see of this host, at the same path, to read and to write.
    clients: the nodes that run no server.
    """

    def __init__(
        self,
        dockerd: Dockerd,
        image: str,
        names: Sequence[str],
        directory: Path,
        *,
        clients: Sequence[str],
        prefix: str = "lab",
        subnet: str = SUBNET,
    ) -> None:
        network = ipaddress.ip_network(subnet)
        # Docker keeps the first address for the gateway, which an internal network has, too.
        addresses = list(network.hosts())[1:]
        if len(addresses) < len(names):
            raise ValueError(f"{subnet} has no addresses for {names}")
        self.nodes = {
            name: ContainerNode(name, f"{prefix}-{name}", str(address), dockerd)
            for name, address in zip(names, addresses, strict=False)
        }
        self._dockerd = dockerd
        self._image = image
        self._directory = directory
        self._clients = list(clients)
        self._network = prefix
        self._subnet = subnet
        self._bridge = ""

    @property
    def scope(self) -> list[str]:
        """The options with which `sockaccel enable` takes in the daemon's containers alone."""
        return ["--docker-host", self._dockerd.url]

    def start(self, node: str, argv: Sequence[str]) -> Child:
        """Start a server as the main program of a node's container; return when it runs.

        Raises:
            BenchError: Docker did not start it.

        """
        with hold():
            server = _Server(self.nodes[node], self._run_arguments(node, argv))
            try:
                server.await_container()
            except BenchError:
                server.end()
                raise
        return server

    def command(self, node: str, argv: Sequence[str]) -> list[str]:
        """Return the command that runs argv in the container of a node, which must run."""
        return self._dockerd.client("exec", self.nodes[node].container, *argv)

    def port_bytes(self) -> int:
        """Return what the bridge's ports have received and sent so far.

        A frame from node to node counts twice: in by one port, out by another. A port's counters
        begin and end with its container.
        """
        links = [find_tool("ip"), "-j", "-s", "link", "show", "master", self._bridge]
        text = run_checked(self._dockerd.enter(links))
        ports = [link["ifname"] for link in json.loads(text) if link]
        running = self._dockerd.docker("ps", "--quiet", f"--filter=network={self._network}").split()
        if len(ports) != len(running):
            raise BenchError(
                f"cannot read the counters of network '{self._network}':"
                f" {len(ports)} ports for {len(running)} containers"
            )
        return sum_port_bytes(text, ports)

    def _build(self) -> None:
        with hold():
            network = self._dockerd.docker(
                "network", "create", "--internal", f"--subnet={self._subnet}", self._network
            )
            self._bridge = f"br-{network[:12]}"  # as Docker calls it
        for node in self._clients:
            self._dockerd.docker("run", "--detach", *self._run_arguments(node, WAIT))

    def _run_arguments(self, node: str, argv: Sequence[str]) -> list[str]:
        place = self.nodes[node]
        return [
            "--rm",
            f"--name={place.container}",
            f"--network={self._network}",
            f"--ip={place.address}",
            f"--volume={self._directory}:{self._directory}",
            self._image,
            *argv,
        ]

    def close(self) -> None:
        """Remove the network, and the containers that are on it still."""
        with hold():
            if not self._bridge:
                return
            left = self._dockerd.docker(
                "ps", "--all", "--quiet", f"--filter=network={self._network}"
            )
            if left:
                self._dockerd.docker("rm", "--force", *left.split())
            self._dockerd.docker("network", "rm", self._network)
            self._bridge = ""


class _Server(Child):
    """The client of Docker that a container's main program is attached to.

    It passes signals on, says what the program says, and ends when the container has been removed.
    """

    def __init__(self, node: ContainerNode, arguments: Sequence[str]) -> None:
        super().__init__(node.dockerd.client("run", *arguments))
        self._node = node

    @property
    def pid(self) -> int:
        """The process id of the program, as this host numbers it."""
        return self._node.pid

    def await_container(self) -> None:
        """Return when the container runs, or has ended already; raise if it does neither."""
        deadline = time.monotonic() + START_TIMEOUT_S
        name = f"--filter=name=^{self._node.container}$"
        while self.running() and not self._node.dockerd.docker("ps", "--quiet", name):
            if time.monotonic() > deadline:
                raise BenchError(
                    f"cannot start container '{self._node.container}':"
                    f" it does not run after {START_TIMEOUT_S:g} s"
                )
            time.sleep(0.02)

    def wait(self, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Return exit code and output once it ends; subprocess.TimeoutExpired if it does not."""
        done = super().wait(timeout_s)
        done.stderr = without_advice(done.stderr)
        return done

    def end(self, signum: signal.Signals = signal.SIGTERM, grace_s: float = 3.0) -> None:
        """End the program; return when its container is gone."""
        with hold():
            super().end(signum, grace_s)
            # What was deaf to the signal, or not yet there to hear it. Most often nothing.
            run(self._node.dockerd.client("rm", "--force", self._node.container))
