"""`sockaccel agent`."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from sockaccel.agent.agent import Agent
from sockaccel.agent.debounce import DEFAULT, Window
from sockaccel.agent.notify import Notifier
from sockaccel.agent.presence import Presence
from sockaccel.cli import values
from sockaccel.cli.enable import BLIND, report_trial
from sockaccel.cli.enable import command as enable
from sockaccel.cli.options import Checked, enable_options, resolve
from sockaccel.datapath import lifecycle, pins
from sockaccel.errors import InputError
from sockaccel.render.units import who_text
from sockaccel.scope.docker import docker_url

if TYPE_CHECKING:
    from types import FrameType

    from sockaccel.agent.agent import Start
    from sockaccel.cli.main import Settings
    from sockaccel.datapath.options import Options


@click.command("agent", short_help="Enable, then keep the scope in step with Docker.")
@enable_options
@click.option("--disable-on-exit", is_flag=True, help="Disable when told to end.")
@click.option(
    "--debounce",
    metavar="MIN:MAX",
    type=Checked(Window.parse, str(DEFAULT)),
    default=str(DEFAULT),
    show_default=True,
    help="Act on what Docker tells when it has been quiet for MIN, after MAX at the latest.",
)
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    force: bool,
    dry_run: bool,
    disable_on_exit: bool,
    debounce: str,
    **given: Any,
) -> None:
    """Run in the foreground: containers are in scope because they run.

    Takes over what is enabled already, without touching live connections; options that differ
    are adjusted, as far as that goes while it is enabled. Docker may come and go: while it is
    away, what is in scope stays. SIGHUP reads the configuration again. SIGTERM ends the agent
    and leaves acceleration on; so does `sockaccel disable`, which turns it off: exit 0, both.

    \b
    Examples:
      sockaccel agent                             every container, from its start on
      sockaccel agent --opt-in                    those with the label sockaccel.enable=true
      sockaccel agent --project shop --policy all
    """  # noqa: D301 - \b is click's
    if dry_run:
        context.invoke(enable, force=force, dry_run=True, **given)
        return
    settings: Settings = context.obj
    window = Window.parse(debounce)
    options = resolve(given)
    docker_url(options.docker_host)
    lifecycle.check_capabilities()
    pins.check(settings.pin_dir)
    _log_to_stderr(debug=settings.debug)
    presence = Presence(settings.pin_dir)
    presence.claim()
    told_to_end = True
    try:
        # Until the loop takes over: what is half done is undone, as after Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.signal(signal.SIGHUP, _too_early)
        agent = Agent(
            settings.pin_dir,
            options,
            presence,
            Notifier(),
            window=window,
            reload=lambda: _reload(context),
        )
        with suppress(KeyboardInterrupt):
            _report(options, agent.begin(force=force), forced=force)
            told_to_end = agent.run()
        if told_to_end and disable_on_exit:
            lifecycle.disable(settings.pin_dir)
    finally:
        presence.release()


def _reload(context: click.Context) -> Options:
    """Return the options as they are configured now.

    Raises:
        SockaccelError: they cannot be used, or one that wants a restart has changed.

    """
    fresh = values.reload(context)
    for name in ("debounce", "disable_on_exit"):
        if fresh[name] != context.params[name]:
            shown = str(fresh[name]).lower()
            raise InputError(
                f"cannot change {name} to '{shown}' while the agent runs", "restart the agent"
            )
    return resolve(fresh)


def _report(options: Options, start: Start, *, forced: bool) -> None:
    log = logging.getLogger("sockaccel.agent")
    for each in start.adjusted:
        log.info("adjusted what was enabled: %s", each)
    if start.enabled is None:
        log.info("took over what is enabled, cgroup %s", options.cgroup)
        return
    who = who_text(options.scope, start.enabled.namespaces)
    log.info("enabled for %s, cgroup %s", who, options.cgroup)
    report_trial(options, start.enabled.trial, forced=forced)
    log.info(BLIND)  # not echo: who reads the log may have gone, and that must not end the agent


def _log_to_stderr(*, debug: bool) -> None:
    # The journal has a clock of its own.
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    logging.basicConfig(format=f"{stamp}%(message)s")
    logging.getLogger("sockaccel").setLevel(logging.DEBUG if debug else logging.INFO)


def _too_early(_number: int, _frame: FrameType | None) -> None:
    """Leave SIGHUP be: the configuration has just been read."""
