"""Keeps a picture of the running containers up to date, as long as Docker lets it.

Subscribe, then list all, then take each event as a doorbell: it says which container to look
at again, not what has become of it. Whatever goes wrong ends the subscription, and it begins
again: after a while, from the start. Meanwhile the last picture stays.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from sockaccel.agent.backoff import Backoff
from sockaccel.agent.debounce import Debounce
from sockaccel.agent.presence import DockerState
from sockaccel.agent.watcher import (
    Answered,
    EventReader,
    Failed,
    Inspected,
    Inspector,
    Listed,
    Lost,
    Rang,
    Subscribed,
)
from sockaccel.scope.docker import docker_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from sockaccel.agent.debounce import Window
    from sockaccel.agent.loop import Loop
    from sockaccel.agent.watcher import Member, Message
    from sockaccel.scope.docker import Event

log = logging.getLogger("sockaccel.agent")

PING_S = 10.0
"""How often to ask a daemon that says nothing whether it lives."""
RESYNC_S = 300.0
"""How often to list all containers although no event was missed as far as is known."""
ANSWER_S = 15.0
"""How long a subscription may take; each of its requests gives up earlier."""


class Link:
    """The agent's link to Docker, driven by the loop."""

    def __init__(
        self,
        loop: Loop[Message],
        docker_host: str | None,
        window: Window,
        changed: Callable[[], None],
    ) -> None:
        """Call `changed` back whenever `members` or the state of the link is another."""
        self._loop = loop
        self._changed = changed
        self._reader = EventReader(docker_host, loop.post)
        self._inspector = Inspector(docker_host, loop.post)
        self._backoff = Backoff(first_s=0.1, most_s=5.0, lasted_s=30.0)
        self._debounce = Debounce(window)
        self._began = 0.0
        self._asked = 0.0
        self._subscribed = False
        self._was_connected = False
        self._dirty: set[str] = set()
        self._list_wanted = False
        self._ping_wanted = False
        # The subscription under which the inspector is at work; None: it is not.
        self._busy_for: int | None = None
        # At whom it looks; None: all.
        self._looking: frozenset[str] | None = frozenset()

        self.url = docker_url(docker_host)
        """The socket that is asked."""
        self.members: dict[str, Member] | None = None
        """The containers that have a process, by id; None: never seen."""
        self.connected = False
        self.error: str | None = None
        """Why it is not connected; None also before the first attempt has ended."""
        self.since = time.time()
        """Since when it is connected, or not; seconds since the epoch."""
        self.reconnects = 0
        self.last_resync: float | None = None
        """When all containers were listed; seconds since the epoch."""
        self.resync_s: float | None = None
        """How many seconds that took."""

    def start(self) -> None:
        """Subscribe."""
        self._began = self._loop.clock()
        self._reader.subscribe()
        self._loop.after(ANSWER_S, self._give_up)

    def close(self) -> None:
        """Let go."""
        self._reader.close()

    def handle(self, message: Message) -> None:
        """Take note of what the threads report."""
        match message:
            case Subscribed(stream) if stream == self._reader.stream:
                self._loop.cancel(self._give_up)
                self._subscribed = self._list_wanted = True
            case Rang(stream, event) if stream == self._reader.stream:
                log.debug("%s", event)
                if self._concerns(event):
                    self._dirty.add(event.container)
                    self._debounce.ring(self._loop.clock())
            case Lost(stream, why) if stream == self._reader.stream:
                self._lose(why)
            case Listed() | Inspected() | Answered() | Failed():
                current = self._busy_for == self._reader.stream
                self._busy_for, self._looking = None, frozenset()
                if current:
                    self._take(message)
        self._work()

    def state(self) -> DockerState:
        """Return what `status` shows of it."""
        return DockerState(
            url=self.url,
            connected=self.connected,
            since=self.since,
            error=self.error,
            reconnects=self.reconnects,
            last_resync=self.last_resync,
            resync_s=self.resync_s,
        )

    def _take(self, message: Listed | Inspected | Answered | Failed) -> None:
        match message:
            case Failed(why):
                self._lose(why)
                return
            case Listed(members):
                self.members = dict(members)
                self.last_resync = time.time()
                self.resync_s = self._loop.clock() - self._asked
                log.debug("listed %d containers in %.3f s", len(members), self.resync_s)
                self._loop.after(RESYNC_S, self._resync)
                self._connect()
                self._changed()
            case Inspected(members) if self.members is not None:
                for container_id, member in members.items():
                    self.members.pop(container_id, None)
                    if member:
                        self.members[container_id] = member
                self._changed()
        self._loop.after(PING_S, self._ping)

    def _concerns(self, event: Event) -> bool:
        """Return whether an event is about a container that runs, or may.

        A container joins its networks before it starts; who asks Docker about it then waits
        until it has started, and all others with it. Its start is an event of its own.
        """
        if event.network is None or self._looking is None:
            return True
        return event.container in {*self._dirty, *self._looking, *(self.members or ())}

    def _work(self) -> None:
        """Give the inspector something to do, if it has nothing; the most urgent first."""
        if not self._subscribed or self._busy_for is not None:
            return
        if self._list_wanted:
            self._list_wanted = False
            self._dirty.clear()
            self._debounce.forget()
            self._looking = None
            self._asked = self._loop.clock()
            self._inspector.list_all()
        elif self._debounce.take(self._loop.clock()):
            self._looking = frozenset(self._dirty)
            self._inspector.inspect(self._looking)
            self._dirty.clear()
        elif self._ping_wanted:
            self._inspector.ping()
        else:
            if self._debounce.due_at is not None:
                self._loop.at(self._debounce.due_at, self._work)
            return
        self._ping_wanted = False
        self._busy_for = self._reader.stream

    def _connect(self) -> None:
        if self.connected:
            return
        self.reconnects += self._was_connected
        self._was_connected = True
        self.connected, self.error, self.since = True, None, time.time()

    def _lose(self, why: str) -> None:
        log.debug("lost: %s", why)
        self._reader.close()
        self._subscribed = self._list_wanted = self._ping_wanted = False
        self._loop.cancel(self._give_up, self._ping, self._resync, self._work)
        self._loop.after(self._backoff.after(self._loop.clock() - self._began), self.start)
        if self.connected or why != self.error:
            if self.connected or self.error is None:
                self.since = time.time()
            self.connected, self.error = False, why
            self._changed()

    def _give_up(self) -> None:
        self._lose(f"Docker does not answer within {ANSWER_S:g} s")

    def _ping(self) -> None:
        self._ping_wanted = True
        self._work()

    def _resync(self) -> None:
        self._list_wanted = True
        self._work()
