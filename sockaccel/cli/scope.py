"""`sockaccel scope`: which containers are accelerated, why, and the user's word on it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from sockaccel.cli.main import Settings, output_option
from sockaccel.datapath import lifecycle, pins
from sockaccel.datapath.scope_map import ScopeMap
from sockaccel.errors import DockerError, InputError, StateError
from sockaccel.inspect import membership
from sockaccel.render.json import print_json
from sockaccel.render.table import render_table
from sockaccel.render.units import SHORT_ID
from sockaccel.scope.docker import snapshot
from sockaccel.scope.members import members
from sockaccel.scope.netns import netns_cookie
from sockaccel.scope.selection import Override, Selection, Why

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sockaccel.datapath.lifecycle import Wanted
    from sockaccel.datapath.options import Options
    from sockaccel.datapath.state import Datapath
    from sockaccel.inspect.membership import ContainerScope, NamespaceScope
    from sockaccel.scope.docker import Container
    from sockaccel.scope.plan import Entry
    from sockaccel.scope.selection import Decision

# How often to look again at who is restarted at this moment.
_ATTEMPTS = 5
_CONTAINER_HEADER = ("CONTAINER", "ID", "IN SCOPE", "WHY", "POLICY", "PORTS", "NETWORKS")
_NAMESPACE_HEADER = ("NAMESPACE", "COOKIE", "IN SCOPE", "WHY")
_DONE = {
    Override.EXCLUDE: "excluded",
    Override.INCLUDE: "included",
    None: "left to its labels and the options of enable",
}


@click.group("scope", short_help="Which containers are accelerated, and why; exclude, include.")
def command() -> None:
    """Show and override which containers are accelerated.

    The override of a container holds for its name, also after a restart, until it is reset or
    acceleration is disabled.
    """


@command.command("list")
@output_option
@click.pass_obj
def list_command(settings: Settings) -> None:
    """Show every running container, whether the kernel has it in scope, and why."""
    with lifecycle.opened(settings.pin_dir) as datapath:
        options = datapath.options
        named = _named_cookies(options)
        selection = Selection(_running(options), options.selection, netns_cookie(), _cookies(named))
        decisions, warnings = selection.decide(ScopeMap(datapath).overrides())
        for warning in warnings:
            click.echo(f"Warning: {warning}", err=True)
        _print(settings, datapath, decisions, named)


@command.command("exclude")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@output_option
@click.pass_obj
def exclude_command(settings: Settings, names: tuple[str, ...]) -> None:
    """Put containers out of scope, whatever else speaks for them.

    Their connections go on by TCP from the next message on; no byte is lost.
    """
    _override(settings, names, Override.EXCLUDE)


@command.command("include")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@output_option
@click.pass_obj
def include_command(settings: Settings, names: tuple[str, ...]) -> None:
    """Put containers in scope, whatever labels and filters say.

    Not one that uses the host's network, or that shares its namespace with a container that
    is out of scope.
    """
    _override(settings, names, Override.INCLUDE)


@command.command("reset")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@output_option
@click.pass_obj
def reset_command(settings: Settings, names: tuple[str, ...]) -> None:
    """Take back what exclude or include has said of containers."""
    _override(settings, names, None)


def _override(settings: Settings, names: tuple[str, ...], override: Override | None) -> None:
    verb = override or "reset"
    lifecycle.check_capabilities()
    with lifecycle.opened(settings.pin_dir) as datapath:
        options = datapath.options
        known = ScopeMap(datapath).overrides()
    if options.scope == "all":
        raise StateError(
            f"cannot {verb} container '{names[0]}': enabled with --scope all, "
            "which does not ask who is in scope",
            pins.command(settings.pin_dir, "disable"),
        )
    named = _cookies(_named_cookies(options))
    command_line = pins.command(settings.pin_dir, f"scope {verb}")
    chosen: set[str] = set()
    for _ in range(_ATTEMPTS):
        found = tuple(members(snapshot(options.docker_host)))
        selection = Selection(found, options.selection, netns_cookie(), named)
        running = [container for _, container in found]
        chosen = chosen or {_name(given, running, known, verb, command_line) for given in names}
        concerned = [(cookie, each) for cookie, each in found if each.name in chosen]
        cookies = frozenset(cookie for cookie, _ in concerned if cookie is not None)
        lifecycle.override_scope(
            settings.pin_dir, dict.fromkeys(chosen, override), _only(cookies, selection)
        )
        # Else one was restarted before: an agent has its new namespace, and we had not.
        if members(each for _, each in concerned) == concerned:
            break
    with lifecycle.opened(settings.pin_dir) as datapath:
        decisions, _ = selection.decide(ScopeMap(datapath).overrides())
        shown = [each for each in decisions if each.container.name in chosen]
        if settings.json:
            _print(settings, datapath, shown, {})
            return
    for name in sorted(chosen):
        click.echo(f"{name}: {_DONE[override]}")
    for each in shown:
        if override and each.in_scope != (override is Override.INCLUDE):
            stays = "in" if each.in_scope else "out of"
            click.echo(
                f"Warning: container '{each.container.name}' stays {stays} scope: {each.why}",
                err=True,
            )


def _only(concerned: frozenset[int], selection: Selection) -> Wanted:
    def wanted(actual: Mapping[int, Entry], overrides: Mapping[str, Override]) -> dict[int, Entry]:
        # Of the others an agent may know more by now.
        theirs = {cookie: each for cookie, each in actual.items() if cookie not in concerned}
        ours = selection.wanted(actual, overrides)
        return theirs | {cookie: each for cookie, each in ours.items() if cookie in concerned}

    return wanted


def _name(
    given: str,
    running: Collection[Container],
    known: Mapping[str, Override],
    verb: str,
    command_line: str,
) -> str:
    """Return the name of the container that is meant: by name, or by id as Docker prints it."""
    names = [each.name for each in running]
    if given in names or given in known:
        return given
    by_id = [each.name for each in running if each.id.startswith(given)]
    if len(given) >= SHORT_ID and len(by_id) == 1:
        return by_id[0]
    near = get_close_matches(given, [*names, *known], n=1, cutoff=0)
    raise InputError(
        f"cannot {verb} container '{given}': no running container has this name, "
        "and there is no override for it",
        f"{command_line} {near[0]}" if near else "docker ps",
    )


def _running(options: Options) -> tuple[tuple[int | None, Container], ...] | None:
    """Return the containers; None without Docker, where there is something else to show."""
    try:
        return tuple(members(snapshot(options.docker_host)))
    except DockerError as error:
        if not options.netns and options.scope != "all":
            raise
        click.echo(f"Warning: {error}", err=True)
        return None


def _cookies(named: Mapping[str, int | None]) -> frozenset[int]:
    return frozenset(cookie for cookie in named.values() if cookie is not None)


def _named_cookies(options: Options) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for path in options.netns:
        try:
            found[path] = netns_cookie(path)
        except InputError:
            found[path] = None  # removed since
    return found


def _print(
    settings: Settings,
    datapath: Datapath,
    decisions: list[Decision],
    named: Mapping[str, int | None],
) -> None:
    options, maps = datapath.options, ScopeMap(datapath)
    actual, overrides = maps.entries(), maps.overrides()
    containers = membership.containers(decisions, actual, overrides, options)
    namespaces: list[NamespaceScope] = []
    if options.scope != "all":
        namespaces = membership.namespaces(named, decisions, actual)
    if settings.json:
        print_json(
            "sockaccel.scope/1",
            containers=[_container_json(each) for each in containers],
            namespaces=[_namespace_json(each) for each in namespaces],
            overrides=dict(sorted(overrides.items())),
        )
    else:
        _print_tables(containers, namespaces, overrides)


def _print_tables(
    containers: list[ContainerScope],
    namespaces: list[NamespaceScope],
    overrides: Mapping[str, Override],
) -> None:
    if containers:
        rows = [_container_row(each, containers) for each in containers]
        click.echo(render_table(_CONTAINER_HEADER, rows))
    else:
        click.echo("no container runs")
    if namespaces:
        places = [
            (each.path or "-", str(each.cookie or "-"), _yes(each.in_scope), each.why)
            for each in namespaces
        ]
        click.echo(f"\n{render_table(_NAMESPACE_HEADER, places)}")
    absent = overrides.keys() - {each.container.name for each in containers}
    if absent:
        words = [(name, _DONE[overrides[name]]) for name in sorted(absent)]
        click.echo(f"\n{render_table(('NOT RUNNING', 'OVERRIDE'), words)}")
    if Why.PENDING in {each.why for each in containers} | {each.why for each in namespaces}:
        click.echo("Note: what is pending is done by `sockaccel agent`, or by enable", err=True)


def _container_row(each: ContainerScope, everybody: list[ContainerScope]) -> tuple[str, ...]:
    policy = ports = "-"
    if each.in_scope:
        policy = _policy(each)
        ports = "all" if each.ports is None else str(each.ports) or "none"
    return (
        each.container.name,
        each.container.id[:SHORT_ID],
        _yes(each.in_scope),
        each.why,
        policy,
        ports,
        _networks_text(each.container, [other.container for other in everybody]),
    )


def _networks_text(container: Container, others: Collection[Container]) -> str:
    kind, of_another, maker = container.network_mode.partition("container:")
    if not of_another:
        return ",".join(sorted(container.networks)) or kind
    names = [other.name for other in others if maker in (other.id, other.name)]
    return f"{of_another}{names[0] if names else maker[:SHORT_ID]}"


def _container_json(each: ContainerScope) -> dict[str, Any]:
    return {
        "name": each.container.name,
        "id": each.container.id,
        "netns_cookie": each.cookie,
        "in_scope": each.in_scope,
        "why": each.why,
        "override": each.override,
        "policy": _policy(each) if each.in_scope else None,
        "ports": None if each.ports is None or not each.in_scope else str(each.ports),
        "networks": sorted(each.container.networks),
        "network_mode": each.container.network_mode,
        "paused": each.container.paused,
    }


def _namespace_json(each: NamespaceScope) -> dict[str, Any]:
    return {
        "path": each.path,
        "netns_cookie": each.cookie,
        "in_scope": each.in_scope,
        "why": each.why,
    }


def _policy(each: ContainerScope) -> str:
    return "all" if each.policy_all else "safe"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
