"""`sockaccel disable`."""

from __future__ import annotations

import click

from sockaccel.agent import presence
from sockaccel.cli.main import Settings, a_number, output_option
from sockaccel.datapath import lifecycle, pins, state
from sockaccel.errors import StateError
from sockaccel.render.json import print_json


@click.command("disable", short_help="Put everything back on TCP and unpin.")
@click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    callback=a_number,  # no time is ever later than none: the wait would not end
    help="Wait until the last accelerated socket has closed.",
)
@output_option
@click.pass_obj
def command(settings: Settings, wait: float | None) -> None:
    """Send all further messages by TCP, detach and unpin. No byte is lost; safe to repeat.

    Sockets that were accelerated stay connected; the kernel frees the rest as they close.
    """
    lifecycle.check_capabilities()
    # Where no bpffs is seen what is pinned is out of reach, and half a disable is none.
    pins.check_visible(settings.pin_dir)
    pins.check_name(settings.pin_dir)
    was_enabled = False
    if settings.pin_dir.exists() or pins.staging(settings.pin_dir).exists():
        pins.check(settings.pin_dir)
        was_enabled = lifecycle.disable(settings.pin_dir)
    else:
        # What was unpinned by hand goes on redirecting.
        state.switch_off(settings.pin_dir)
    presence.clear(settings.pin_dir)
    left = lifecycle.wait_drained(settings.pin_dir, wait or 0)
    if settings.json:
        print_json("sockaccel.disable/1", was_enabled=was_enabled, drained=not left, open=left)
    else:
        done = "disabled" if was_enabled else f"already disabled in {settings.pin_dir}"
        click.echo(f"{done}; {_sockets(left)} still open, on TCP" if left else done)
    if wait is not None and left:
        raise StateError(
            f"cannot wait for the last accelerated socket: {_sockets(left)} open after {wait:g} s",
            pins.command(settings.pin_dir, "status"),
        )


def _sockets(number: int) -> str:
    return f"{number} socket is" if number == 1 else f"{number} sockets are"
