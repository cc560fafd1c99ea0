"""The agent: enables, then keeps who is in scope in step with Docker until it is told to end.

State lives in the pinned maps. An agent that is killed and started again computes the same
scope and finds nothing to change, so no live connection notices.
"""

from __future__ import annotations

import logging
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sockaccel.agent import report
from sockaccel.agent.debounce import Debounce, Window
from sockaccel.agent.link import RESYNC_S, Link
from sockaccel.agent.loop import Loop
from sockaccel.agent.presence import AgentState
from sockaccel.agent.watcher import Broken, Counted, Surveyed, Surveyor
from sockaccel.datapath import lifecycle
from sockaccel.datapath.lifecycle import Scope
from sockaccel.datapath.state import Datapath
from sockaccel.errors import DatapathError, InputError, SockaccelError, StateError, reason
from sockaccel.inspect.existing import existing_listeners
from sockaccel.render.units import who_text
from sockaccel.scope import netlink
from sockaccel.scope.netns import (
    LOOPBACK,
    Namespace,
    all_namespaces,
    netns_cookie,
    networks_in,
)
from sockaccel.scope.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from socket import socket

    from sockaccel.agent.notify import Notifier
    from sockaccel.agent.presence import Presence
    from sockaccel.agent.watcher import Member, Message
    from sockaccel.datapath.layout import ProgramKey
    from sockaccel.datapath.lifecycle import Enabled
    from sockaccel.datapath.options import Options
    from sockaccel.scope.docker import Container
    from sockaccel.scope.netns import Network
    from sockaccel.scope.plan import Entry
    from sockaccel.scope.selection import Decision, Override

log = logging.getLogger("sockaccel.agent")

# What compiling, loading and the trial may take together on a slow machine.
_START_S = 120.0
# How soon `disable` by somebody else is noticed.
_GUARD_S = 1.0
# How soon to try again when somebody else holds the lock of the pin directory.
_LOCKED_S = 0.02
# A container that starts changes the addresses of its host for many seconds (IPv6 asks whether they
# are taken), and they decide nothing but the name of a reason.
_ADDRESSES = Window(1.0, 10.0)


@dataclass(frozen=True)
class Start:
    """How the agent came to its datapath."""

    enabled: Enabled | None = None
    """What it enabled; None: that was done before."""
    adjusted: tuple[str, ...] = ()
    """Which options it found to be others, and gave what was enabled its own."""


class Agent:
    """The agent of a pin directory, from begin() to the end of run()."""

    def __init__(
        self,
        pin_dir: Path,
        options: Options,
        presence: Presence,
        notifier: Notifier,
        *,
        window: Window,
        reload: Callable[[], Options],
    ) -> None:
        """Prepare; nothing is done yet. `reload` returns the options as they are configured now."""
        self._pin_dir = pin_dir
        self._options = options
        self._presence = presence
        self._notifier = notifier
        self._window = window
        self._reload_options = reload
        self._loop: Loop[Message] = Loop()
        self._link: Link | None = None
        self._host = netns_cookie()
        self._named = _find_named(options)
        self._identity = 0
        self._addresses = Debounce(_ADDRESSES)

        # Addresses: of the host, of namespaces that are no container's, and those in the map.
        self._here: set[Network] = set()
        self._elsewhere: dict[int, frozenset[Network]] | None = None
        self._noted: frozenset[Network] | None = None
        self._decisions: dict[str, Decision] | None = None
        self._warnings: set[str] = set()
        self._trouble: str | None = None
        self._connected = False
        self._ready = False
        self._stopped = False
        self._namespaces = 0
        self._open_before = 0
        self._started = time.time()

    # --- The beginning and the end ------------------------------------------------------------

    def begin(self, *, force: bool) -> Start:
        """Enable, or take over what is enabled.

        Raises:
            SockaccelError: any of errors.py.

        """
        self._notifier.extend_timeout(_START_S)
        if self._is_enabled():
            adjusted = lifecycle.adjust(self._pin_dir, self._options, _listeners)
            start = Start(adjusted=tuple(adjusted))
        else:
            scope = Scope(self._selection().wanted)
            start = Start(
                lifecycle.enable(self._pin_dir, self._options, scope, _listeners, force=force)
            )
        self._identity = self._pin_dir.stat().st_ino
        return start

    def run(self) -> bool:
        """Follow Docker and the host's addresses; return False if it was disabled meanwhile.

        SIGTERM and SIGINT end it, SIGHUP reads the configuration again.
        """
        with self._loop as loop, netlink.changes_of_addresses() as addresses:
            loop.on_signal(signal.SIGTERM, self._stop)
            loop.on_signal(signal.SIGINT, self._stop)
            loop.on_signal(signal.SIGHUP, self._reload)
            loop.watch(addresses, lambda: self._addresses_changed(addresses))
            self._surveyor = Surveyor(loop.post)
            self._guard()
            if self._notifier.watchdog_s:
                self._keep_alive()
            self._here = networks_in()
            self._apply()
            if self._options.scope == "docker":
                docker_host = self._options.docker_host
                self._link = Link(loop, docker_host, self._window, self._docker_changed)
                self._link.start()
            else:
                self._survey()
                self._be_ready()
            try:
                loop.run(self._handle)
            finally:
                self._notifier.stopping()
                if self._link:
                    self._link.close()
        return self._stopped

    def _stop(self) -> None:
        self._stopped = True
        self._loop.stop()

    def _is_enabled(self) -> bool:
        datapath = Datapath.open(self._pin_dir)
        if datapath is None:
            return False
        with datapath:
            return datapath.complete and datapath.active

    def _guard(self) -> None:
        """End when somebody has disabled it, even if it was enabled anew."""
        if self._is_ours():
            self._loop.after(_GUARD_S, self._guard)
        else:
            log.warning("disabled by somebody else: the agent ends")
            self._loop.stop()

    def _is_ours(self) -> bool:
        try:
            return self._pin_dir.stat().st_ino == self._identity
        except OSError:
            return False

    def _keep_alive(self) -> None:
        self._notifier.alive()
        # Half of what it allows, as sd_watchdog_enabled(3) recommends.
        self._loop.after((self._notifier.watchdog_s or 0.0) / 2, self._keep_alive)

    # --- What comes in ------------------------------------------------------------------------

    def _handle(self, message: Message) -> None:
        match message:
            case Broken(error):
                raise error
            case Surveyed(paths, named, networks):
                self._elsewhere = dict(networks)
                if paths == self._paths():  # else the options have changed meanwhile
                    self._note_named(named)
                self._apply()
            case Counted(connections):
                if connections:
                    self._open_before += connections
                    self._tell()
            case _ if self._link:
                self._link.handle(message)

    def _docker_changed(self) -> None:
        if self._link and self._link.connected:
            self._apply()
        else:
            self._note_docker()

    def _note_docker(self) -> None:
        """Take note of whether Docker is there, once its containers are dealt with."""
        link = self._link
        if link and (link.connected or link.error):
            if link.connected != self._connected or not self._ready:
                self._connected = link.connected
                self._say_docker(link)
                self._survey()
            self._be_ready()
        self._tell()

    def _addresses_changed(self, addresses: socket) -> None:
        netlink.drain(addresses)
        self._addresses.ring(self._loop.clock())
        self._look_here()

    def _look_here(self) -> None:
        if self._addresses.take(self._loop.clock()):
            here = networks_in()
            if here != self._here:
                self._here = here
                self._apply()
        elif (due := self._addresses.due_at) is not None:
            self._loop.at(due, self._look_here)

    def _reload(self) -> None:
        if not self._is_ours():
            self._guard()  # what is enabled there now has options of its own
            return
        self._notifier.reloading()
        try:
            options = self._reload_options()
            if options.docker_host != self._options.docker_host:
                raise InputError(
                    f"cannot go over to Docker host '{options.docker_host}' while running",
                    "restart the agent",
                )
            named = _find_named(options)
            differences = lifecycle.adjust(self._pin_dir, options, _listeners)
        except SockaccelError as error:
            log.warning("not reloaded, everything stays as it was: %s (%s)", error, error.hint)
        except OSError as error:
            log.warning("not reloaded: %s", reason(error))
        else:
            self._options, self._named = options, named
            for each in differences or ["nothing is different"]:
                log.info("reloaded: %s", each)
            self._apply()
        self._notifier.ready(self._status())

    # --- What is to be ------------------------------------------------------------------------

    def _apply(self) -> None:
        """Bring what is in scope up to date."""
        if not self._is_ours():
            self._guard()
            return
        selection = self._selection()
        decisions: list[Decision] = []
        warnings: list[str] = []

        def wanted(
            actual: Mapping[int, Entry], overrides: Mapping[str, Override]
        ) -> Mapping[int, Entry]:
            found, said = selection.decide(overrides)
            decisions.extend(found)
            warnings.extend(said)
            return selection.wanted(actual, overrides)

        networks = self._networks()
        fresh = networks if networks != self._noted else None
        try:
            updated = lifecycle.update_scope(self._pin_dir, Scope(wanted, fresh), wait=False)
        except BlockingIOError:
            self._loop.after(_LOCKED_S, self._apply)
            return
        except (DatapathError, StateError) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.warning("%s", error)
            self._note_docker()
            return
        self._trouble = None
        self._noted = networks
        self._namespaces = updated.namespaces
        if updated.changes.added:
            self._count(updated.changes.added)
        self._say_decisions({each.container.id: each for each in decisions}, set(warnings))
        self._note_docker()

    def _selection(self) -> Selection:
        members: list[tuple[int | None, Container]] | None = []
        if self._options.scope == "docker":
            found = self._link.members if self._link else None
            members = None if found is None else [(m.cookie, m.container) for m in found.values()]
        cookies = frozenset(each.cookie for each in self._named)
        return Selection(
            None if members is None else tuple(members),
            self._options.selection,
            self._host,
            cookies,
        )

    def _networks(self) -> frozenset[Network] | None:
        """Return the addresses that a peer on this host can have; None: not known yet."""
        if self._elsewhere is None:
            return None
        for each in self._members():
            # Surveyed before Docker told that it runs: from now on its addresses end with it.
            self._elsewhere.pop(each.cookie or 0, None)
        containers = (each.networks for each in self._members())
        return LOOPBACK.union(self._here, *self._elsewhere.values(), *containers)

    def _members(self) -> Iterable[Member]:
        return (self._link.members or {}).values() if self._link else ()

    def _paths(self) -> frozenset[str] | None:
        return None if self._options.scope == "all" else frozenset(self._options.netns)

    def _survey(self) -> None:
        known = {each.cookie for each in self._members() if each.cookie is not None}
        self._surveyor.survey(self._paths(), {self._host, *known})
        self._loop.after(RESYNC_S, self._survey)

    def _note_named(self, named: tuple[Namespace, ...]) -> None:
        if self._options.scope == "docker":
            before = {each.path: each.cookie for each in self._named}
            after = {each.path: each.cookie for each in named}
            for path in before.keys() - after.keys():
                log.info("network namespace '%s' is gone", path)
            for path, cookie in after.items():
                if before.get(path) != cookie:
                    log.info("network namespace '%s' is there again", path)
        self._named = named

    def _count(self, added: set[int]) -> None:
        namespaces = {each.cookie: each for each in self._named}
        for each in self._members():
            if each.cookie is not None:
                path = each.container.netns_path
                namespaces.setdefault(each.cookie, Namespace(each.cookie, path))
        self._surveyor.count(
            [each for cookie, each in namespaces.items() if cookie in added],
            [each for cookie, each in namespaces.items() if cookie not in added],
            self._options.port_set,
        )

    # --- What is said -------------------------------------------------------------------------

    def _say_decisions(self, decisions: dict[str, Decision], warnings: set[str]) -> None:
        if self._link is None or self._link.members is None:
            return
        for line in report.news(self._decisions, decisions):
            log.info("%s", line)
        for line in sorted(warnings - self._warnings):
            log.warning("%s", line)
        self._decisions, self._warnings = decisions, warnings

    def _say_docker(self, link: Link) -> None:
        if link.connected:
            again = "connected again" if link.reconnects else "connected"
            who = report.containers_text((self._decisions or {}).values())
            log.info("%s to Docker at '%s': %s", again, link.url, who)
        else:
            log.warning("%s; it is tried again, and what is in scope stays", link.error)

    def _status(self) -> str:
        who = who_text(self._options.scope, self._namespaces)
        link = self._link
        if link is None:
            return f"accelerating {who}"
        if link.connected:
            chosen = report.containers_text((self._decisions or {}).values())
            return f"accelerating {who}; {chosen}"
        return f"accelerating {who}; {link.error or 'asking Docker'}"

    def _tell(self) -> None:
        decisions = (self._decisions or {}).values()
        self._presence.tell(
            AgentState(
                started=self._started,
                docker=self._link.state() if self._link else None,
                decisions=report.counts(decisions),
                skipped=report.skipped(decisions),
                trouble=self._trouble,
                open_before=self._open_before,
            )
        )
        if self._ready:
            self._notifier.status(self._status())

    def _be_ready(self) -> None:
        """Tell the service manager, once: Docker has answered, or it is known that it does not."""
        if not self._ready:
            self._ready = True
            self._notifier.ready(self._status())


def _find_named(options: Options) -> tuple[Namespace, ...]:
    """Return the namespaces that are in scope whatever Docker says.

    Raises InputError when one of them is not there.
    """
    if options.scope == "all":
        return tuple(all_namespaces())
    return tuple(Namespace(netns_cookie(path), path) for path in options.netns)


def _listeners() -> Mapping[int, ProgramKey]:
    # Of all: the containers that come into scope later may have listened since before.
    return existing_listeners(all_namespaces())
