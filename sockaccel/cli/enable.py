"""`sockaccel enable`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sockaccel.cli.main import Settings, output_option
from sockaccel.cli.options import enable_options, resolve
from sockaccel.datapath import lifecycle, pins
from sockaccel.datapath.lifecycle import Enabled, Scope
from sockaccel.datapath.scope_map import ScopeMap
from sockaccel.errors import DockerError
from sockaccel.inspect.existing import count_existing_local, existing_listeners
from sockaccel.render.json import print_json
from sockaccel.render.units import who_text
from sockaccel.scope.docker import docker_url, snapshot
from sockaccel.scope.members import members
from sockaccel.scope.netns import Namespace, all_namespaces, local_networks, netns_cookie
from sockaccel.scope.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sockaccel.datapath.options import Options
    from sockaccel.datapath.trial import Trial
    from sockaccel.scope.plan import Entry
    from sockaccel.scope.selection import Decision, Override

BLIND = (
    "Note: interface counters, docker stats and tcpdump do not see redirected bytes; "
    "`sockaccel status` does."
)


@click.command("enable", short_help="Accelerate new local connections.")
@enable_options
@output_option
@click.pass_obj
def command(settings: Settings, /, *, force: bool, dry_run: bool, **values: Any) -> None:
    """Compile, load, pin and attach; new connections between two sockets in scope are redirected.

    Both ends of a connection must be in scope. Connections that are open already stay on TCP.

    \b
    Examples:
      sockaccel enable                            every Docker container
      sockaccel enable --netns /run/netns/web --netns /run/netns/cache
      sockaccel enable --scope all --ports 80,8000-8999
    """  # noqa: D301 - \b is click's
    options = resolve(values)
    lifecycle.check_capabilities()
    pins.check(settings.pin_dir)
    if options.scope == "all":
        named = all_namespaces()
    else:
        named = [Namespace(netns_cookie(path), path) for path in options.netns]
    already = lifecycle.is_enabled(settings.pin_dir, options)
    present, overrides = _present(settings.pin_dir) if already else ({}, {})
    selection = _select(options, named)
    decisions, warnings = selection.decide(overrides)
    for warning in warnings:
        click.echo(f"Warning: {warning}", err=True)
    namespaces = _in_scope(decisions, named)
    if dry_run:
        wanted = selection.wanted(present, overrides)
        _report_plan(settings, options, len(wanted), already)
        return

    def wanted_now(
        actual: Mapping[int, Entry], overrides: Mapping[str, Override]
    ) -> dict[int, Entry]:
        # What an agent has put in scope since Docker was asked is newer than our answer.
        since = {cookie: each for cookie, each in actual.items() if cookie not in present}
        return since | selection.wanted(actual, overrides)

    enabled = lifecycle.enable(
        settings.pin_dir,
        options,
        Scope(wanted_now, local_networks(all_namespaces())),
        lambda: existing_listeners(namespaces),
        force=force,
    )
    existing = count_existing_local(namespaces, options.port_set)
    _report(settings, options, enabled, existing, forced=force)


def _present(pin_dir: Path) -> tuple[dict[int, Entry], dict[str, Override]]:
    with lifecycle.opened(pin_dir) as datapath:
        maps = ScopeMap(datapath)
        return maps.entries(), maps.overrides()


def _select(options: Options, named: list[Namespace]) -> Selection:
    """Ask who there is."""
    host, cookies = netns_cookie(), frozenset(each.cookie for each in named)
    if options.scope == "all":
        return Selection((), options.selection, host, cookies)
    try:
        found = tuple(members(snapshot(options.docker_host)))
    except DockerError as error:
        absent = not options.docker_host and _docker_is_absent()
        if absent and not named:  # a host without Docker has its namespaces by other means
            error.hint = "sockaccel enable --netns /run/netns/NAME"
        if options.docker_host or not named:
            raise
        if not absent:
            click.echo(f"Warning: {error}", err=True)
        return Selection(None, options.selection, host, cookies)
    return Selection(found, options.selection, host, cookies)


def _in_scope(decisions: Iterable[Decision], named: Iterable[Namespace]) -> list[Namespace]:
    found = {each.cookie: each for each in named}
    for each in decisions:
        if each.cookie is not None and each.in_scope:
            path = each.container.netns_path
            found.setdefault(each.cookie, Namespace(each.cookie, path, each.container.name))
    return list(found.values())


def _docker_is_absent() -> bool:
    return not Path(docker_url().removeprefix("unix://")).exists()


def _report_plan(settings: Settings, options: Options, namespaces: int, already: bool) -> None:
    if settings.json:
        print_json(
            "sockaccel.enable/1",
            outcome="dry-run",
            cgroup=options.cgroup,
            scope=options.scope,
            namespaces=namespaces,
            ports=options.ports,
            pin_dir=str(settings.pin_dir),
        )
        return
    if already:
        click.echo("already enabled with these options; would bring the scope up to date:")
        click.echo(who_text(options.scope, namespaces))
        return
    click.echo(f"Would load sock_ops, sk_msg and sk_skb and pin them in {settings.pin_dir},")
    click.echo(f"attach sock_ops to cgroup {options.cgroup},")
    where = f" to listeners on ports {options.ports}" if options.ports else ""
    who = who_text(options.scope, namespaces)
    click.echo(f"and accelerate new connections in {who}{where}.")
    click.echo(BLIND, err=True)


def _report(
    settings: Settings,
    options: Options,
    enabled: Enabled,
    existing_connections: int,
    *,
    forced: bool,
) -> None:
    if settings.json:
        print_json(
            "sockaccel.enable/1",
            outcome="already-enabled" if enabled.already else "enabled",
            cgroup=options.cgroup,
            scope=options.scope,
            namespaces=enabled.namespaces,
            namespaces_added=enabled.added,
            namespaces_removed=enabled.removed,
            ports=options.ports,
            pin_dir=str(settings.pin_dir),
            existing_connections=existing_connections,
            trial=asdict(enabled.trial) if enabled.trial else None,
        )
        return
    who = who_text(options.scope, enabled.namespaces)
    if enabled.already:
        click.echo("already enabled")
        if enabled.added or enabled.removed:
            click.echo(f"scope: {enabled.added} added, {enabled.removed} gone; now {who}")
        return
    click.echo(f"enabled for {who}, cgroup {options.cgroup}")
    if existing_connections:
        plural = "s that are open stay" if existing_connections != 1 else " that is open stays"
        click.echo(
            f"{existing_connections} local connection{plural} on TCP; "
            "connections made from now on are accelerated"
        )
    if not enabled.namespaces:
        click.echo(
            "Warning: nobody is in scope: no container runs that is to be, and no --netns is given",
            err=True,
        )
    report_trial(options, enabled.trial, forced=forced)
    click.echo(BLIND, err=True)


def report_trial(options: Options, tried: Trial | None, *, forced: bool) -> None:
    """Say what this kernel costs. None: it could not be tried, or was not tried now."""
    if forced and (tried is None or not tried.works):
        why = tried.evidence[-1] if tried else "the trial could not be made"
        click.echo(f"Warning: forced although this kernel failed the trial: {why}", err=True)
    if tried is None or tried.fionread_right:
        return
    if options.policy == "all":
        click.echo(
            "Warning: this kernel does not count redirected bytes in FIONREAD (class K0): "
            "programs that ask for it, such as nginx, Java and .NET, stall; "
            "--policy safe leaves them on TCP",
            err=True,
        )
    else:
        click.echo(
            "Note: this kernel does not count redirected bytes in FIONREAD (class K0): programs "
            "that ask for it, such as nginx, and programs that sockaccel does not know by name "
            "stay on TCP. Linux 6.12.75, 6.18.14, 6.19 or later lifts this.",
            err=True,
        )
