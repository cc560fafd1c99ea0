"""`sockaccel bench`: before and after, measured, and what becomes of the result."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sockaccel.bench.codec import encode
from sockaccel.bench.compare import compare
from sockaccel.bench.result import loads
from sockaccel.cli.bench_output import (
    FORMS,
    check_writable,
    exit_code,
    gate_option,
    write,
    write_github,
)
from sockaccel.cli.bench_run import list_, run
from sockaccel.cli.main import Settings, output_option
from sockaccel.errors import InputError, reason
from sockaccel.render.bench.document import comparison_document
from sockaccel.render.bench.text import text
from sockaccel.render.json import print_json

if TYPE_CHECKING:
    from sockaccel.bench.gate import Gate
    from sockaccel.bench.result import Result

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
        click.echo(FORMS[form](result), nl=form == "table")
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
        click.echo(text(comparison_document(comparison, str(a), str(b))))


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
    return loads(found, str(path))
