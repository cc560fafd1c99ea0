"""`sockaccel status`."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sockaccel.cli.main import Settings, output_option
from sockaccel.datapath.layout import Reason
from sockaccel.errors import SockaccelError
from sockaccel.inspect import status
from sockaccel.render.errors import show
from sockaccel.render.json import print_json
from sockaccel.render.table import render_table
from sockaccel.render.units import SHORT_ID, bytes_text, duration_text, who_text

if TYPE_CHECKING:
    from sockaccel.agent.presence import Agent, DockerState
    from sockaccel.inspect.status import Status

_INACTIVE, _UNKNOWN = 3, 4


@click.command("status", short_help="Is it on, where, for whom, is it working.")
@output_option
@click.pass_obj
def command(settings: Settings) -> int:
    """Show what the kernel says. Exit 0: active, 3: inactive, 4: unknown."""
    try:
        result = status.read(settings.pin_dir)
    except SockaccelError as error:
        if settings.debug:
            raise
        show(error)
        sys.exit(_UNKNOWN)
    if settings.json:
        _print_json(result)
    else:
        _print(result, settings)
    return 0 if result.active else _INACTIVE


def _print_json(result: Status) -> None:
    counters = result.counters
    print_json(
        "sockaccel.status/1",
        active=result.active,
        cgroup=result.cgroup,
        scope=result.scope,
        policy=result.policy,
        namespaces=result.namespaces,
        programs=[
            {
                "type": program.type,
                "name": program.name,
                "id": program.id,
                "pinned": program.pinned,
                "attached": program.attached,
            }
            for program in result.programs
        ],
        map={
            "name": "sock_ops_map",
            "id": result.map_id,
            "entries": result.entries,
            "max_entries": result.max_entries,
        },
        counters={
            "connections_paired": counters.connections_paired,
            "connections_unpaired": counters.connections_unpaired,
            "redirected_bytes": counters.redirected_bytes,
            "redirected_messages": counters.redirected_messages,
            "tcp_bytes": counters.tcp_bytes,
            "tcp_messages": counters.tcp_messages,
            "fallbacks": counters.fallbacks,
        },
        learned=[
            {
                "program": each.program,
                "side": each.side.name.lower(),
                "accelerated": each.reason is Reason.NONE,
                "reason": each.reason.label if each.reason else None,
                "connections": each.connections,
            }
            for each in result.learned
        ],
        agent=_agent(result.agent),
        draining=[
            {"map_id": each.map_id, "entries": each.entries, "redirecting": each.redirecting}
            for each in result.draining
        ],
    )


def _agent(agent: Agent | None) -> dict[str, Any]:
    if agent is None:
        return {"running": False, "pid": None}
    # 0: of another pid namespace.
    said = asdict(agent.state) if agent.state else {}
    return {"running": True, "pid": agent.pid or None, **said}


def _print(result: Status, settings: Settings) -> None:
    if result.active:
        who = who_text(result.scope, result.namespaces)
        click.echo(f"active for {who}, cgroup {result.cgroup}, policy {result.policy}")
    elif result.detached:
        click.echo("inactive: the cgroup it was attached to is gone; disable, then enable again")
    elif result.programs:
        click.echo("inactive: an enable was interrupted; disable removes what it has left")
    else:
        click.echo(f"inactive: nothing is pinned in {settings.pin_dir}")
    for each in result.draining:
        how = "still redirected: disable puts them on TCP" if each.redirecting else "on TCP"
        click.echo(f"{each.entries} sockets of an earlier enable are still open, {how}")
    _print_agent(result.agent)
    if not result.active:
        return
    click.echo()
    rows = [
        (each.name, each.type, str(each.id), _yes(each.pinned), _yes(each.attached))
        for each in result.programs
    ]
    click.echo(render_table(("PROGRAM", "TYPE", "ID", "PINNED", "ATTACHED"), rows, {2}))
    counters = result.counters
    click.echo(f"\nsock_ops_map  {result.entries} of {result.max_entries} entries")
    click.echo(
        f"connections   {counters.connections_paired} paired, "
        f"{counters.connections_unpaired} in scope but unpaired"
    )
    click.echo(
        f"redirected    {bytes_text(counters.redirected_bytes)} "
        f"in {counters.redirected_messages} messages"
    )
    # Of connections that are not enrolled nobody sees the messages.
    messages = f" in {counters.tcp_messages} messages" if counters.tcp_messages else ""
    click.echo(f"by TCP        {bytes_text(counters.tcp_bytes)}{messages}")
    if counters.fallbacks:
        click.echo()
        reasons = [(name, str(count)) for name, count in sorted(counters.fallbacks.items())]
        click.echo(render_table(("WHY BY TCP", "COUNT"), reasons, {1}))
    if result.learned:
        click.echo()
        learned = [
            (
                each.program,
                each.side.name.lower(),
                "accelerated" if each.reason is Reason.NONE else each.reason.label,
                str(each.connections),
            )
            for each in result.learned
        ]
        header = ("LEARNED OF", "AS", "VERDICT", "CREDITED CONNECTIONS")
        click.echo(render_table(header, learned, {3}))


def _print_agent(agent: Agent | None) -> None:
    if agent is None:
        return
    state = agent.state
    click.echo(f"\nagent         {f'process {agent.pid}' if agent.pid else 'runs'}")
    if state is None:
        return
    if docker := state.docker:
        click.echo(f"docker        {docker.url}: {_docker_text(docker)}")
    if state.decisions:
        shown = ", ".join(f"{number} {why}" for why, number in state.decisions.items())
        click.echo(f"containers    {shown}")
    for each in state.skipped:
        click.echo(f"left on TCP   {each.container} ({each.id[:SHORT_ID]}): {each.why}")
    if state.open_before:
        plural = "s were" if state.open_before != 1 else " was"
        click.echo(
            f"older         {state.open_before} local connection{plural} open before their "
            "containers came into scope, and stay on TCP"
        )
    if state.trouble:
        click.echo(f"trouble       {state.trouble}")


def _docker_text(docker: DockerState) -> str:
    now = time.time()
    lasted = duration_text(now - docker.since)
    if not docker.connected:
        why = f"{docker.error}; what is in scope stays" if docker.error else "asking"
        return f"away for {lasted}: {why}"
    text = f"connected for {lasted}"
    if docker.reconnects:
        text += f", {docker.reconnects} reconnect{'s' * (docker.reconnects != 1)}"
    if docker.last_resync and docker.resync_s is not None:
        ago = duration_text(now - docker.last_resync)
        text += f", all listed {ago} ago in {docker.resync_s:.2f} s"
    return text


def _yes(value: bool) -> str:
    return "yes" if value else "NO"
