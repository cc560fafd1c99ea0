"""Before and after on this machine: an nginx load balancer in a lab of namespaces or containers.

client --- load balancer (two workers) --- two web servers; every response crosses
two connections. Each run starts a fresh load balancer, so that in both arms all
connections are new; the arms differ in `sockaccel enable` alone.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sockaccel.bench import pairs as paired
from sockaccel.bench.accelerator import COMMAND, Accelerator
from sockaccel.bench.command import run_command, say
from sockaccel.bench.docker_lab import PROGRAMS, DockerLab
from sockaccel.bench.dockerd import Dockerd, missing
from sockaccel.bench.image import build_image
from sockaccel.bench.lab import Lab
from sockaccel.bench.machine import describe_machine, describe_versions
from sockaccel.bench.nginx import Nginx, load_balancer_config, web_config, write_page
from sockaccel.bench.pairs import Arm, Pair, Sample
from sockaccel.bench.process import find_tool
from sockaccel.bench.report import Result, Scenario, as_json, as_text
from sockaccel.bench.stats import MIN_PAIRS
from sockaccel.bench.wrk import WrkLoad, run_wrk
from sockaccel.errors import HostError, NotPermittedError
from sockaccel.render.options import output_option
from sockaccel.signals import entered, hold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sockaccel.bench.lab import Topology


TOOLS = ("ip", "nginx", "wrk")
CONNECTIONS = 100
THREADS = 2
BODY_BYTES = 612
WARM_UP_S = 1
WEB_SERVERS = ("web1", "web2")
NODES = ("client", "balancer", *WEB_SERVERS)
IMAGE = "lab"
# Two hops, and on each of them a port of the bridge in and another out.
PATH = paired.Path(body_bytes=BODY_BYTES, port_crossings=4)
K0 = (
    "Note: this kernel does not count redirected bytes in FIONREAD, which nginx asks for, so that "
    "--policy safe leaves nginx on TCP; measured with --policy all, for the pages of this lab fit "
    "nginx's buffers. Linux 6.12.75, 6.18.14, 6.19 or later lifts this."
)
BLIND = (
    "Note: while sockaccel is on, interface counters, docker stats and tcpdump do not see"
    " redirected bytes."
)


class Bench:
    """The lab with its servers, ready for runs."""

    def __init__(
        self,
        stack: ExitStack,
        seconds: int,
        *,
        docker: bool = False,
        sendfile: bool = False,
        command: Sequence[str] = COMMAND,
    ) -> None:
        tag = os.getpid()
        self.versions: dict[str, str] = {}  # of what takes part in this topology alone
        with hold():
            self.directory = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="sockaccel-"))
            )
        # Only to let nginx's workers, which are not root, through to their pages.
        self.directory.chmod(0o755)
        self.lab = self._containers(stack, tag) if docker else self._namespaces(stack, tag)
        self._load = WrkLoad(
            # With the port: a minimal system has no /etc/services to look "http" up in.
            url=f"http://{self.lab.nodes['balancer'].address}:80/",
            seconds=seconds,
            connections=CONNECTIONS,
            threads=THREADS,
        )
        self._stack = stack
        self._web = [self._start_web(name, sendfile=sendfile) for name in WEB_SERVERS]
        self._balancers = {keepalive: self._balancer(keepalive) for keepalive in (True, False)}
        self._accelerator = Accelerator(
            Path(f"/sys/fs/bpf/sockaccel_quickstart_{tag}"),
            self.lab.scope,
            self.directory / "no-docker.sock",
            command,
        )
        stack.callback(self._accelerator.disable)

    def settle_policy(self) -> str:
        """Return the policy to measure with: the default, unless it leaves nginx on TCP here."""
        if self._accelerator.counts_unread_bytes():
            return "safe"
        say(K0)
        self._accelerator.ask_nobody()
        return "all"

    def run(self, arm: Arm, *, keepalive: bool, seconds: int | None = None) -> Sample:
        """Make one run and return what it measured."""
        load = self._load if seconds is None else _shorter(self._load, seconds)
        balancer = self._balancers[keepalive]
        try:
            balancer.restart()
            if arm is Arm.ACCELERATED:
                self._accelerator.enable()
            before = self.lab.port_bytes()
            report = run_wrk(load, self.directory / "wrk.json", partial(self.lab.command, "client"))
            interface_bytes = self.lab.port_bytes() - before
            counters = self._accelerator.counters()
        finally:
            balancer.stop()
            self._accelerator.disable()
        return Sample(arm, report, counters, interface_bytes)

    def complaints(self) -> list[str]:
        """Return the last line that each nginx wrote to its error log."""
        servers = [*self._balancers.values(), *self._web]
        return [line for server in servers if (line := server.complaint())]

    def _namespaces(self, stack: ExitStack, tag: int) -> Topology:
        return entered(stack, Lab(f"sockaccel-{tag}", NODES))

    def _containers(self, stack: ExitStack, tag: int) -> Topology:
        say("Starting a Docker daemon for this measurement alone.")
        dockerd = entered(stack, Dockerd(self.directory / f"sockaccel-{tag}"))
        self.versions["docker"] = dockerd.docker("version", "--format={{.Server.Version}}")
        say("Making an image of this machine's nginx and wrk, and containers of it.")
        build_image(dockerd, IMAGE, [*PROGRAMS, "nginx", "wrk"])
        lab = DockerLab(dockerd, IMAGE, NODES, self.directory, clients=["client"])
        return entered(stack, lab)

    def _start_web(self, name: str, *, sendfile: bool) -> Nginx:
        root = self.directory / "page"
        write_page(root, BODY_BYTES)
        config = web_config(self.lab.nodes[name].address, root, sendfile=sendfile)
        server = self._nginx(name, name, config)
        server.start()
        return server

    def _balancer(self, keepalive: bool) -> Nginx:
        config = load_balancer_config(
            self.lab.nodes["balancer"].address,
            [f"{self.lab.nodes[name].address}:80" for name in WEB_SERVERS],
            keepalive=keepalive,
        )
        return self._nginx("balancer", f"balancer-{_word(keepalive)}", config)

    def _nginx(self, node: str, directory: str, config: str) -> Nginx:
        server = Nginx(self.directory / directory, config, partial(self.lab.start, node))
        self._stack.callback(server.stop)
        return server


def measure(bench: Bench, scenario: Scenario, order: Sequence[tuple[Arm, Arm]]) -> None:
    """Run the pairs of a scenario, up to the first problem, and summarise them."""
    for arm in Arm:
        sample = bench.run(arm, keepalive=scenario.keepalive, seconds=WARM_UP_S)
        if not _counts(bench, scenario, paired.problems_of_run(sample, PATH)):
            scenario.unpaired = [sample]
            return
    for number, arms in enumerate(order, 1):
        scenario.unpaired = []
        for arm in arms:
            sample = bench.run(arm, keepalive=scenario.keepalive)
            scenario.unpaired.append(sample)
            say(
                f"{scenario.name}, pair {number}/{len(order)}, {arm + ':':12}"
                f" {sample.wrk.requests_per_s:>9,.0f} requests/s"
            )
            if not _counts(bench, scenario, paired.problems_of_run(sample, PATH)):
                return
        pair = Pair((scenario.unpaired[0], scenario.unpaired[1]))
        if not _counts(bench, scenario, paired.problems_of_pair(pair)):
            return
        scenario.pairs.append(pair)
    scenario.unpaired = []
    scenario.summary = paired.summarise(scenario.pairs)


def check_tools(*, docker: bool) -> None:
    """Raise HostError unless everything that the lab is made of is installed."""
    for tool in TOOLS:
        find_tool(tool)
    if docker and (lacking := missing()):
        raise HostError(f"cannot run '{lacking[0]}': it is not installed", "scripts/setup --docker")


def quickstart(
    *,
    pairs: int,
    seconds: int,
    keepalive: Sequence[bool],
    docker: bool = False,
    sendfile: bool = False,
    command: Sequence[str] = COMMAND,
) -> Result:
    """Build the lab, measure every scenario, remove the lab and return the result.

    docker: in containers of a Docker daemon that is started for it, not in namespaces.
    Raises NotPermittedError without root, HostError where something is not installed, and
    BenchError when a part of the lab fails.
    """
    if os.geteuid() != 0:
        raise NotPermittedError(
            "cannot make network namespaces: not root", "sudo scripts/quickstart"
        )
    check_tools(docker=docker)
    seed = int.from_bytes(os.urandom(4), "big")
    rng = random.Random(seed)
    result = Result(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=describe_machine(),
        versions=describe_versions(),
        parameters={
            "topology": "docker" if docker else "netns",
            "pairs": pairs,
            "seconds": seconds,
            "connections": CONNECTIONS,
            "threads": THREADS,
            "body_bytes": BODY_BYTES,
            "web_servers": len(WEB_SERVERS),
            "load_balancer_workers": 2,
            "sendfile": sendfile,
            "seed": seed,
        },
        scenarios=[Scenario(f"upstream keepalive {_word(each)}", each) for each in keepalive],
    )
    # Twice: a signal is raised once, and may be so just before the inner clean-up.
    with ExitStack() as stack:
        try:
            bench = Bench(stack, seconds, docker=docker, sendfile=sendfile, command=command)
            result.versions |= bench.versions
            say(BLIND)
            result.parameters["policy"] = bench.settle_policy()
            for scenario in result.scenarios:
                measure(bench, scenario, paired.balanced_order(pairs, rng))
                if scenario.problems:
                    break
        finally:
            with hold():
                stack.close()
    return result


def _counts(bench: Bench, scenario: Scenario, problems: Sequence[str]) -> bool:
    if problems:
        scenario.problems = [*problems, *(f"nginx: {line}" for line in bench.complaints())]
    return not problems


def _shorter(load: WrkLoad, seconds: int) -> WrkLoad:
    return WrkLoad(load.url, min(seconds, load.seconds), load.connections, load.threads)


def _word(keepalive: bool) -> str:
    return "on" if keepalive else "off"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--pairs",
    type=click.IntRange(min=MIN_PAIRS),
    default=MIN_PAIRS,
    show_default=True,
    help="Pairs of runs per scenario.",
)
@click.option(
    "--seconds",
    type=click.IntRange(1, 3600),
    default=3,
    show_default=True,
    help="Length of a run.",
)
@click.option(
    "--keepalive",
    type=click.Choice(["on", "off", "both"]),
    default="both",
    show_default=True,
    help="Whether the load balancer keeps its connections to the web servers.",
)
@click.option(
    "--docker",
    is_flag=True,
    help="In containers of a Docker daemon that is started for this alone.",
)
@click.option(
    "--sendfile",
    is_flag=True,
    help="Let the web servers send header and page as two writes (sendfile, tcp_nopush).",
)
@output_option
def command_line(
    pairs: int, seconds: int, keepalive: str, docker: bool, sendfile: bool, output: str
) -> int:
    """Measure what sockaccel does for an nginx load balancer on this machine.

    Builds a lab of network namespaces or of Docker containers, runs wrk with
    sockaccel off and on in interleaved pairs, prints the ratios with the proof, and
    removes the lab.
    Exit code 1 if a run failed or did not measure what it was to measure.
    """
    scenarios = {"on": [True], "off": [False], "both": [True, False]}[keepalive]
    result = quickstart(
        pairs=pairs, seconds=seconds, keepalive=scenarios, docker=docker, sendfile=sendfile
    )
    click.echo(json.dumps(as_json(result), indent=2) if output == "json" else as_text(result))
    return 0 if result.valid else 1


def main() -> int:
    """Run the command line; errors become one line and a hint."""
    return run_command(command_line, "scripts/quickstart")


if __name__ == "__main__":
    sys.exit(main())
