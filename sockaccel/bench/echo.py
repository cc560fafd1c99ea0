"""The round trip of a small message on one core, by four ways, in one run.

client --- bridge --- server, each in a namespace of its own, both on the same
core and in the same cgroup. The arms differ in what carries the bytes alone:
plain TCP; sockaccel; the textbook program, which shows what safety costs; and a
Unix socket, which shows what is to be had without TCP.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sockaccel import __version__
from sockaccel.bench import rounds as paired
from sockaccel.bench.accelerator import COMMAND, Accelerator
from sockaccel.bench.cgroup import Cgroup
from sockaccel.bench.command import run_command, say
from sockaccel.bench.lab import Lab
from sockaccel.bench.machine import describe_machine
from sockaccel.bench.process import SYSTEM_PATH, Child, find_tool, last_line, run
from sockaccel.bench.rounds import Arm, Result, Sample
from sockaccel.bench.signals import hold
from sockaccel.bench.textbook import Textbook
from sockaccel.errors import BenchError, HostError, NotPermittedError
from sockaccel.render.options import output_option

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCE = Path(__file__).resolve().parents[2] / "benchmarks" / "echo.c"
PORT = "7007"
UNIX_PATH = "echo.sock"  # in the working directory: a socket's path must be short
ROUNDS = 8
SIZE = 64
MAX_SIZE = 65536  # what both directions hold without a reader
SECONDS = 0.5
WARM_UP_S = 0.2
READY_TIMEOUT_S = 5.0
GRACE_S = 10.0
BLIND = (
    "Note: while sockaccel is on, interface counters, docker stats and tcpdump do not see"
    " redirected bytes."
)


class Bench:
    """The lab, the cgroup and the compiled program, ready for runs."""

    def __init__(
        self, stack: ExitStack, size: int, core: int, *, command: Sequence[str] = COMMAND
    ) -> None:
        tag = os.getpid()
        self._size = size
        self._core = core
        with hold():
            self._directory = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="sockaccel-"))
            )
            self._program = compile_echo(self._directory)
            self._lab = stack.enter_context(Lab(f"sockaccel-{tag}", ["client", "server"]))
            self._cgroup = stack.enter_context(Cgroup(f"sockaccel_echo_{tag}"))
        self._accelerator = Accelerator(
            Path(f"/sys/fs/bpf/sockaccel_echo_{tag}"),
            self._lab.scope,
            self._directory / "no-docker.sock",
            command,
        )
        self._accelerator.ask_nobody()  # its ends wait in recv()
        self._textbook = Textbook(self._cgroup.path)
        self._children: list[Child] = []
        stack.callback(self._accelerator.disable)
        stack.callback(self._textbook.stop)
        stack.callback(self._end_children)

    def run(self, arm: Arm, seconds: float) -> Sample:
        """Make one run and return what it measured."""
        where = ["unix", UNIX_PATH]
        if arm is not Arm.UNIX:
            where = ["tcp", self._lab.nodes["server"].address, PORT]
        try:
            if arm is Arm.ACCELERATED:
                self._accelerator.enable()
            elif arm is Arm.TEXTBOOK:
                self._textbook.start()
            self._start("server", ["server", *where]).await_ready(
                "the echo server", READY_TIMEOUT_S
            )
            before = self._lab.port_bytes()
            trips, duration = self._client(where, seconds)
            interface_bytes = self._lab.port_bytes() - before
            counters = self._accelerator.counters()
        finally:
            # The sockets first: one that is open keeps the program it is enrolled in.
            self._end_children()
            self._textbook.stop()
            self._accelerator.disable()
        return Sample(arm, self._size, trips, duration, counters, interface_bytes)

    def _client(self, where: Sequence[str], seconds: float) -> tuple[int, float]:
        last = [] if len(where) == 3 else ["-"]
        child = self._start("client", ["client", *where, *last, str(self._size), f"{seconds:g}"])
        try:
            done = child.wait(seconds + GRACE_S)
        except subprocess.TimeoutExpired:
            raise BenchError(
                f"cannot measure the echo: the client did not end {GRACE_S:g} s after its time"
            ) from None
        if done.returncode != 0:
            raise BenchError(f"cannot measure the echo: {last_line(done.stderr, done.returncode)}")
        return paired.parse_client(done.stdout)

    def _start(self, node: str, arguments: Sequence[str]) -> Child:
        with hold():
            child = Child(
                self._lab.command(node, [str(self._program), *arguments]),
                cwd=str(self._directory),
                prepare=self._prepare,
            )
            self._children.append(child)
        return child

    def _prepare(self) -> None:
        """Put this process where the measured ones are; it is about to become one."""
        os.sched_setaffinity(0, {self._core})
        self._cgroup.join()

    def _end_children(self) -> None:
        with hold():
            while self._children:
                self._children.pop().end()
            (self._directory / UNIX_PATH).unlink(missing_ok=True)


def compile_echo(directory: Path) -> Path:
    """Compile benchmarks/echo.c into a directory and return the program."""
    if not SOURCE.is_file():
        raise HostError(
            f"cannot compile '{SOURCE.name}': it is missing", "run it from a source tree"
        )
    compiler = find_compiler()
    program = directory / "echo"
    done = run([compiler, "-O2", "-o", str(program), str(SOURCE)], timeout_s=60.0)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        cause = errors[0].strip() if errors else last_line(done.stderr, done.returncode)
        raise HostError(f"cannot compile '{SOURCE.name}': {cause}", "apt-get install gcc libc6-dev")
    return program


def find_compiler() -> str:
    """Return the path of the C compiler."""
    path = shutil.which("cc", path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
    if path is None:
        raise HostError(
            f"cannot compile '{SOURCE.name}': there is no C compiler (cc)",
            "apt-get install gcc libc6-dev",
        )
    return path


def measure(bench: Bench, result: Result, order: Sequence[Sequence[Arm]], seconds: float) -> None:
    """Run every round, up to the first problem, and summarise them."""
    for arm in Arm:
        sample = bench.run(arm, min(seconds, WARM_UP_S))
        result.problems = paired.problems_of_run(sample)
        if result.problems:
            result.unfinished = [sample]
            return
    for number, arms in enumerate(order, 1):
        result.unfinished = []
        for arm in arms:
            sample = bench.run(arm, seconds)
            result.unfinished.append(sample)
            say(
                f"round {number}/{len(order)}, {arm + ':':12}"
                f" {sample.round_trips_per_s:>9,.0f} round trips/s"
            )
            result.problems = paired.problems_of_run(sample)
            if result.problems:
                return
        result.rounds.append(result.unfinished)
    result.unfinished = []
    result.ratios = paired.summarise(result.rounds)


def echo(*, rounds: int, seconds: float, size: int, command: Sequence[str] = COMMAND) -> Result:
    """Build the lab, measure, remove the lab and return the result."""
    if os.geteuid() != 0:
        raise NotPermittedError(
            "cannot make network namespaces: not root", "sudo scripts/bench-echo"
        )
    find_tool("ip")
    seed = int.from_bytes(os.urandom(4), "big")
    # Any one would do; the lowest gets most of a machine's interrupts.
    core = max(os.sched_getaffinity(0))
    result = Result(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=describe_machine(),
        versions={
            "sockaccel": __version__,
            "python": platform.python_version(),
            "cc": run([find_compiler(), "--version"]).stdout.partition("\n")[0] or None,
        },
        parameters={
            "rounds": rounds,
            "seconds": seconds,
            "size_bytes": size,
            "core": core,
            "seed": seed,
        },
    )
    order = paired.balanced_order(rounds, random.Random(seed))
    # Twice: a signal is raised once, and may be so just before the inner clean-up.
    with ExitStack() as stack:
        try:
            bench = Bench(stack, size, core, command=command)
            say(BLIND)
            measure(bench, result, order, seconds)
        finally:
            with hold():
                stack.close()
    return result


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--rounds",
    type=click.IntRange(min=paired.MIN_ROUNDS),
    default=ROUNDS,
    show_default=True,
    help="Rounds of one run per arm; a multiple of four balances them best.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 3600),
    default=SECONDS,
    show_default=True,
    help="Length of a run.",
)
@click.option(
    "--size",
    type=click.IntRange(1, MAX_SIZE),
    default=SIZE,
    show_default=True,
    help="Bytes of a message.",
)
@click.option("--check", is_flag=True, help="Exit with 1 if a target is missed.")
@output_option
def command_line(rounds: int, seconds: float, size: int, check: bool, output: str) -> int:
    """Measure the round trip of a small message, both ends on one core.

    Builds a lab of two network namespaces, runs an echo over plain TCP, over
    sockaccel, over the textbook program without its safety, and over a Unix
    socket, interleaved; prints the rates and ratios, and removes the lab. Exit
    code 1 if a run failed or did not measure what it was to measure.
    """
    result = echo(rounds=rounds, seconds=seconds, size=size)
    click.echo(
        json.dumps(paired.as_json(result), indent=2) if output == "json" else paired.as_text(result)
    )
    return 0 if (result.targets_met if check else result.valid) else 1


def main() -> int:
    """Run the command line; errors become one line and a hint."""
    return run_command(command_line, "scripts/bench-echo")


if __name__ == "__main__":
    sys.exit(main())
