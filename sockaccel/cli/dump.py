"""`sockaccel dump`."""

from __future__ import annotations

import time
from typing import Any

import click

from sockaccel.cli.main import Settings, output_option
from sockaccel.datapath import pins
from sockaccel.datapath.layout import Reason
from sockaccel.datapath.state import Datapath
from sockaccel.errors import SockaccelError, StateError
from sockaccel.inspect.connections import (
    Connection,
    Container,
    Dump,
    Endpoint,
    Owner,
    State,
    join,
    key_tuple,
)
from sockaccel.inspect.processes import owners
from sockaccel.render.json import print_json
from sockaccel.render.table import render_table
from sockaccel.render.units import bytes_text
from sockaccel.scope.docker import snapshot
from sockaccel.scope.members import members
from sockaccel.scope.netns import netns_cookie
from sockaccel.scope.selection import owners as makers

_FOLLOW_S = 1.0


@click.command("dump", short_help="The entries of sock_ops_map, joined into connections.")
@click.option("--container", metavar="NAME", help="Only connections of this container.")
@click.option("--port", metavar="P", type=click.IntRange(1, 65535), help="Either end's port.")
@click.option(
    "--state",
    type=click.Choice([state.value for state in State]),
    help="Only connections whose bytes went this way.",
)
@click.option("--follow", is_flag=True, help="Again every second, until interrupted.")
@output_option
@click.pass_obj
def command(
    settings: Settings, container: str | None, port: int | None, state: str | None, follow: bool
) -> None:
    """Show every accelerated connection: both ends, which way their bytes went, and why.

    Cookies are written as `ss -e` writes them (sk:…). Counters are of what the end has sent.
    """
    while True:
        with _opened(settings) as datapath:
            containers = _containers(datapath)
            dump = read(datapath, containers)
        shown = [each for each in dump.connections if _matches(each, container, port, state)]
        if settings.json:
            _print_json(dump, shown, follow)
        else:
            _print(dump, shown)
        if not follow:
            return
        time.sleep(_FOLLOW_S)
        if not settings.json:
            click.echo(f"\n{time.strftime('%H:%M:%S')}")


def _opened(settings: Settings) -> Datapath:
    datapath = Datapath.open(settings.pin_dir)
    if datapath is None:
        raise StateError(
            f"cannot read the entries of sock_ops_map: nothing is pinned in '{settings.pin_dir}'",
            pins.command(settings.pin_dir, "enable"),
        )
    return datapath


def read(datapath: Datapath, containers: dict[int, Container]) -> Dump:
    """Read the map and the records, and find the processes."""
    # A connection that comes or goes meanwhile is no entry that cannot be read.
    before = {key_tuple(key) for key in datapath.entries()}
    records = list(datapath.records())
    keys = [key for key in datapath.entries() if key_tuple(key) in before]
    found = owners({record.inode for record in records if record.inode})

    def owner(inode: int) -> Owner:
        process = found.get(inode)
        return (process.pid, process.name) if process else (None, None)

    return join(keys, records, owner, containers)


def _containers(datapath: Datapath) -> dict[int, Container]:
    """Return who made each namespace, in scope or not; nobody where Docker is not asked."""
    options = datapath.options
    if options.scope != "docker":
        return {}
    try:
        found = makers(members(snapshot(options.docker_host)), netns_cookie())
    except SockaccelError:  # names are an extra: what the map says does not depend on them
        return {}
    return {cookie: Container(each.id, each.name) for cookie, each in found.items()}


def _matches(
    connection: Connection, container: str | None, port: int | None, state: str | None
) -> bool:
    ends = connection.endpoints
    return (
        (state is None or connection.state == state)
        and (port is None or any(port in (end.local_port, end.remote_port) for end in ends))
        and (
            container is None
            or any(
                end.container
                and (end.container.name == container or end.container.id.startswith(container))
                for end in ends
            )
        )
    )


def _end_json(end: Endpoint | None) -> dict[str, Any] | None:
    if end is None:
        return None
    container = end.container
    return {
        "cookie": f"{end.cookie:x}",
        "local": end.local,
        "remote": end.remote,
        "netns_cookie": end.netns_cookie,
        "container": {"id": container.id, "name": container.name} if container else None,
        "pid": end.pid,
        "process": end.process,
        "redirected_bytes": end.redirected_bytes,
        "redirected_messages": end.redirected_messages,
        "tcp_bytes": end.tcp_bytes,
        "tcp_messages": end.tcp_messages,
        "reason": end.reason.label if end.reason is not Reason.NONE else None,
    }


def _print_json(dump: Dump, shown: list[Connection], follow: bool) -> None:
    print_json(
        "sockaccel.dump/1",
        compact=follow,
        entries=dump.entries,
        connections=[
            {
                "id": each.id,
                "state": each.state.value,
                "client": _end_json(each.client),
                "server": _end_json(each.server),
            }
            for each in shown
        ],
        unreadable=[f"{key[0]:08x}{key[1]:08x}" for key in dump.unreadable],
    )


def _process(end: Endpoint | None) -> str:
    if end is None:
        return "(gone)"
    if end.pid is None:
        return "(not accepted)"
    return f"{end.container.name if end.container else end.process}({end.pid})"


def _reasons(connection: Connection) -> set[str]:
    """Return why its last messages went by TCP, and whose program it is about if one's alone."""
    labels = {end.reason.label for end in connection.endpoints if end.reason is not Reason.NONE}
    blamed = [end for end in connection.endpoints if end.reason.is_policy]
    if len(blamed) == 1:
        label = blamed[0].reason.label
        who = "client" if blamed[0] is connection.client else "server"
        labels = labels - {label} | {f"{label}({who})"}
    return labels


def _print(dump: Dump, shown: list[Connection]) -> None:
    rows: list[tuple[str, ...]] = []
    for each in shown:
        client, server = each.client, each.server
        reasons = _reasons(each)
        rows.append(
            (
                each.state.value,
                client.local if client else each.endpoints[0].remote,
                server.local if server else each.endpoints[0].remote,
                _process(client),
                _process(server),
                f"{client.cookie:x}" if client else "-",
                f"{server.cookie:x}" if server else "-",
                bytes_text(sum(end.redirected_bytes for end in each.endpoints)),
                bytes_text(sum(end.tcp_bytes for end in each.endpoints)),
                ",".join(sorted(reasons)) or "-",
            )
        )
    rows += [("unreadable", *["?"] * 9) for _ in dump.unreadable]
    headers = (
        "STATE",
        "CLIENT",
        "SERVER",
        "CLIENT PROCESS",
        "SERVER PROCESS",
        "CLIENT SK",
        "SERVER SK",
        "REDIRECTED",
        "TCP",
        "WHY",
    )
    click.echo(render_table(headers, rows, {7, 8}))
    click.echo(f"{dump.entries} entries, {len(shown)} of {len(dump.connections)} connections shown")
