"""The round trip of a small message on one core, by four ways, in one run.

client --- bridge --- server, each in a namespace of its own, both on the same
core and in the same cgroup: the scenario benchmarks/scenarios/echo.toml, held
against targets. The arms differ in what carries the bytes alone: plain TCP;
sockaccel; the textbook program, which shows what safety costs; and a Unix
socket, which shows what is to be had without TCP.
"""

from __future__ import annotations

import json
import os
import platform
import random
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from sockaccel import __version__
from sockaccel.bench import rounds as paired
from sockaccel.bench.accelerator import COMMAND, Counters
from sockaccel.bench.arms import Arm, balanced_order
from sockaccel.bench.command import BLIND, run_command, say
from sockaccel.bench.machine import describe_machine
from sockaccel.bench.proof import problems_of_round, problems_of_run
from sockaccel.bench.rounds import Result, Sample
from sockaccel.bench.scenario import load_all
from sockaccel.bench.stage import Cast, Setting, Stage, cores
from sockaccel.bench.stats import MIN_PAIRS
from sockaccel.errors import NotPermittedError
from sockaccel.render.options import output_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sockaccel.bench.proof import Evidence

SCENARIO = "echo"
ROUNDS = 8
SIZE = 64
MAX_SIZE = 65536  # what both directions hold without a reader
SECONDS = 0.5
WARM_UP_S = 0.2


def measure(
    stage: Stage, cast: Cast, result: Result, order: Sequence[Sequence[Arm]], seconds: float
) -> None:
    """Run every round, up to the first problem, and summarise them."""
    size = result.parameters["size_bytes"]
    for number, arms in enumerate([list(Arm), *order]):
        played: list[Evidence] = []
        result.unfinished = []
        for arm in arms:
            length = seconds if number else min(seconds, WARM_UP_S)
            run = stage.play(cast, arm, length).evidence
            played.append(run)
            result.unfinished.append(sample(run, size))
            result.problems = problems_of_run(run)
            if result.problems:
                return
            if number:
                say(
                    f"round {number}/{len(order)}, {arm + ':':12}"
                    f" {result.unfinished[-1].round_trips_per_s:>9,.0f} round trips/s"
                )
        if number:
            result.problems = list(problems_of_round(played).values())
            if result.problems:
                return
            result.rounds.append(result.unfinished)
    result.unfinished = []
    result.ratios = paired.summarise(result.rounds)


def sample(run: Evidence, size: int) -> Sample:
    """Return what one run measured, as this measurement reports it."""
    proof = run.proof
    counters = Counters(proof.active, proof.redirected_bytes, proof.tcp_bytes)
    outcome = run.outcome
    return Sample(run.arm, size, outcome.requests, outcome.seconds, counters, proof.interface_bytes)


def echo(*, rounds: int, seconds: float, size: int, command: Sequence[str] = COMMAND) -> Result:
    """Build the lab, measure, remove the lab and return the result."""
    if os.geteuid() != 0:
        raise NotPermittedError(
            "cannot make network namespaces: not root", "sudo scripts/bench-echo"
        )
    scenario = load_all()[SCENARIO]
    scenario.check_tools()
    case = replace(
        scenario.cases[0],
        name=f"{size}",
        parameters={**scenario.cases[0].parameters, "message_bytes": size},
    )
    seed = int.from_bytes(os.urandom(4), "big")
    result = Result(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=describe_machine(),
        versions={
            "sockaccel": __version__,
            "python": platform.python_version(),
            **{tool.name: tool.version() for tool in scenario.tools},
        },
        parameters={
            "rounds": rounds,
            "seconds": seconds,
            "size_bytes": size,
            "core": min(cores("one", client=True)),
            "seed": seed,
        },
    )
    order = balanced_order(list(Arm), rounds, random.Random(seed))
    # Its ends wait in recv(), which the default policy leaves on TCP.
    stage = Stage(scenario, Setting(policy="all", command=command))
    # Twice: a signal is raised once, and may be so just before the inner clean-up.
    with closing(stage), stage:
        say(BLIND)
        measure(stage, Cast(scenario, case), result, order, seconds)
    return result


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--rounds",
    type=click.IntRange(min=MIN_PAIRS),
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
