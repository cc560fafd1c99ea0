"""How a measurement's command line ends: exit codes, one line and a hint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sockaccel.errors import SockaccelError
from sockaccel.render.errors import show
from sockaccel.render.usage import show_usage
from sockaccel.signals import Interrupted, raising

if TYPE_CHECKING:
    from click import Command

BLIND = (
    "Note: while sockaccel is on, interface counters, docker stats and tcpdump do not see"
    " redirected bytes."
)


def run_command(command: Command, prog_name: str) -> int:
    """Run a command that returns its exit code; errors become one line and a hint."""
    try:
        with raising():
            return int(command.main(prog_name=prog_name, standalone_mode=False))
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        show_usage(error, error.ctx or click.Context(command, info_name=prog_name))
        return error.exit_code
    except SockaccelError as error:
        show(error)
        return error.exit_code
    except Interrupted as error:
        say(f"Interrupted by {error}; everything was removed.")
        return error.exit_code


def say(line: str) -> None:
    """Print for the person who waits; stdout is for the result."""
    click.echo(line, err=True)
