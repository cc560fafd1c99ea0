"""`sockaccel enable`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sockaccel.cli.main import Settings, output_option
from sockaccel.datapath import lifecycle, pins
from sockaccel.datapath.lifecycle import Enabled, Scope
from sockaccel.datapath.options import (
    DEFAULT_MAX_CONNECTIONS,
    MAX_CONNECTIONS_LIMIT,
    Options,
)
from sockaccel.datapath.programs import executable_names, name_key
from sockaccel.datapath.scope_map import ScopeMap
from sockaccel.errors import DockerError, InputError
from sockaccel.inspect.existing import count_existing_local, existing_listeners
from sockaccel.inspect.processes import any_program
from sockaccel.render.json import print_json
from sockaccel.render.units import who_text
from sockaccel.scope.cgroup import check_cgroup, default_cgroup
from sockaccel.scope.docker import docker_url, snapshot
from sockaccel.scope.members import members
from sockaccel.scope.netns import Namespace, all_namespaces, local_networks, netns_cookie
from sockaccel.scope.ports import parse_ports
from sockaccel.scope.selection import Policy, Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sockaccel.datapath.trial import Trial
    from sockaccel.scope.plan import Entry
    from sockaccel.scope.selection import Decision, Override

_BLIND = (
    "Note: interface counters, docker stats and tcpdump do not see redirected bytes; "
    "`sockaccel status` does."
)


@click.command("enable", short_help="Accelerate new local connections.")
@click.option(
    "--cgroup",
    metavar="PATH",
    help="Only sockets made in it or below. Default: the root of cgroup v2.",
)
@click.option(
    "--scope",
    type=click.Choice(["docker", "all"]),
    default="docker",
    show_default=True,
    help="Every running container (and what --netns names), or every namespace.",
)
@click.option(
    "--policy",
    type=click.Choice(["safe", "all"]),
    default="safe",
    show_default=True,
    help="safe: only programs known to read in a way that survives it; all: whatever is in scope.",
)
@click.option(
    "--accelerate",
    metavar="PROGRAM",
    multiple=True,
    help="Name of an executable that --policy safe is to take as known; may be given again.",
)
@click.option(
    "--keep-on-tcp",
    metavar="PROGRAM",
    multiple=True,
    help="Name of an executable whose sockets stay on TCP; may be given again.",
)
@click.option(
    "--netns",
    metavar="PATH",
    multiple=True,
    help="A network namespace to put in scope; may be given again.",
)
@click.option(
    "--opt-in", is_flag=True, help="Only containers with the label sockaccel.enable=true."
)
@click.option(
    "--network",
    metavar="NAME",
    multiple=True,
    help="Only containers attached to this Docker network; may be given again for others.",
)
@click.option(
    "--project",
    metavar="NAME",
    multiple=True,
    help="Only containers of this Compose project; may be given again for others.",
)
@click.option("--ports", metavar="LIST", help="Listeners' ports, such as 80,8000-8999.")
@click.option(
    "--max-connections",
    type=click.IntRange(1, MAX_CONNECTIONS_LIMIT),
    default=DEFAULT_MAX_CONNECTIONS,
    show_default=True,
    help="More stay on TCP.",
)
@click.option(
    "--docker-host", metavar="URL", help="Default: DOCKER_HOST, else unix:///run/docker.sock."
)
@click.option("--force", is_flag=True, help="Go on although this kernel failed the trial.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what would be done, stop.")
@output_option
@click.pass_obj
def command(
    settings: Settings,
    cgroup: str | None,
    scope: str,
    policy: str,
    accelerate: tuple[str, ...],
    keep_on_tcp: tuple[str, ...],
    netns: tuple[str, ...],
    opt_in: bool,
    network: tuple[str, ...],
    project: tuple[str, ...],
    ports: str | None,
    max_connections: int,
    docker_host: str | None,
    force: bool,
    dry_run: bool,
) -> None:
    """Compile, load, pin and attach; new connections between two sockets in scope are redirected.

    Both ends of a connection must be in scope. Connections that are open already stay on TCP.

    \b
    Examples:
      sockaccel enable                            every Docker container
      sockaccel enable --netns /run/netns/web --netns /run/netns/cache
      sockaccel enable --scope all --ports 80,8000-8999
    """  # noqa: D301 - \b is click's
    port_set = parse_ports(ports) if ports is not None else None
    accelerate, keep_on_tcp = _program_names(accelerate), _program_names(keep_on_tcp)
    _check_overrides(policy, accelerate, keep_on_tcp)
    _warn_of_strangers(*accelerate, *keep_on_tcp)
    cgroup_path = check_cgroup(cgroup) if cgroup is not None else default_cgroup()
    options = Options(
        cgroup=str(cgroup_path),
        scope=scope,
        policy=policy,
        netns=tuple(sorted({str(Path(path).absolute()) for path in netns})),
        ports=str(port_set) if port_set else None,
        max_connections=max_connections,
        docker_host=docker_host,
        accelerate=accelerate,
        keep_on_tcp=keep_on_tcp,
        opt_in=opt_in,
        network=tuple(sorted(set(network))),
        project=tuple(sorted(set(project))),
    )
    _check_selection(options)
    lifecycle.check_capabilities()
    pins.check(settings.pin_dir)
    if scope == "all":
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
    existing = count_existing_local(namespaces, port_set)
    _report(settings, options, enabled, existing, forced=force)


def _program_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not name or "/" in name or "\0" in name:
            raise InputError(
                f"cannot use program '{name}': it is not the name of an executable",
                "the name without its directory, such as `ls -l /proc/PID/exe` shows",
            )
    return tuple(sorted(set(names)))


def _check_overrides(
    policy: str, accelerate: tuple[str, ...], keep_on_tcp: tuple[str, ...]
) -> None:
    # Compared as the kernel side does: 15 characters.
    refused = {name_key(name) for name in keep_on_tcp}
    for name in accelerate:
        if name_key(name) in refused:
            raise InputError(
                f"cannot accelerate program '{name}': it is given with --keep-on-tcp, too",
                "give it once",
            )
    if policy == "all" and (accelerate or keep_on_tcp):
        raise InputError(
            "cannot tell programs apart: --policy all does not ask which they are",
            "--policy safe",
        )


def _warn_of_strangers(*names: str) -> None:
    for name in names:
        if not any_program(executable_names(name)):
            click.echo(
                f"Warning: no executable '{name}' is in PATH, and no process runs one; "
                "`ls -l /proc/PID/exe` shows the right name",
                err=True,
            )


def _check_selection(options: Options) -> None:
    if options.scope == "all" and options.selection != Policy():
        raise InputError(
            "cannot select containers: --scope all puts every network namespace in scope",
            "--scope docker",
        )


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
        if not named or options.docker_host:
            raise
        if not _docker_is_absent():
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
    click.echo(_BLIND, err=True)


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
            "Warning: nobody is in scope: no container runs, and no --netns is given", err=True
        )
    _report_trial(options, enabled.trial, forced=forced)
    click.echo(_BLIND, err=True)


def _report_trial(options: Options, tried: Trial | None, *, forced: bool) -> None:
    """Say what this kernel costs."""
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
