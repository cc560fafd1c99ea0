"""`sockaccel disable`."""

from __future__ import annotations

import click

from sockaccel.cli.main import Settings, output_option
from sockaccel.datapath import lifecycle, pins
from sockaccel.errors import StateError
from sockaccel.render.json import print_json


@click.command("disable", short_help="Put everything back on TCP and unpin.")
@click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Wait until the last accelerated socket has closed.",
)
@output_option
@click.pass_obj
def command(settings: Settings, wait: float | None) -> None:
    """Send all further messages by TCP, detach and unpin. No byte is lost; safe to repeat.

    Sockets that were accelerated stay connected; the kernel frees the rest as they close.
    """
    lifecycle.check_capabilities()
    if not pins.staging(settings.pin_dir).exists() and not settings.pin_dir.exists():
        result = lifecycle.Disabled(was_enabled=False, map_id=None)
    else:
        pins.check(settings.pin_dir)
        result = lifecycle.disable(settings.pin_dir)
    drained = True
    if result.map_id is not None:
        drained = lifecycle.wait_drained(result.map_id, wait or 0)
    if settings.json:
        print_json("sockaccel.disable/1", was_enabled=result.was_enabled, drained=drained)
    elif not result.was_enabled:
        click.echo("already disabled")
    elif drained:
        click.echo("disabled")
    else:
        click.echo("disabled; connections that are still open go on by TCP")
    if wait is not None and not drained:
        raise StateError(
            f"cannot see the last accelerated socket close: still open after {wait:g} s",
            "sockaccel status shows how many are left",
        )
