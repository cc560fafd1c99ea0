"""`scripts/docker-latency`: how soon the agent follows, and what it costs.

Measured from outside: Docker's own time of the start event, the pinned map `scope`,
the agent's entry in /proc. All containers run to the end, so that the last one is
started among as many as the options say.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Self

import click
import psutil
from kernel import harness
from kernel.harness import removed, wait_until

from sockaccel.bench.command import run_command, say
from sockaccel.bench.dockerd import missing
from sockaccel.bench.machine import describe_machine
from sockaccel.datapath import libbpf
from sockaccel.datapath.state import Datapath
from sockaccel.errors import BenchError, HostError
from sockaccel.render.table import render_table

from .harness import Agent, Container, DockerLab, daemon

if TYPE_CHECKING:
    from types import TracebackType

SCHEMA = "sockaccel.docker-latency/1"
POLL_S = 0.0005
NETWORK = "net"
TOOK_OVER = "took over"
SETTLE_S = 3


@dataclass(frozen=True)
class Promise:
    """What was promised, and what it came to."""

    what: str
    measured: float
    limit: float
    unit: str

    @property
    def kept(self) -> bool:
        return self.measured <= self.limit


@dataclass(frozen=True)
class Result:
    """What was measured."""

    latencies_ms: list[float]
    """From Docker's start event to the namespace's entry in the map, each container."""
    resync_s: float
    """From the agent's taking over to the last entry of a scope that had none."""
    resync_containers: int
    idle_percent: float
    """Of one core."""
    idle_s: float
    rss_mb: float
    compilers: list[str]
    """Libraries of a compiler that the agent has mapped: there should be none."""

    def promises(self) -> list[Promise]:
        """Return what was promised."""
        centiles = quantiles(self.latencies_ms, n=100, method="inclusive")
        many = f"{len(self.latencies_ms)} containers"
        return [
            Promise(f"start to scope, median, {many}", centiles[49], 20, "ms"),
            Promise(f"start to scope, p99, {many}", centiles[98], 50, "ms"),
            Promise(f"resync, {self.resync_containers} containers", self.resync_s, 1, "s"),
            Promise(f"idle for {self.idle_s:.0f} s", self.idle_percent, 0.5, "% of a core"),
            Promise("memory (RSS)", self.rss_mb, 45, "MB"),
            Promise("compilers loaded", len(self.compilers), 0, "libraries"),
        ]


class Watch:
    """Notes when each namespace came into the map `scope`; a thread that polls it."""

    def __init__(self, lab: DockerLab) -> None:
        self.seen: dict[int, int] = {}
        """Nanoseconds since the epoch, by cookie."""
        self._datapath = Datapath(lab.pin_dir)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._datapath.__exit__()

    def _watch(self) -> None:
        epoch = -1
        while not self._done.is_set():
            # The epoch is raised with every change of the members, after it: one look-up is
            # cheaper than reading the map, and late by what the agent takes between the two.
            if (now := self._datapath.config.scope_epoch) != epoch:
                epoch, when = now, time.time_ns()
                for cookie in self._datapath.namespaces():
                    self.seen.setdefault(cookie, when)
            time.sleep(POLL_S)


class StartEvents:
    """Docker's own times of the containers' starts."""

    FORMAT = "{{.ID}} {{.TimeNano}}"

    def __init__(self, lab: DockerLab) -> None:
        argv = lab.dockerd.client("events", "--filter", "event=start", "--format", self.FORMAT)
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self._lines: list[str] = []
        assert self._process.stdout
        self._reader = threading.Thread(target=self._lines.extend, args=(self._process.stdout,))
        self._reader.start()

    def times(self) -> dict[str, int]:
        """Return nanoseconds since the epoch, by container id."""
        return {name: int(when) for name, when in (line.split() for line in self._lines)}

    def close(self) -> None:
        self._process.kill()
        self._reader.join()
        self._process.communicate()


def measure(count: int, total: int, idle_s: float) -> Result:
    """Start count containers one after the other, more up to total; then resync and rest."""
    with daemon() as dockerd, removed(DockerLab(dockerd)) as lab:
        agent = lab.agent()
        lab.network(NETWORK, "--subnet", "172.30.0.0/16")
        say(f"{time.strftime('%H:%M:%S')} starting {count} containers")
        latencies = measure_starts(lab, count)
        say(f"{time.strftime('%H:%M:%S')} {total} containers, a killed agent, an empty scope")
        cookies = {Container(dockerd, f"c{number}").cookie for number in range(count)}
        for number in range(count, total):
            cookies.add(lab.container(f"c{number}", "--network", NETWORK).cookie)
        wait_until(lambda: lab.scope() == cookies, 10, "all in scope")
        resync_s = measure_resync(lab, agent, cookies)
        say(f"{time.strftime('%H:%M:%S')} {idle_s:g} s of rest")
        time.sleep(SETTLE_S)
        process = psutil.Process(lab.agents[-1].pid)
        before, start = process.cpu_times(), time.monotonic()
        time.sleep(idle_s)
        after, end = process.cpu_times(), time.monotonic()
        used = after.user + after.system - before.user - before.system
        maps = Path(f"/proc/{process.pid}/maps").read_text().split()
        compilers = {word for word in maps if "LLVM" in word or "libbcc" in word}
        return Result(
            latencies_ms=latencies,
            resync_s=resync_s,
            resync_containers=total,
            idle_percent=100 * used / (end - start),
            idle_s=idle_s,
            rss_mb=process.memory_info().rss / 1e6,
            compilers=sorted(compilers),
        )


def measure_starts(lab: DockerLab, count: int) -> list[float]:
    """Start containers one after the other; return the milliseconds from event to scope."""
    events = StartEvents(lab)
    try:
        with Watch(lab) as watch:
            started = {}
            for number in range(count):
                container = lab.container(f"c{number}", "--network", NETWORK)
                started[container.inspect()["Id"]] = container.cookie
            wait_until(lambda: len(watch.seen) >= count, 10, "all in scope")
        wait_until(lambda: events.times().keys() >= started.keys(), 10, "all events")
        times = events.times()
    finally:
        events.close()
    return [(watch.seen[cookie] - times[name]) / 1e6 for name, cookie in started.items()]


def measure_resync(lab: DockerLab, agent: Agent, cookies: set[int]) -> float:
    """Return how many seconds a new agent takes to fill a scope that was emptied."""
    agent.kill()
    with Datapath(lab.pin_dir) as datapath:
        for cookie in cookies:
            libbpf.delete(datapath.fd("scope"), cookie.to_bytes(8, sys.byteorder))
        with Watch(lab) as watch:
            agent = lab.agent()
            wait_until(lambda: watch.seen.keys() >= cookies, 30, "all in scope again")
    stamp = " ".join(agent.await_word(TOOK_OVER).split()[:2])
    began = datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").timestamp()
    return max(watch.seen.values()) / 1e9 - began


@click.command()
@click.option("--count", type=click.IntRange(2), default=100, show_default=True)
@click.option("--running", type=click.IntRange(2), default=200, help="Containers of the resync.")
@click.option("--idle", type=click.FloatRange(1), default=60.0, help="Seconds of rest.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
def command(count: int, running: int, idle: float, output: str) -> int:
    """Measure how soon the agent follows containers, and what it costs."""
    if lacking := [*harness.missing(), *missing()]:
        raise HostError(
            f"cannot run containers: missing {', '.join(lacking)}", "scripts/setup --test"
        )
    harness.clear_what_killed_runs_left()
    try:
        result = measure(count, max(count, running), idle)
    except AssertionError as error:
        raise BenchError(f"cannot measure the agent: {error}") from error
    show(result, output)
    return 0 if all(promise.kept for promise in result.promises()) else 1


def show(result: Result, output: str) -> None:
    """Print the result."""
    promises = result.promises()
    if output == "json":
        text = {"schema": SCHEMA, "machine": describe_machine(), **asdict(result)}
        text["promises"] = [{**asdict(each), "kept": each.kept} for each in promises]
        click.echo(json.dumps(text, indent=2))
        return
    rows = [
        (
            each.what,
            f"{each.measured:.2f} {each.unit}",
            f"{each.limit:g} {each.unit}",
            "yes" if each.kept else "NO",
        )
        for each in promises
    ]
    click.echo(render_table(("WHAT", "MEASURED", "AT MOST", "KEPT"), rows, {1, 2}))


if __name__ == "__main__":
    sys.exit(run_command(command, "scripts/docker-latency"))
