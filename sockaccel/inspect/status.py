"""Is it on, where, for whom, is it working."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sockaccel.agent import presence
from sockaccel.datapath import libbpf, pins, state
from sockaccel.datapath.layout import ConfigFlags, ConnRecord, Counter, Reason, Side, Trait
from sockaccel.datapath.programs import verdict
from sockaccel.datapath.state import Datapath, Loaded, Program
from sockaccel.inspect.connections import tcp_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from sockaccel.agent.presence import Agent


@dataclass
class Counters:
    """Closed and live connections since `enable`. Sizes in bytes."""

    connections_paired: int = 0
    connections_unpaired: int = 0
    redirected_bytes: int = 0
    redirected_messages: int = 0
    tcp_bytes: int = 0
    tcp_messages: int = 0
    fallbacks: dict[str, int] = field(default_factory=dict)
    """Connections for the reasons that keep a connection on TCP, messages for the others."""


@dataclass(frozen=True)
class Judgement:
    """What was learned of a program that is not known by name."""

    program: str
    side: Side
    reason: Reason
    """Why its connections stay on TCP; NONE: they are accelerated."""
    connections: int
    """Watched, and only recv() seen that would not have waited."""


@dataclass(frozen=True)
class Status:
    """What `status` shows."""

    active: bool
    detached: bool = False
    """The cgroup that sock_ops was attached to has been removed."""
    cgroup: str = ""
    scope: str = ""
    policy: str = ""
    namespaces: int = 0
    programs: tuple[Program, ...] = ()
    map_id: int | None = None
    entries: int = 0
    max_entries: int = 0
    counters: Counters = field(default_factory=Counters)
    draining: tuple[Loaded, ...] = ()
    learned: tuple[Judgement, ...] = ()
    agent: Agent | None = None
    """The agent that keeps the scope, if one runs."""


def total(closed: Sequence[int], live: Iterable[ConnRecord]) -> Counters:
    """Add what live connections have moved to the sums over closed ones."""
    counters = Counters(
        connections_paired=closed[Counter.PAIRED],
        connections_unpaired=closed[Counter.UNPAIRED],
        redirected_bytes=closed[Counter.REDIRECTED_BYTES],
        redirected_messages=closed[Counter.REDIRECTED_MESSAGES],
        tcp_bytes=closed[Counter.TCP_BYTES],
        tcp_messages=closed[Counter.TCP_MESSAGES],
    )
    reasons = {reason: closed[Counter.REASON + reason] for reason in Reason if reason}
    for record in live:
        counters.redirected_bytes += record.conn.redirected_bytes
        counters.redirected_messages += record.conn.redirected_messages
        counters.tcp_bytes += tcp_bytes(record)
        counters.tcp_messages += record.conn.tcp_messages
        # The reasons before are counted for connections, when they are made.
        for reason in Reason:
            if reason.per_message:
                reasons[reason] += record.conn.reasons[reason - Reason.BACK_PRESSURE]
    counters.fallbacks = {reason.label: count for reason, count in reasons.items() if count}
    return counters


def read(pin_dir: Path) -> Status:
    """Look at the kernel.

    Raises:
        NotPermittedError: this user may not look.
        StateError: what is pinned cannot be read.
        HostError: what is pinned cannot be seen from here.

    """
    datapath = Datapath.open(pin_dir)
    agent = presence.find(pin_dir)
    if datapath is None:
        pins.check_visible(pin_dir)
        return Status(active=False, draining=_draining(pin_dir), agent=agent)
    with datapath:
        if not datapath.active:
            return Status(
                active=False,
                detached=datapath.has(pins.LINK) and not datapath.attached,
                programs=tuple(datapath.programs()),
                draining=_draining(pin_dir),
                agent=agent,
            )
        options = datapath.options
        info = libbpf.map_info(datapath.fd("sock_ops_map"))
        return Status(
            active=True,
            cgroup=options.cgroup,
            scope=options.scope,
            policy=options.policy,
            namespaces=len(datapath.namespaces()),
            programs=tuple(datapath.programs()),
            map_id=info.id,
            entries=len(datapath.entries()),
            max_entries=info.max_entries,
            counters=total(datapath.counters(), datapath.records()),
            draining=_draining(pin_dir),
            learned=tuple(_learned(datapath)),
            agent=agent,
        )


def _learned(datapath: Datapath) -> Iterator[Judgement]:
    fionread = bool(datapath.config.flags & ConfigFlags.FIONREAD)
    for key, program in datapath.learned():
        traits = program.traits
        if traits & Trait.RECV:  # as judge() in bpf/policy.h
            traits |= Trait.FIONREAD
        reason = verdict(traits, fionread=fionread)
        yield Judgement(os.fsdecode(key.name), Side(key.side), reason, program.connections)


def _draining(pin_dir: Path) -> tuple[Loaded, ...]:
    try:
        return tuple(state.draining(pin_dir))
    except PermissionError:  # without CAP_SYS_ADMIN nobody can tell
        return ()
