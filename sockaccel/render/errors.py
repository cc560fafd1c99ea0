"""Errors for people: one line, and one thing to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sockaccel.errors import SockaccelError


def show(error: SockaccelError) -> None:
    """Print an error and its hint on stderr."""
    click.echo(f"Error: {error}", err=True)
    if error.hint:
        click.echo(f"Hint: {error.hint}", err=True)
