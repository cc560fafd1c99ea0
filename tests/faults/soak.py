"""`scripts/soak`: the faults in their long forms, one line for each."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from kernel import harness

from sockaccel.bench.command import run_command, say
from sockaccel.errors import HostError
from sockaccel.render.units import bytes_text

from .build import TOOLS
from .catalogue import FAULTS, MIXED, run_fault
from .memory import run_memory

if TYPE_CHECKING:
    from .memory import Row
    from .scene import Outcome

MEMORY = "memory"
EVERYTHING = (*(name for name in FAULTS if name != MIXED), MEMORY, MIXED)


@click.command()
@click.argument("faults", nargs=-1, type=click.Choice(EVERYTHING))
@click.option("--count", type=click.IntRange(1), help="How often; default: see --list.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="No fault takes longer.")
@click.option(
    "--list", "listing", is_flag=True, help="Name the faults and how often they are done."
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
def command(
    faults: tuple[str, ...], count: int | None, minutes: float | None, listing: bool, output: str
) -> int:
    """Do the faults while checked traffic runs, and report what was lost: nothing."""
    if listing:
        for name, fault in FAULTS.items():
            click.echo(f"{name:16} {fault.often:>7} {fault.unit}")
        click.echo(f"{MEMORY:16} {'':>7} readers that do not read: the table of accepted bytes")
        return 0
    lacking = [*harness.missing(), *(tool for tool in TOOLS if not shutil.which(tool))]
    if lacking:
        raise HostError(
            f"cannot run the faults: missing {', '.join(lacking)}", "scripts/setup --test"
        )
    harness.raise_descriptor_limit()
    harness.clear_what_killed_runs_left()
    seconds = 60 * minutes if minutes else None
    good = True
    for name in faults or EVERYTHING:
        say(f"{time.strftime('%H:%M:%S')} {name} …")
        if name == MEMORY:
            good &= _memory(output, seconds)
            continue
        amount = count or FAULTS[name].often
        if name == MIXED and seconds and not count:
            amount = int(seconds)
        outcome = run_fault(name, amount, seconds)
        good &= not outcome.faults()
        _show(outcome, output)
    return 0 if good else 1


def _show(outcome: Outcome, output: str) -> None:
    if output == "json":
        click.echo(json.dumps({**asdict(outcome), "faults": outcome.faults()}))
        return
    report = outcome.report
    click.echo(
        f"{outcome.fault}: {outcome.count} {outcome.tried} in {outcome.seconds:.0f} s; "
        f"{report.connections} connections, {bytes_text(report.bytes)} checked, "
        f"{bytes_text(outcome.redirected)} or more redirected; "
        f"lost {report.lost}, duplicated {report.duplicated}, reordered {report.reordered}, "
        f"corrupt {report.corrupt}; errors {sum(report.errors.values())}; "
        f"longest stall {report.stall_ms} ms; left behind {len(outcome.left)}"
    )
    for fault in outcome.faults():
        click.echo(f"    {fault}")
    for detail in report.details if outcome.faults() else []:
        click.echo(f"    {detail}")


def _memory(output: str, seconds: float | None) -> bool:
    good = True
    if output == "table":
        click.echo(
            "memory: readers that do not read, plain TCP -> accelerated; accepted by send(), "
            "tcp_mem, slab; MB\n"
            f"{'write':>8} {'mode':>8} {'conns':>5} {'accepted':>17} {'tcp_mem':>17} {'slab':>17}"
            f" {'ratios':>12}"
        )
    for row in run_memory(seconds):
        good &= row.good
        click.echo(json.dumps(asdict(row)) if output == "json" else _row_text(row))
    return good


def _row_text(row: Row) -> str:
    def pair(plain: int, mine: int) -> str:
        return f"{plain / 1e6:7.2f} -> {mine / 1e6:6.2f}"

    plain, mine = row.plain, row.accelerated
    return (
        f"{row.size:8} {'blocking' if row.blocking else 'polling':>8} {row.connections:5} "
        f"{pair(plain.accepted, mine.accepted)} {pair(plain.tcp_memory, mine.tcp_memory)} "
        f"{pair(plain.slab_memory, mine.slab_memory)} "
        f"{mine.accepted / plain.accepted:5.2f} {mine.memory / max(plain.memory, 1):6.2f}"
        f"{'' if row.good else '  TOO MUCH' if not row.errors else f'  {row.errors} ERRORS'}"
    )


if __name__ == "__main__":
    sys.exit(run_command(command, "scripts/soak"))
