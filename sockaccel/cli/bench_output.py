"""Where a benchmark's result goes: stdout, files, and the exit code."""

from __future__ import annotations

import errno
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sockaccel.bench import gate as gates
from sockaccel.bench.result import dumps
from sockaccel.errors import InputError, reason
from sockaccel.render.bench.github import action_files
from sockaccel.render.bench.junit import as_junit
from sockaccel.render.bench.markdown import as_markdown
from sockaccel.render.bench.page import as_html
from sockaccel.render.bench.text import as_text
from sockaccel.render.color import colored
from sockaccel.render.table import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from sockaccel.bench.gate import Gate
    from sockaccel.bench.result import Result

FORMS: dict[str, Callable[[Result], str]] = {
    "table": as_text,
    "markdown": as_markdown,
    "html": as_html,
    "junit": as_junit,
    "json": dumps,
}


@dataclass(frozen=True)
class Outputs:
    """What a person asked for besides the result on stdout."""

    save: Path | None
    html: Path | None
    markdown: Path | None
    junit: Path | None
    github: Path | None
    gates: tuple[Gate, ...]

    def check(self) -> None:
        """Refuse, before anything is measured, what could not be written afterwards.

        Raises:
            InputError: a directory is missing, or may not be written to.

        """
        for path in (self.save, self.html, self.markdown, self.junit, self.github):
            if path is not None:
                check_writable(path, directory=path is self.github)

    def keep(self, result: Result) -> None:
        """Write the raw result, if asked for, in between; and say what goes wrong."""
        try:
            if self.save:
                write(self.save, dumps(result))
        except InputError as error:
            click.echo(f"Warning: {error}", err=True)

    def write(self, result: Result) -> None:
        """Write every file.

        Raises:
            InputError: one could not be written; the others are.

        """
        errors: list[InputError] = []
        for path, form in (
            (self.save, dumps),
            (self.html, as_html),
            (self.markdown, as_markdown),
            (self.junit, as_junit),
        ):
            if path:
                try:
                    write(path, form(result))
                except InputError as error:
                    errors.append(error)
        if self.github:
            write_github(self.github, result)
        if errors:
            raise errors[0]


def result_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that has a result, and hand them over as `outputs`."""

    @click.option("--save", type=_FILE, metavar="FILE", help="Write the raw result, as JSON.")
    @click.option("--html", type=_FILE, metavar="FILE", help="Write one page with plots.")
    @click.option("--markdown", type=_FILE, metavar="FILE", help="Write tables in Markdown.")
    @click.option("--junit", type=_FILE, metavar="FILE", help="Write JUnit XML, a test per case.")
    @click.option(
        "--github",
        type=_FILE,
        metavar="DIR",
        help="Write github-action-benchmark's two files; in a job of GitHub, its summary, too.",
    )
    @gate_option
    @functools.wraps(command)
    def with_outputs(
        save: Path | None,
        html: Path | None,
        markdown: Path | None,
        junit: Path | None,
        github: Path | None,
        gate: tuple[Gate, ...],
        **others: Any,
    ) -> Any:
        outputs = Outputs(save, html, markdown, junit, github, gate)
        outputs.check()
        return command(outputs=outputs, **others)

    return with_outputs


def _gates(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[Gate, ...]:
    return tuple(gates.parse(text) for text in texts)


_FILE = click.Path(path_type=Path)
gate_option = click.option(
    "--gate",
    multiple=True,
    metavar="EXPR",
    callback=_gates,
    help=f"Exit with 1 unless it holds, as '{gates.EXAMPLE}'; FIELD: {', '.join(gates.FIELDS)}."
    " Repeatable.",
)


def show_result(form: str, result: Result) -> None:
    """Print a result on stdout."""
    text = FORMS[form](result)
    if form == "table":
        click.echo(colored(text))
    else:
        click.echo(text, nl=False)


def exit_code(result: Result, conditions: tuple[Gate, ...]) -> int:
    """Return 0 if the result is valid and every gate holds, and say on stderr what does not."""
    failed = not result.valid
    for outcome in gates.judge(conditions, result):
        failed = failed or not outcome.passed
        word = "passed" if outcome.passed else "FAILED"
        click.echo(printable(f"gate {word}  {outcome.text}"), err=True)
    return int(failed)


def write(path: Path, text: str) -> None:
    """Write a file at once or not at all, where it is a file and no device or link.

    Raises:
        InputError: it cannot be written.

    """
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_text(text, encoding="utf-8")
            return
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def write_github(directory: Path, result: Result) -> None:
    """Write what GitHub's actions and job summaries read."""
    try:
        directory.mkdir(exist_ok=True)
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(as_markdown(result))
    except OSError as error:
        raise _unwritable(directory, error) from error
    for name, text in action_files(result).items():
        write(directory / name, text)


def check_writable(path: Path, *, directory: bool = False) -> None:
    """Refuse a path in a directory that is missing or not writable, or that is something else.

    Raises:
        InputError: the directory is that.

    """
    if not path.parent.is_dir():
        raise _unwritable(path, FileNotFoundError(errno.ENOENT, ""))
    if not os.access(path.parent, os.W_OK):
        raise _unwritable(path, PermissionError(errno.EACCES, ""))
    if path.is_dir() != directory and os.path.lexists(path):
        raise _unwritable(path, OSError(errno.ENOTDIR if directory else errno.EISDIR, ""))


def _unwritable(path: Path, error: OSError) -> InputError:
    missing = error.errno == errno.ENOENT
    hint = f"mkdir -p '{path.parent}'" if missing else "name another place"
    return InputError(f"cannot write '{path}': {reason(error)}", hint)
