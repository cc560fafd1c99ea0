"""`scripts/docker-churn`: containers come and go, dockerd and the agent too, under checked traffic.

At the end the scope must be what Docker runs, no byte may be lost, and no map may hold
anything of what has gone.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import click
from faults.build import TOOLS
from faults.scene import Outcome
from faults.traffic import Report, Traffic
from kernel import harness
from kernel.harness import removed, wait_until

from sockaccel.bench.command import run_command, say
from sockaccel.bench.dockerd import missing
from sockaccel.datapath import libbpf
from sockaccel.datapath.layout import Counter, NetnsPort, PairKey
from sockaccel.datapath.scope_map import ScopeMap
from sockaccel.datapath.state import Datapath
from sockaccel.errors import BenchError, HostError
from sockaccel.render.units import bytes_text

from . import echo
from .harness import Container, DockerLab, daemon

if TYPE_CHECKING:
    from collections.abc import Callable


RUNNING = 20
"""Churned containers that run at once."""
PARALLEL = 3
SETTLE_S = 15
# Of its own: what other runs have there is local to this host as well.
OCTET = 100 + os.getpid() % 100
NETWORKS = {"front": f"10.{OCTET}.0.0/17", "back": f"10.{OCTET}.128.0/17"}
PIECES = 30

# Options of the churned containers, and whether they are in scope with these.
KINDS: tuple[tuple[tuple[str, ...], bool], ...] = (
    ((), True),
    ((), True),
    (("--label", "sockaccel.ports=80,7000-7099"), True),
    (("--label", "sockaccel.enable=false"), False),
    (("--label", "sockaccel.enable=perhaps"), False),
    (("--label", "sockaccel.ports=http"), False),
)


class Churn:
    """One run, in a laboratory of its own. Operations on different containers run side by side."""

    def __init__(self, lab: DockerLab, count: int) -> None:
        self.lab = lab
        self.count = count
        self.started = 0
        self.failures: list[str] = []
        self._random = Random(1)
        self._running: dict[str, bool] = {}
        """Churned containers by name: whether they belong in scope. Only what has started."""
        self._pool = ThreadPoolExecutor(PARALLEL)
        self._busy: set[Future[None]] = set()

    def prepare(self) -> None:
        """Start what lasts: the networks, the echo server, and containers for the traffic."""
        for name, subnet in NETWORKS.items():
            self.lab.network(name, "--subnet", subnet)
        # Both networks: whoever churns reaches it.
        self.server = self._lasting("server", "serve")
        self.lab.docker("network", "connect", "back", "server")
        self.lasting = [self.server, *(self._lasting(name) for name in ("near", "far"))]

    def _lasting(self, name: str, *words: str) -> Container:
        return self.lab.container(name, "--network", "front", *MOUNT, command=program(*words))

    def run(self, disturbances: list[tuple[int, str, Callable[[], None]]]) -> None:
        """Start and remove so many containers; do each disturbance when its number has started.

        While dockerd is away nothing can be started: what is under way ends first.
        """
        while self.started < self.count:
            if disturbances and self.started >= disturbances[0][0]:
                _, what, do = disturbances.pop(0)
                say(f"{time.strftime('%H:%M:%S')} {self.started} containers, {what}")
                if "dockerd" in what:
                    self._await(0)
                do()
            full = len(self._running) + len(self._busy) >= RUNNING
            if self._running and (full or self._random.random() < 0.4):
                name = self._random.choice(sorted(self._running))
                del self._running[name]
                self._submit(self._remove, name)
            else:
                self._start(f"c{self.started}")
                self.started += 1
            self._await(PARALLEL - 1)
        self._await(0)

    def remove_all(self) -> None:
        """Remove every container that was churned."""
        for name in list(self._running):
            del self._running[name]
            self._submit(self._remove, name)
        self._await(0)

    def close(self) -> None:
        self._pool.shutdown()

    def _start(self, name: str) -> None:
        options, in_scope = self._random.choice(KINDS)
        network = self._random.choice(sorted(NETWORKS))
        if self._random.random() < 0.25:
            self._submit(self._converse, name, network, options)
            return
        self._submit(self._run, name, (*options, "--network", network), in_scope)

    def _run(self, name: str, options: tuple[str, ...], in_scope: bool) -> None:
        self.lab.container(name, *options)
        self._running[name] = in_scope

    def _converse(self, name: str, network: str, options: tuple[str, ...]) -> None:
        """Start a container that talks with the server and checks what it hears, to its end."""
        command = program("check", self.server.address(network), str(PIECES))
        self.lab.container(name, "--network", network, *options, *MOUNT, command=command)
        code = self.lab.docker("wait", name)
        if code != "0":
            self.failures.append(f"{name}: {self.lab.docker('logs', name)} (exit code {code})")
        self._remove(name)

    def _remove(self, name: str) -> None:
        self.lab.docker("rm", "--force", name)

    def _submit(self, do: Callable[..., None], *arguments: object) -> None:
        self._busy.add(self._pool.submit(do, *arguments))

    def _await(self, most: int) -> None:
        """Wait until no more than so many operations are under way."""
        while len(self._busy) > most:
            done, self._busy = wait(self._busy, return_when=FIRST_COMPLETED)
            for each in done:
                each.result()

    def expected(self) -> set[int]:
        """Return the namespaces that belong in scope by what Docker itself says is running."""
        names = self.lab.docker("ps", "--format", "{{.Names}}").split()
        churned = [name for name in names if name.startswith("c")]
        if set(churned) != set(self._running):
            self.failures.append(f"Docker runs {churned}, not {sorted(self._running)}")
        chosen = [name for name in names if self._running.get(name, True)]
        return {Container(self.lab.dockerd, name).cookie for name in chosen}


MOUNT = ("--volume", f"{Path(echo.__file__)}:/echo.py:ro")


def program(*words: str) -> tuple[str, ...]:
    return ("/usr/bin/python3", "/echo.py", *words) if words else ()


def run_churn(count: int) -> Outcome:
    """Start and remove so many containers; two restarts of dockerd and two kills of the agent."""
    outcome = Outcome("churn", "containers started and removed")
    begin = time.monotonic()
    with daemon("--live-restore") as dockerd, removed(DockerLab(dockerd)) as lab:
        lab.agent()
        churn = Churn(lab, count)
        try:
            churn.prepare()
            near, far = (lab.inside(container) for container in churn.lasting[1:])
            address = churn.lasting[2].address("front")
            traffic = [Traffic(near, far, options, address=address) for options in TRAFFIC]
            try:
                wait_until(lambda: redirected(lab) > 0, 10, "redirected bytes")
                churn.run(disturbances(lab, count))
                wait_for_scope(churn, outcome)
                outcome.redirected = redirected(lab)
            finally:
                outcome.report = settle(traffic)
            lab.close_sockets()
            churn.remove_all()
            wait_for_scope(churn, outcome)
            lab.docker("rm", "--force", *(each.name for each in churn.lasting))
            outcome.left = left_in_maps(lab)
        except (AssertionError, BenchError) as error:
            outcome.failures.append(f"after {churn.started}: {error}")
        finally:
            churn.close()
        outcome.count = churn.started
        outcome.failures += churn.failures
    outcome.seconds = time.monotonic() - begin
    if not outcome.redirected:
        outcome.failures.append("nothing was redirected")
    return outcome


# Connections that last, and ones that come and go.
TRAFFIC: tuple[dict[str, int], ...] = (
    {"connections": 4, "think": 30_000, "blocking": 30},
    {"connections": 6, "think": 20_000, "total": 1 << 20, "bytes": 1 << 18, "blocking": 30},
)


def disturbances(lab: DockerLab, count: int) -> list[tuple[int, str, Callable[[], None]]]:
    """Return what is done to dockerd and to the agent, and after how many containers."""

    def kill_agent() -> None:
        lab.agents[-1].kill()

    def start_agent() -> None:
        lab.agent()

    def crash() -> None:
        lab.dockerd.kill()
        lab.dockerd.start()

    later = max(1, count // 20)
    return [
        (count // 5, "the agent is killed", kill_agent),
        # Containers have come and gone meanwhile.
        (count // 5 + later, "the agent is started again", start_agent),
        (2 * count // 5, "dockerd is restarted", lab.dockerd.restart),
        (3 * count // 5, "dockerd is killed and started again", crash),
        (4 * count // 5, "the agent is killed", kill_agent),
        (4 * count // 5 + later, "the agent is started again", start_agent),
    ]


def settle(traffic: list[Traffic]) -> Report:
    """End all traffic and return what it saw."""
    report = Report()
    for each in traffic:
        report.add(each.finish())
    return report


def redirected(lab: DockerLab) -> int:
    """Return the bytes redirected since the agent enabled."""
    with Datapath(lab.pin_dir) as datapath:
        live = sum(record.conn.redirected_bytes for record in datapath.records())
        return live + int(datapath.counters()[Counter.REDIRECTED_BYTES])


def wait_for_scope(churn: Churn, outcome: Outcome) -> None:
    """Note a failure unless the scope becomes what Docker runs."""
    expected = churn.expected()
    try:
        wait_until(lambda: churn.lab.scope() == expected, SETTLE_S)
    except AssertionError:
        actual = churn.lab.scope()
        outcome.failures.append(
            f"the scope lacks {len(expected - actual)} of {len(expected)} namespaces that run, "
            f"and holds {len(actual - expected)} that do not"
        )


def left_in_maps(lab: DockerLab) -> list[str]:
    """Return what the maps still hold when no container is left, after some seconds.

    `handshakes` forgets by itself (LRU). Local networks of others are not looked at; of its own two
    the subnet and the bridge's own address are local while the networks are there.
    """
    subnets = [ip_network(subnet) for subnet in NETWORKS.values()]
    staying = {str(net) for net in subnets} | {f"{net[1]}/32" for net in subnets}

    def look() -> list[str]:
        with Datapath(lab.pin_dir) as datapath:
            sizes = {"scope": 8, "netns_ports": ctypes.sizeof(NetnsPort)}
            sizes |= dict.fromkeys(("sock_ops_map", "peers"), ctypes.sizeof(PairKey))
            found = [
                f"{len(set(libbpf.keys(datapath.fd(name), size)))} in {name}"
                for name, size in sizes.items()
                if set(libbpf.keys(datapath.fd(name), size))
            ]
            local = {
                str(network)
                for network in ScopeMap(datapath).networks()
                if isinstance(network, IPv4Network)
                and any(network.subnet_of(subnet) for subnet in subnets)
            }
        return found + [f"{each} in local_networks" for each in sorted(local - staying)]

    deadline = time.monotonic() + SETTLE_S
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


@click.command()
@click.option("--count", type=click.IntRange(10), default=500, show_default=True)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
def command(count: int, output: str) -> int:
    """Start and remove containers in random order while traffic runs; nothing may be lost."""
    lacking = [*harness.missing(), *missing(), *(name for name in TOOLS if not shutil.which(name))]
    if lacking:
        raise HostError(
            f"cannot run containers: missing {', '.join(lacking)}", "scripts/setup --test"
        )
    harness.raise_descriptor_limit()
    harness.clear_what_killed_runs_left()
    outcome = run_churn(count)
    if output == "json":
        click.echo(json.dumps({**asdict(outcome), "faults": outcome.faults()}))
    else:
        report = outcome.report
        click.echo(
            f"{outcome.count} {outcome.tried} in {outcome.seconds:.0f} s; "
            f"{report.connections} connections, {bytes_text(report.bytes)} checked, "
            f"{bytes_text(outcome.redirected)} redirected; lost {report.lost}, "
            f"duplicated {report.duplicated}, reordered {report.reordered}, "
            f"corrupt {report.corrupt}; longest stall {report.stall_ms} ms; "
            f"left in maps {len(outcome.left)}"
        )
        for fault in outcome.faults():
            click.echo(f"    {fault}")
    return 1 if outcome.faults() else 0


if __name__ == "__main__":
    sys.exit(run_command(command, "scripts/docker-churn"))
