"""Runs the comparison: scripts/equivalence."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from kernel import harness

from sockaccel.errors import HostError, SockaccelError
from sockaccel.render.errors import show
from sockaccel.render.json import print_json
from sockaccel.render.options import output_option

from . import cpython, judge, proxies, suites, workloads
from .arena import POLICIES
from .report import SCHEMA, as_json, as_text

if TYPE_CHECKING:
    from .results import Row

SUITE_TIMEOUT_S = 900


def run_cpython(policy: str, *, quick: bool) -> list[Row]:
    """Run CPython's own network tests."""
    names = cpython.QUICK_MODULES if quick else cpython.MODULES
    return judge.judge("cpython", [cpython.Module(name) for name in names], policy, SUITE_TIMEOUT_S)


def run_programs(policy: str, *, quick: bool) -> list[Row]:
    """Run the tests of programs from PyPI."""
    suites.prepare()
    chosen = [
        program for program in suites.PROGRAMS if not quick or program.name in suites.QUICK_PROGRAMS
    ]
    return judge.judge("programs", chosen, policy, SUITE_TIMEOUT_S)


PARTS = {
    "cpython": run_cpython,
    "proxies": proxies.judge,
    "programs": run_programs,
    "workloads": workloads.judge,
}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default="safe",
    show_default=True,
    help="What to judge.",
)
@click.option("--quick", is_flag=True, help="Short forms: a few modules, small bodies, one second.")
@output_option
def main(parts: tuple[str, ...], policy: str, quick: bool, output: str) -> None:
    """Run other people's programs on plain TCP and accelerated, and compare.

    Exits with 1 if something fails accelerated that does not fail on plain TCP, unless
    --policy all is known to break it (tests/programs/known.py).
    """
    if lacking := harness.missing():
        raise HostError(f"cannot compare: this machine lacks {', '.join(lacking)}", "scripts/setup")
    harness.raise_descriptor_limit()
    harness.clear_what_killed_runs_left()
    rows = []
    for part in parts or PARTS:
        click.echo(f"equivalence: {part}, --policy {policy}", err=True)
        rows += PARTS[part](policy, quick=quick)
    if output == "json":
        print_json(SCHEMA, rows=as_json(rows))
    else:
        click.echo(as_text(rows))
    if any(row.unexplained for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    try:
        main(prog_name="scripts/equivalence")
    except SockaccelError as error:
        show(error)
        sys.exit(error.exit_code)
