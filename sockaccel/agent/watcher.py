"""The threads that talk to Docker and visit namespaces, so that the agent's loop never waits.

A daemon that hangs keeps a thread here, not the loop. The threads decide nothing: each thing
they find out is reported as one message.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

from sockaccel.errors import DockerError, InputError
from sockaccel.inspect.existing import count_older
from sockaccel.scope.docker import Docker
from sockaccel.scope.netns import Namespace, all_namespaces, look_into, netns_cookie, networks_in

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from sockaccel.scope.docker import Container, Event, Events
    from sockaccel.scope.netns import Network
    from sockaccel.scope.ports import PortSet


@dataclass(frozen=True, slots=True)
class Member:
    """A container with a process.

    cookie: of its network namespace, None when it has exited meanwhile; networks: the
    addresses that are in it.
    """

    container: Container
    cookie: int | None
    networks: frozenset[Network] = frozenset()


@dataclass(frozen=True, slots=True)
class Subscribed:
    """Docker tells from now on what happens. stream: the number of the subscription."""

    stream: int


@dataclass(frozen=True, slots=True)
class Rang:
    """Something happened to a container."""

    stream: int
    event: Event


@dataclass(frozen=True, slots=True)
class Lost:
    """A subscription has ended, or was not to be had."""

    stream: int
    why: str


@dataclass(frozen=True, slots=True)
class Listed:
    """All containers that have a process, by id."""

    members: Mapping[str, Member]


@dataclass(frozen=True, slots=True)
class Inspected:
    """Some containers by id, None for one that has no process any more."""

    members: Mapping[str, Member | None]


@dataclass(frozen=True, slots=True)
class Answered:
    """Docker lives."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Docker did not answer as it should."""

    why: str


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What was found in the namespaces of this host.

    named: those behind the paths that were asked for (None: all); networks: the addresses in
    all but those that the asker knew, by the namespace's cookie.
    """

    paths: Collection[str] | None
    named: tuple[Namespace, ...]
    networks: Mapping[int, frozenset[Network]]


@dataclass(frozen=True, slots=True)
class Counted:
    """Local connections that were open in namespaces before those came into scope."""

    connections: int


@dataclass(frozen=True, slots=True)
class Broken:
    """A thread has met a defect of ours; it does not go on."""

    error: BaseException


Message = (
    Subscribed | Rang | Lost | Listed | Inspected | Answered | Failed | Surveyed | Counted | Broken
)


class EventReader:
    """Subscribes to what happens, one connection after another; each has a number."""

    def __init__(self, docker_host: str | None, report: Callable[[Message], None]) -> None:
        self._docker_host = docker_host
        self._report = report
        self._lock = threading.Lock()
        self._events: Events | None = None
        self.stream = 0
        """The number of the latest subscription: what is reported of others is old."""

    def subscribe(self) -> None:
        """Begin a subscription; any other ends. Its fate is reported."""
        self.close()
        thread = threading.Thread(
            target=self._read, args=(self.stream,), name="docker-events", daemon=True
        )
        thread.start()

    def close(self) -> None:
        """End the subscription; nothing more is to be heard of it.

        A daemon that has not even answered keeps its thread until it answers or ends.
        """
        with self._lock:
            self.stream += 1
            if self._events:
                self._events.close()
                self._events = None

    def _read(self, stream: int) -> None:
        try:
            with Docker(self._docker_host) as docker:
                events = docker.events()
            with self._lock:
                if stream != self.stream:
                    events.close()
                    return
                self._events = events
            self._report(Subscribed(stream))
            for event in events:
                self._report(Rang(stream, event))
            self._report(Lost(stream, f"lost Docker at '{events.url}': it closed the connection"))
        except DockerError as error:
            self._report(Lost(stream, str(error)))
        except BaseException as error:  # the loop must learn of a defect
            self._report(Broken(error))


class Worker:
    """Does what takes time, one thing after another, in a thread of its own."""

    def __init__(self, name: str, report: Callable[[Message], None]) -> None:
        self._report = report
        self._jobs: SimpleQueue[Callable[[], Message]] = SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def do(self, job: Callable[[], Message]) -> None:
        """Do something later; what it returns is reported."""
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                self._report(job())
            except DockerError as error:
                self._report(Failed(str(error)))
            except BaseException as error:  # the loop must learn of a defect
                self._report(Broken(error))
                return


class Inspector(Worker):
    """Asks Docker. Each question is answered by one report, Failed among them."""

    def __init__(self, docker_host: str | None, report: Callable[[Message], None]) -> None:
        super().__init__("docker-inspector", report)
        self._docker = Docker(docker_host)

    def list_all(self) -> None:
        """Find all containers: Listed."""
        self.do(lambda: Listed({each.id: visit(each) for each in self._docker.containers()}))

    def inspect(self, ids: Collection[str]) -> None:
        """Find out about some containers: Inspected."""
        wanted = frozenset(ids)
        self.do(lambda: Inspected({each: self._inspect(each) for each in wanted}))

    def ping(self) -> None:
        """Find out whether Docker lives: Answered."""
        self.do(self._ping)

    def _inspect(self, container_id: str) -> Member | None:
        container = self._docker.container(container_id)
        return visit(container) if container else None

    def _ping(self) -> Message:
        self._docker.ping()
        return Answered()


class Surveyor(Worker):
    """Looks at the namespaces of this host; beside Inspector, because it takes longer."""

    def __init__(self, report: Callable[[Message], None]) -> None:
        super().__init__("surveyor", report)

    def survey(self, paths: Iterable[str] | None, known: Collection[int]) -> None:
        """Find the namespaces behind these paths (None: all), and local networks: Surveyed.

        known: cookies of namespaces whose addresses are known.
        """
        named = None if paths is None else frozenset(paths)
        skipped = frozenset(known)
        self.do(lambda: survey(named, skipped))

    def count(
        self, added: Collection[Namespace], others: Collection[Namespace], ports: PortSet | None
    ) -> None:
        """Count the local connections that the added namespaces have: Counted."""
        self.do(lambda: Counted(count_older(added, others, ports)))


def visit(container: Container) -> Member:
    """Return a container with what its namespace says."""
    try:
        cookie, networks = look_into(container.netns_path)
    except InputError:  # it has exited meanwhile
        return Member(container, None)
    return Member(container, cookie, networks)


def survey(paths: Collection[str] | None, known: Collection[int] = ()) -> Surveyed:
    """Return the namespaces behind these paths (None: all), and the addresses of all but the known.

    A path that leads nowhere is left out.
    """
    everywhere = all_namespaces()
    if paths is None:
        named = everywhere
    else:
        named = []
        for path in sorted(paths):
            with suppress(InputError):
                named.append(Namespace(netns_cookie(path), path))
    networks: dict[int, frozenset[Network]] = {}
    for each in everywhere:
        if each.cookie not in known:
            with suppress(InputError):
                networks[each.cookie] = frozenset(networks_in(each.path))
    return Surveyed(paths, tuple(named), networks)
