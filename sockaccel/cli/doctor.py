"""`sockaccel doctor`."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from sockaccel.cli.main import Settings, output_option
from sockaccel.inspect.doctor import examine
from sockaccel.inspect.environment import Host
from sockaccel.inspect.finding import Verdict
from sockaccel.render.color import colored
from sockaccel.render.json import print_json
from sockaccel.render.table import GAP, render_table
from sockaccel.signals import Interrupted, raising

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sockaccel.inspect.doctor import Report

_FALLBACK_COLUMNS = 100
_MIN_EVIDENCE = 40


@click.command("doctor", short_help="Can it work here, and for whom not.")
@click.option("--cgroup", metavar="PATH", help="As for enable. Default: the root of cgroup v2.")
@click.option("--docker-host", metavar="URL", help="As for enable.")
@output_option
@click.pass_obj
def command(settings: Settings, cgroup: str | None, docker_host: str | None) -> int:
    """Examine this kernel and host: what holds, what does not, and one line to type.

    Tries the programs on connections of its own, in a throw-away cgroup and network
    namespace; what is enabled is not touched. WARN: it works, but not for every program.
    Exit 1: a check has failed.
    """
    try:
        with raising():
            report = examine(Host(settings.pin_dir, cgroup, docker_host), debug=settings.debug)
    except Interrupted as signal:  # raised once everything is removed
        return signal.exit_code
    if settings.json:
        _print_json(report)
    else:
        _print(report)
    return 1 if report.count(Verdict.FAIL) else 0


def _print_json(report: Report) -> None:
    print_json(
        "sockaccel.doctor/1",
        kernel=report.kernel,
        counts={each.value.lower(): report.count(each) for each in Verdict},
        findings=[asdict(finding) for finding in report.findings],
        not_tried=list(report.not_tried),
    )


def _print(report: Report) -> None:
    click.echo(colored(render_table(("VERDICT", "CHECK", "EVIDENCE"), _rows(report))))
    counts = ", ".join(f"{report.count(each)} {each}" for each in Verdict)
    click.echo(f"\nLinux {report.kernel}: {counts}")
    if report.not_tried:
        click.echo(f"not tried, for want of what failed: {', '.join(report.not_tried)}")


def _rows(report: Report) -> Iterator[tuple[str, str, str]]:
    """Yield the lines of the table: the evidence wrapped, and below it what to type."""
    names = max(len(finding.name) for finding in report.findings)
    columns = shutil.get_terminal_size((_FALLBACK_COLUMNS, 0)).columns
    width = max(columns - len("VERDICT") - names - 2 * len(GAP), _MIN_EVIDENCE)
    for finding in report.findings:
        first, *more = textwrap.wrap(
            finding.evidence, width, break_long_words=False, break_on_hyphens=False
        )
        yield finding.verdict, finding.name, first
        for line in more:
            yield "", "", line
        if finding.hint:
            yield "", "", f"$ {finding.hint}"
