"""A lab: network namespaces joined by a bridge that sits in a namespace of its own.

    with Lab("demo", ["client", "server"]) as lab:
        run(lab.command("client", ["ping", "-c1", lab.nodes["server"].address]))

The host's own namespace is not touched. Every node has one interface, eth0; its
other end is a port of the bridge and bears the node's name, so that all traffic
between nodes shows in the ports' counters.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sockaccel.bench.built import Built
from sockaccel.bench.process import Child, find_tool, run, run_checked
from sockaccel.errors import BenchError
from sockaccel.signals import hold

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NETNS_DIR = Path("/run/netns")
SUBNET = "10.213.0.0/24"
MAX_PORT_NAME = 15  # IFNAMSIZ - 1


class Place(Protocol):
    """One node of a topology."""

    @property
    def name(self) -> str:
        """What it is called in its topology."""

    @property
    def address(self) -> str:
        """Its IPv4 address."""

    @property
    def path(self) -> Path:
        """The file that stands for its network namespace now."""


class Topology(Protocol):
    """Nodes on one bridge, and the programs that run there.

    What a node is (a namespace, a container) is the topology's affair: a measurement is
    written once. It starts its servers first and enables sockaccel then, because a node that
    gets another program may get another namespace with it.
    """

    @property
    def nodes(self) -> Mapping[str, Place]:
        """The nodes by name."""

    @property
    def scope(self) -> list[str]:
        """The options with which `sockaccel enable` takes in these nodes and nobody else."""

    def start(self, node: str, argv: Sequence[str]) -> Child:
        """Start the server of a node; its end is the caller's duty."""

    def command(self, node: str, argv: Sequence[str]) -> list[str]:
        """Return the command that runs a client on a node to its end."""

    def port_bytes(self) -> int:
        """Return what the bridge's ports have received and sent so far."""


@dataclass(frozen=True)
class Node:
    """One network namespace with one address."""

    name: str
    netns: str
    address: str

    @property
    def path(self) -> Path:
        """The file that stands for the namespace."""
        return NETNS_DIR / self.netns


class Lab(Built):
    """Namespaces named <prefix>-<node>, and <prefix>-bridge; gone when the block ends."""

    def __init__(self, prefix: str, names: Sequence[str], subnet: str = SUBNET) -> None:
        network = ipaddress.ip_network(subnet)
        if any(len(name) > MAX_PORT_NAME for name in names) or "bridge" in names:
            raise ValueError(f"unusable as names of bridge ports: {names}")
        self.nodes = {
            name: Node(name, f"{prefix}-{name}", str(address))
            for name, address in zip(names, network.hosts(), strict=False)
        }
        if len(self.nodes) != len(names):
            raise ValueError(f"{subnet} has no addresses for {names}")
        self._bits = network.prefixlen
        self._bridge_netns = f"{prefix}-bridge"
        self._ip = find_tool("ip")
        self._made: list[str] = []

    @property
    def scope(self) -> list[str]:
        """The options with which `sockaccel enable` takes in these namespaces alone."""
        return [word for node in self.nodes.values() for word in ("--netns", str(node.path))]

    def start(self, node: str, argv: Sequence[str]) -> Child:
        """Start a program in the namespace of a node."""
        return Child(self.command(node, argv))

    def command(self, node: str, argv: Sequence[str]) -> list[str]:
        """Return the command that runs argv in the namespace of a node."""
        return [self._ip, "netns", "exec", self.nodes[node].netns, *argv]

    def port_bytes(self) -> int:
        """Return what the bridge's ports have received and sent so far.

        A frame from node to node counts twice: in by one port, out by another.
        """
        text = run_checked([self._ip, "-n", self._bridge_netns, "-j", "-s", "link", "show"])
        return sum_port_bytes(text, self.nodes)

    def _build(self) -> None:
        bridge = self._bridge_netns
        self._add_netns(bridge)
        # No spanning tree, no delay, no multicast querier: nothing but the load is on the wire.
        self._run(bridge, "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
        self._run(bridge, "link set br0 addrgenmode none up")
        for node in self.nodes.values():
            self._add_netns(node.netns)
            self._run(bridge, f"link add {node.name} type veth peer name eth0 netns {node.netns}")
            self._run(bridge, f"link set {node.name} addrgenmode none master br0 up")
            self._run(node.netns, f"address add {node.address}/{self._bits} dev eth0")
            self._run(node.netns, "link set eth0 addrgenmode none up")
            self._run(node.netns, "link set lo up")

    def _add_netns(self, name: str) -> None:
        with hold():
            run_checked([self._ip, "netns", "add", name])
            self._made.append(name)

    def _run(self, netns: str, command: str) -> None:
        run_checked([self._ip, "-n", netns, *command.split()])

    def close(self) -> None:
        """Remove the namespaces.

        Raises:
            BenchError: one could not be removed.

        """
        with hold():
            failed = [name for name in self._made if not self._delete(name)]
            self._made = []
        if failed:
            raise BenchError(
                f"cannot remove network namespace '{failed[0]}': ip netns failed",
                f"ip netns delete {failed[0]}",
            )

    def _delete(self, name: str) -> bool:
        return run([self._ip, "netns", "delete", name]).returncode == 0


def sum_port_bytes(link_json: str, ports: Sequence[str] | dict[str, Node]) -> int:
    """Return rx + tx bytes of the named interfaces in `ip -j -s link`'s output."""
    counts = {
        link["ifname"]: link["stats64"]["rx"]["bytes"] + link["stats64"]["tx"]["bytes"]
        for link in json.loads(link_json)
        if link.get("ifname") in ports
    }
    missing = [name for name in ports if name not in counts]
    if missing:
        raise BenchError(f"cannot read the counters of bridge port '{missing[0]}': no such port")
    return sum(counts.values())
