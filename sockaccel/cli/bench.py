"""`sockaccel bench`: before and after, measured, and what becomes of the result."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sockaccel.bench.codec import encode
from sockaccel.bench.compare import compare
from sockaccel.bench.power import MAX_FALSE, MIN_FOUND, MIN_RUNS, power_of_case
from sockaccel.bench.result import loads
from sockaccel.bench.stats import MIN_PAIRS
from sockaccel.bench.summary import conclude
from sockaccel.cli.bench_output import (
    FORMS,
    check_writable,
    exit_code,
    gate_option,
    show_result,
    write,
    write_github,
)
from sockaccel.cli.bench_run import list_, run
from sockaccel.cli.main import Settings, a_number, output_option
from sockaccel.errors import InputError, reason
from sockaccel.render.bench.document import comparison_document
from sockaccel.render.bench.text import text
from sockaccel.render.color import colored
from sockaccel.render.json import print_json
from sockaccel.render.table import render_table
from sockaccel.render.units import percent_text

if TYPE_CHECKING:
    from sockaccel.bench.gate import Gate
    from sockaccel.bench.power import CasePower, Power
    from sockaccel.bench.result import CaseResult, Result

GITHUB = "github"


@click.group("bench", short_help="Before and after: measure, compare, report.")
def command() -> None:
    """Measure what acceleration does, and make something of the result."""


command.add_command(run)
command.add_command(list_)


@command.command("report", short_help="Show a result in another form.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice([*FORMS, GITHUB]),
    help="table, unless -o json; github: two files for github-action-benchmark, and, in a job"
    " of GitHub, its summary.",
)
@click.option(
    "--output-file",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Instead of stdout; for github a directory, and required.",
)
@gate_option
@output_option
@click.pass_obj
def report(
    settings: Settings,
    file: Path,
    form: str | None,
    output_file: Path | None,
    gate: tuple[Gate, ...],
) -> int:
    """Show the result in FILE, which `bench run --save` wrote; - is stdin.

    Exit 1: the result is not valid, or a gate does not hold.
    """
    form = form or ("json" if settings.json else "table")
    if output_file:
        check_writable(output_file)
    elif form == GITHUB:
        raise InputError(
            "cannot write github-action-benchmark's files: there are two of them",
            "--output-file DIRECTORY",
        )
    result = read(file)
    code = exit_code(result, gate)
    if output_file is None:
        show_result(form, result)
    elif form == GITHUB:
        write_github(output_file, result)
    else:
        write(output_file, FORMS[form](result))
    return code


@command.command("compare", short_help="What changed from one result to another.")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@output_option
@click.pass_obj
def compare_files(settings: Settings, a: Path, b: Path) -> None:
    """Show what changed from the result in file A to that in file B, case by case.

    Their runs were not made in pairs: what else changed on the machine in between is
    measured, too. The rows "accelerated / baseline" are free of that.
    """
    comparison = compare(read(a), read(b))
    if settings.json:
        print_json("sockaccel.bench-compare/1", **encode(comparison))
    else:
        click.echo(colored(text(comparison_document(comparison, str(a), str(b)))))


@command.command("power", short_help="What so many runs on this machine can tell.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--pairs",
    metavar="N",
    type=click.IntRange(min=MIN_PAIRS),
    help="Of runs in a comparison.  [default: as many as there are baseline runs]",
)
@click.option(
    "--slow-down",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    default=5.0,
    show_default=True,
    callback=a_number,
    metavar="PERCENT",
    help="What is to be found.",
)
@output_option
@click.pass_obj
def show_power(settings: Settings, file: Path, pairs: int | None, slow_down: float) -> int:
    """Show what can be told at the noise of the baseline runs in FILE, 20 or more of each case.

    Compares these runs with themselves 200 times, as they are and with a slow-down put
    in. Exit 1: a difference is called where there is none in more than 8 %, or the
    slow-down is found in less than 80 %, in one of the cases.
    """
    result = read(file)
    if not result.valid:
        raise InputError(f"cannot use '{file}': it is not valid", f"sockaccel bench report {file}")
    found = [_power(case, file, pairs, slow_down / 100) for case in result.cases]
    if settings.json:
        print_json("sockaccel.bench-power/1", cases=encode(found))
    else:
        headers = ("case", "metric", "runs", "spread", "pairs", "false alarms", "found", "needed")
        rows = [
            (
                each.case,
                each.metric.label,
                str(each.runs),
                percent_text(each.spread),
                str(each.power.pairs),
                percent_text(each.power.false_alarms),
                percent_text(each.power.found),
                f"{each.needed} pairs" if each.needed else "more",
            )
            for each in found
        ]
        click.echo(render_table(headers, rows, range(2, 8)))
        click.echo(f"\n{_LEGEND}")
    for each in found:
        if not each.power.enough:
            said = _shortfall(each.power, slow_down)
            click.echo(f"NOT ENOUGH  {each.case}: {said}", err=True)
    return 0 if all(each.power.enough for each in found) else 1


_LEGEND = (
    "spread: standard deviation of the runs, slow drifts included. false alarms: differences\n"
    "called between runs that do not differ. found: slow-downs called, of neighbouring runs.\n"
    "needed: the fewest pairs that are enough."
)


def _shortfall(power: Power, slow_down: float) -> str:
    if power.false_alarms > MAX_FALSE:
        return (
            f"{percent_text(power.false_alarms)} false alarms,"
            f" at most {percent_text(MAX_FALSE)} are allowed"
        )
    return (
        f"{slow_down:g}% slower is found in {percent_text(power.found)},"
        f" at least {percent_text(MIN_FOUND)} are asked for"
    )


def _power(case: CaseResult, file: Path, pairs: int | None, slow_down: float) -> CasePower:
    try:
        return power_of_case(case, pairs, slow_down)
    except ValueError as error:
        raise InputError(
            f"cannot use '{case.id}' in '{file}': {error}",
            f"sockaccel bench run {case.id} --arm accelerated --pairs {MIN_RUNS} --save FILE",
        ) from error


def read(path: Path) -> Result:
    """Return the result in a file.

    Raises:
        InputError: there is none that can be read.

    """
    try:
        found = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot read result '{path}': {reason(error)}", "sockaccel bench run --save FILE"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"cannot read result '{path}': it is no text", "sockaccel bench run --save FILE"
        ) from error
    result = loads(found, str(path))
    for case in result.cases:
        if conclude(replace(case, ratios=[])).ratios != case.ratios:
            raise InputError(
                f"cannot read result '{path}': the ratios of '{case.id}' are not those of its runs",
                "sockaccel bench run --save FILE",
            )
    return result
