"""Where a scenario is played: its topology, the switches of its arms, one run at a time."""

from __future__ import annotations

import os
import tempfile
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sockaccel.bench.accelerator import COMMAND, Accelerator, Counters
from sockaccel.bench.arms import Arm
from sockaccel.bench.built import Built
from sockaccel.bench.cgroup import Cgroup, cgroup_of
from sockaccel.bench.cost import Cost
from sockaccel.bench.docker_lab import PROGRAMS, DockerLab
from sockaccel.bench.dockerd import Dockerd
from sockaccel.bench.image import build_image
from sockaccel.bench.lab import Lab
from sockaccel.bench.packets import data_packets
from sockaccel.bench.passage import open_directory
from sockaccel.bench.process import Child, run_load
from sockaccel.bench.proof import Evidence
from sockaccel.bench.result import Proof
from sockaccel.bench.textbook import Textbook
from sockaccel.bench.usage import Watch
from sockaccel.datapath import state
from sockaccel.errors import InputError, NotPermittedError
from sockaccel.scope.netns import in_netns, netns_cookie
from sockaccel.signals import entered, hold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sockaccel.bench.lab import Topology
    from sockaccel.bench.result import ContextSwitches, Cpu, Memory
    from sockaccel.bench.scenario import Case, Scenario, ServerAt
    from sockaccel.bench.workloads.base import Client, Server

T = TypeVar("T")

IMAGE = "bench"


@dataclass(frozen=True)
class Setting:
    """What holds for all scenarios of a session.

    policy: "safe" or "all", as of `enable`; cgroup: where `enable` attaches, above what is
    measured, None for the root; command: how sockaccel is called.
    """

    topology: str = "netns"
    policy: str = "safe"
    cgroup: Path | None = None
    command: Sequence[str] = COMMAND


@dataclass(frozen=True)
class Played:
    """One run: what the client found, the proof, and what it cost."""

    evidence: Evidence
    commands: dict[str, list[str]]
    memory: Memory
    cpu: Cpu
    context_switches: ContextSwitches | None  # None in containers


class Stage(Built):
    """The topology of a scenario and the switches of its arms."""

    def __init__(self, scenario: Scenario, setting: Setting) -> None:
        self._scenario = scenario
        self._setting = setting
        self._stack = ExitStack()
        self._children: list[Child] = []
        self._docker_lab: DockerLab | None = None

    def close(self) -> None:
        """Remove everything; again, where a signal kept it from being done."""
        with hold():
            self._stack.close()

    def _build(self) -> None:
        tag = os.getpid()
        with hold():
            self.directory = Path(
                self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sockaccel-"))
            )
        # Only to let servers that are not root through to what is theirs.
        self.directory.chmod(0o755)
        self.lab: Topology = (
            self._containers(tag) if self._setting.topology == "docker" else self._namespaces(tag)
        )
        measured = Cgroup(f"sockaccel_bench_{tag}", self._setting.cgroup)
        self._cgroup = entered(self._stack, measured)
        self.accelerator = Accelerator(
            Path(f"/sys/fs/bpf/sockaccel_bench_{tag}"),
            [*self.lab.scope, *self._options()],
            self.directory / "no-docker.sock",
            self._setting.command,
        )
        self._textbook = Textbook(self._cgroup.path)
        self._stack.callback(self._off)

    def _options(self) -> list[str]:
        options = ["--policy", self._setting.policy]
        if self._setting.policy == "safe":
            unknown = self._scenario.unknown_programs
            options += [word for name in unknown for word in ("--accelerate", name)]
        if self._setting.cgroup:
            options += ["--cgroup", str(self._setting.cgroup)]
        return options

    def _namespaces(self, tag: int) -> Topology:
        return entered(self._stack, Lab(f"sockaccel-{tag}", self._scenario.nodes))

    def _containers(self, tag: int) -> Topology:
        dockerd = entered(self._stack, Dockerd(self.directory / f"sockaccel-{tag}"))
        tools = dict.fromkeys(tool.name for tool in self._scenario.tools)
        build_image(dockerd, IMAGE, [*PROGRAMS, *tools])
        clients = [self._scenario.client.node]
        lab = DockerLab(dockerd, IMAGE, self._scenario.nodes, self.directory, clients=clients)
        self._docker_lab = entered(self._stack, lab)
        return self._docker_lab

    def _container_cgroups(self) -> list[Path]:
        """Return the cgroups of all containers that run; none in namespaces."""
        nodes = self._docker_lab.nodes.values() if self._docker_lab else ()
        return [cgroup_of(node.pid) for node in nodes]

    def play(self, cast: Cast, arm: Arm, seconds: float) -> Played:
        """Make one run: every server anew, then the arm's switch, then the client.

        Raises:
            SockaccelError: it could not be made; nothing of it is left.

        """
        places = {node: Place(self, cast.case, node, arm) for node in self._scenario.nodes}
        at = self._scenario.client
        client, target = places[at.node], places[at.server]
        try:
            for server_at, server in cast.servers:
                server.start(places[server_at.node], [places[each] for each in server_at.behind])
            # After the servers: a container has its network namespace from when it starts.
            self._switch_on(arm)
            # With the switch on: a load balancer keeps the connection that this makes it open.
            # What goes over it is counted, too, but next to nothing beside the load.
            cast.client.prepare(client, target)
            others_on = arm is not Arm.ACCELERATED and self._is_on()
            cost = Cost([child.pid for child in self._children], self._container_cgroups())
            ports, packets = self.lab.port_bytes(), self._data_packets()
            cost.begin()
            outcome = cast.client.load(client, target, seconds)
            cost.client_ended(client.watch)
            ports = self.lab.port_bytes() - ports
            packets = self._data_packets() - packets
            counters = self._counters()
            others_on = others_on or (arm is not Arm.ACCELERATED and self._is_on())
            cost.end_of(self._end_children)
            outcome = replace(outcome, problems=[*outcome.problems, *self._killed(places.values())])
        finally:
            self._off()
        proof = Proof(counters.active, counters.redirected_bytes, counters.tcp_bytes, ports)
        least = cast.case.conditions().least_redirected
        evidence = Evidence(arm, outcome, proof, self._scenario.hops, least, others_on, packets)
        servers = {place.node: place.argv for place in places.values() if place.argv}
        commands = {**servers, at.node: outcome.argv}
        cpu = cost.cpu(outcome, streams=cast.client.streams)
        return Played(evidence, commands, cost.memory, cpu, cost.context_switches)

    def born_there(self, case: Case, node: str) -> AbstractContextManager[None]:
        """Have the processes that are started in the block measured, and on their cores."""
        client = node == self._scenario.client.node
        return _born(self._cgroup, cores(case.conditions().cpus, client=client))

    def add(self, child: Child) -> None:
        """Have a server ended after the run."""
        self._children.append(child)

    def _switch_on(self, arm: Arm) -> None:
        if arm is Arm.ACCELERATED:
            self.accelerator.enable()
        elif arm is Arm.TEXTBOOK:
            self._textbook.start()

    def _counters(self) -> Counters:
        # Without pins there is nothing to ask `status` about, which takes a while.
        pinned = self.accelerator.pin_dir.exists()
        return self.accelerator.counters() if pinned else Counters(False, 0, 0)

    def _data_packets(self) -> int:
        return data_packets(node.path for node in self.lab.nodes.values())

    def _is_on(self) -> bool:
        """Return whether any datapath, whoever's, is on for what is measured."""
        cgroups = self._container_cgroups() or [self._cgroup.path]
        cookies = {netns_cookie(str(node.path)) for node in self.lab.nodes.values()}
        return any(state.is_on_for(cgroup, cookies) for cgroup in cgroups)

    def _end_children(self) -> None:
        with hold():
            while self._children:
                self._children.pop().end()

    def _killed(self, places: Iterable[Place]) -> list[str]:
        """Return which servers had to be killed where that makes their cost wrong."""
        if self._docker_lab:
            return []  # their cgroups were asked before
        return [
            f"the server on '{place.node}' had to be killed: what it has used is not known"
            for place in places
            if place.child and place.child.killed
        ]

    def _off(self) -> None:
        with hold():
            # The sockets first: one that is open keeps the program it is enrolled in.
            self._end_children()
            self._textbook.stop()
            self.accelerator.disable()


class Cast:
    """The programs of one case."""

    def __init__(self, scenario: Scenario, case: Case) -> None:
        self.case = case
        self.servers: list[tuple[ServerAt, Server]] = [
            (at, case.server(at)) for at in scenario.servers
        ]
        self.client: Client = case.client(scenario.client)


class Place:
    """A node during one run; see workloads.base.Place."""

    def __init__(self, stage: Stage, case: Case, node: str, arm: Arm) -> None:
        self.node = node
        self.directory = open_directory(stage.directory, case.name, node)
        self.address = stage.lab.nodes[node].address
        # Short, as the path of a socket has to be.
        self.socket = self.directory / "socket" if arm is Arm.UNIX else None
        self.watch = Watch()
        self.argv: list[str] = []
        self.child: Child | None = None  # the server, once it is started
        self._stage = stage
        self._case = case

    def start(self, argv: Sequence[str]) -> Child:
        """Start a server there, which is ended after the run."""
        self.argv = list(argv)
        with hold(), self._stage.born_there(self._case, self.node):
            child = self._stage.lab.start(self.node, argv)
            self._stage.add(child)
            self.child = child
        return child

    def load(self, argv: Sequence[str], what: str, seconds: float) -> str:
        """Run a load generator there to its end, watched, and return its stdout."""
        command = self._stage.lab.command(self.node, argv)

        def start() -> Child:
            with self._stage.born_there(self._case, self.node):
                return Child(command)

        return run_load(start, what, seconds, self.watch)

    def call(self, function: Callable[[], T]) -> T:
        """Return what a function returns when it is called in the node's network namespace."""
        return in_netns(self._stage.lab.nodes[self.node].path, function)


def cores(cpus: str, *, client: bool) -> set[int]:
    """Return the cores for the client or for the servers, as Conditions.cpus has it."""
    allowed = sorted(os.sched_getaffinity(0))
    if cpus == "all":
        return set(allowed)
    # From the top: the lowest gets most of a machine's interrupts.
    return {allowed[-1] if client or cpus == "one" else allowed[-2:][0]}


@contextmanager
def _born(cgroup: Cgroup, on: set[int]) -> Iterator[None]:
    own = os.sched_getaffinity(0)
    with hold(), cgroup.entered():
        os.sched_setaffinity(0, on)
        try:
            yield
        finally:
            os.sched_setaffinity(0, own)


def check_setting(setting: Setting, scenarios: Iterable[Scenario]) -> None:
    """Refuse what containers cannot be measured with: their processes are their daemon's.

    Raises:
        InputError: it is in the setting, or a case of a scenario asks for it.

    """
    if setting.topology != "docker":
        return
    if setting.cgroup:
        raise InputError(
            f"cannot measure in cgroup '{setting.cgroup}': containers are in their daemon's own",
            "--topology netns",
        )
    for scenario in scenarios:
        for case in scenario.cases:
            if (cpus := case.conditions().cpus) != "all":
                raise InputError(
                    f"cannot set cpus of '{scenario.name}' to '{cpus}': containers have all cores",
                    "--topology netns",
                )


def check_permitted() -> None:
    """Raise NotPermittedError unless this is root."""
    if os.geteuid() != 0:
        raise NotPermittedError(
            "cannot make network namespaces: not root", "sudo sockaccel bench run"
        )


def default_policy() -> str:
    """Return the policy to measure with: the default, unless it leaves nginx on TCP here.

    Raises:
        NotPermittedError: not root.
        HostError: sockaccel cannot be enabled on this host.

    """
    check_permitted()
    tag = os.getpid()
    with ExitStack() as stack:
        lab = entered(stack, Lab(f"sockaccel-{tag}", ["probe"]))
        pin_dir = Path(f"/sys/fs/bpf/sockaccel_bench_{tag}")
        accelerator = Accelerator(pin_dir, lab.scope, Path(f"/run/sockaccel-none-{tag}.sock"))
        stack.callback(accelerator.disable)
        return "safe" if accelerator.counts_unread_bytes() else "all"
