"""Errors for people: one line, and one thing to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sockaccel.errors import with_escapes

if TYPE_CHECKING:
    from sockaccel.errors import SockaccelError


def show(error: SockaccelError) -> None:
    """Print an error and its hint on stderr: one line each, whatever a value in them holds."""
    click.echo(f"Error: {with_escapes(str(error))}", err=True)
    if error.hint:
        click.echo(f"Hint: {with_escapes(error.hint)}", err=True)
