"""Options that every command line of the project spells alike."""

from __future__ import annotations

import click

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Form of the result on stdout.",
)
