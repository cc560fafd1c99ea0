"""The command line. Imports as little as it can: `status` must be quick."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from sockaccel import __version__
from sockaccel.cli import values
from sockaccel.errors import SockaccelError, reason
from sockaccel.render import options
from sockaccel.render.errors import show
from sockaccel.render.usage import show_usage

F = TypeVar("F", bound=Callable[..., Any])

_NAME = "sockaccel"
_COMMANDS = {
    "enable": "sockaccel.cli.enable",
    "agent": "sockaccel.cli.agent",
    "disable": "sockaccel.cli.disable",
    "status": "sockaccel.cli.status",
    "dump": "sockaccel.cli.dump",
    "scope": "sockaccel.cli.scope",
    "doctor": "sockaccel.cli.doctor",
    "bench": "sockaccel.cli.bench",
    "config": "sockaccel.cli.config",
}


@dataclass
class Settings:
    """The global options."""

    output: str
    pin_dir: Path
    color: str
    debug: bool

    @property
    def json(self) -> bool:
        """Whether stdout is for programs."""
        return self.output == "json"


class _LazyGroup(click.Group):
    """Imports a command's module when it is used."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        from importlib import import_module  # noqa: PLC0415

        command: click.Command = import_module(_COMMANDS[cmd_name]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, words = super().resolve_command(ctx, args)
        if name and command:
            values.prepare(ctx, name, command, words)
        return name, command, words


def _set_output(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value:
        context.obj.output = value


def output_option(function: F) -> F:
    """Let -o stand behind the command, too."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        expose_value=False,
        callback=_set_output,
        help="Form of the result on stdout.",
    )(function)


def a_number(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Refuse NaN, which click takes for a number within every range. A callback of options."""
    if value is not None and math.isnan(value):
        raise click.BadParameter(f"'{value}' is not a number", context, option)
    return value


@click.group(
    cls=_LazyGroup,
    context_settings={"auto_envvar_prefix": "SOCKACCEL", "help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="sockaccel", allow_from_autoenv=False)
@click.option(
    "--config",
    metavar="PATH",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=values.read_file,
    help=f"Default: {values.DEFAULT_PATH}, which may be absent. {os.devnull}: none.",
)
@options.output_option
@click.option(
    "--pin-dir",
    type=click.Path(path_type=Path),
    default="/sys/fs/bpf/sockaccel",
    show_default=True,
    help="Where programs and maps are pinned; one directory, one instance.",
)
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="NO_COLOR holds, too.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def cli(context: click.Context, output: str, pin_dir: Path, color: str, debug: bool) -> None:
    """Accelerate TCP between processes on this host, and show that it is still TCP."""
    if color == "always":
        context.color = True
    elif color == "never" or os.environ.get("NO_COLOR"):
        context.color = False
    context.obj = Settings(output, pin_dir, color, debug)


def _asked_for(words: Sequence[str]) -> click.Context:
    """Return the command that is meant, for errors of which click does not say whose they are."""
    context = click.Context(cli, info_name=_NAME)
    for word in words:
        if isinstance(context.command, click.Group):
            found = context.command.get_command(context, word)
            context = click.Context(found, context, word) if found else context
    return context


def main() -> None:
    """Run the command line; turn errors into one line, a hint and an exit code."""
    switch = os.environ.get("SOCKACCEL_DEBUG", "")
    debug = "--debug" in sys.argv or switch.lower() in ("1", "true", "t", "yes", "y", "on")
    try:
        result = cli.main(prog_name=_NAME, standalone_mode=False)
    except click.Abort:
        sys.exit(130)
    except click.UsageError as error:
        show_usage(error, _asked_for(sys.argv[1:]))
        sys.exit(error.exit_code)
    except SockaccelError as error:
        if debug:
            raise
        show(error)
        sys.exit(error.exit_code)
    except OSError as error:
        if debug:
            raise
        where = f" with '{error.filename}'" if error.filename else ""
        show(SockaccelError(f"cannot go on{where}: {reason(error)}", "run again with --debug"))
        # What could not be written must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(result if isinstance(result, int) else 0)
