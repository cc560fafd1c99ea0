"""The containers of this host, from the Docker daemon. The only module that imports docker."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, Self, cast

from sockaccel.errors import DockerError, InputError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docker import APIClient

_SOCKETS = ("/run/docker.sock", "/var/run/docker.sock")
_SCHEME = "unix://"
_LOOK = "systemctl status docker"
_TIMEOUT_S = 10  # for each request; a healthy daemon answers in milliseconds
# An answer that is not what a daemon says. requests raises OSErrors, some of which are ValueErrors.
_NONSENSE = (ValueError, LookupError, TypeError, AttributeError)
# What can change a container's namespace, name, labels or networks. Health checks, the most
# frequent events by far, are not among them.
_FILTERS = {
    # Else the removal of a volume, whose name may be a container's, is taken for that of one.
    "type": ["container", "network"],
    "event": [
        *("start", "die", "destroy", "pause", "unpause", "rename", "update"),
        *("connect", "disconnect"),
    ],
}


@dataclass(frozen=True, slots=True)
class Container:
    """A container with a process.

    id: all 64 digits; pid: its first process as seen from here; network_mode: as Docker has
    it ("bridge", "host", "container:ID", a network's name, …); networks: the names of those
    that it is attached to, none where it shares another's namespace.
    """

    id: str
    name: str
    pid: int
    network_mode: str
    labels: Mapping[str, str] = field(default_factory=dict)
    networks: frozenset[str] = frozenset()
    paused: bool = False

    @property
    def netns_path(self) -> str:
        """The file to enter the container's network namespace by."""
        return f"/proc/{self.pid}/ns/net"


def docker_url(docker_host: str | None = None) -> str:
    """Return the address of the daemon to ask: `docker_host`, else DOCKER_HOST, else the usual.

    Raises InputError for anything but a socket of this host.
    """
    url = docker_host or os.environ.get("DOCKER_HOST")
    if not url:
        return _SCHEME + next((path for path in _SOCKETS if Path(path).exists()), _SOCKETS[0])
    if not url.startswith(f"{_SCHEME}/"):
        local = url.startswith((_SCHEME, "/"))
        raise InputError(
            f"cannot use Docker host '{url}': "
            + (
                "it does not read unix:///path"
                if local
                else "it is not a Unix socket, and only containers of this host can be accelerated"
            ),
            f"--docker-host {_SCHEME}{_SOCKETS[0]}",
        )
    return url


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a container.

    action: as Docker has it ("start", "die", …, for networks "connect" and "disconnect");
    container: its id; name: of the container, or of the network; network: the network's id,
    None for what happened to the container itself; time_ns: since the epoch.
    """

    action: str
    container: str
    name: str
    network: str | None
    time_ns: int


class Events:
    """What happens from now on. Iterate to wait for it; close() from anywhere ends the wait.

    The end of the iteration means that the connection is lost: Docker never ends it.
    Raises DockerError where the daemon says what is no event.
    """

    def __init__(self, docker: Docker) -> None:
        self._docker = docker
        self.url = docker.url
        with docker.asked() as client:
            # Docker answers a moment before it listens to itself; what falls in between is
            # told again because of `since`.
            self._stream = client.events(since=int(time.time()), filters=_FILTERS)

    def __iter__(self) -> Iterator[Event]:
        rest = b""
        with self._docker.asked():
            for chunk in cast("Iterator[bytes]", self._stream):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield _event(json.loads(line))

    def close(self) -> None:
        """End the iteration, wherever it is, and the connection."""
        # Closed twice, or by the daemon at this moment.
        with suppress(OSError, AttributeError):
            self._stream.close()
        self._docker.close()


class Docker:
    """The Docker daemon of this host, by its socket: connected when it is first asked.

    Every method raises DockerError when the daemon does not answer as one does, after at most
    ten seconds for each request; to make one raises InputError as docker_url() does. An object
    is for one thread at a time.
    """

    def __init__(self, docker_host: str | None = None) -> None:
        self.url = docker_url(docker_host)
        self._client: APIClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; the next request makes another."""
        if self._client:
            self._client.close()
            self._client = None

    def ping(self) -> None:
        """Find out whether the daemon answers."""
        with self.asked() as client:
            client.ping()

    def containers(self) -> list[Container]:
        """Return the containers that have a process now, by name."""
        with self.asked() as client:
            summaries = client.containers()
        found = (self.container(summary["Id"]) for summary in summaries)
        return sorted(
            (each for each in found if each is not None), key=lambda container: container.name
        )

    def container(self, container_id: str) -> Container | None:
        """Return a container, None when it is gone or has no process now.

        None also for one that the daemon itself cannot describe, or that hangs (its lock is held
        while Docker waits for its runtime): it must not keep the others from being found.
        """
        import docker  # noqa: PLC0415
        from requests import ReadTimeout  # noqa: PLC0415  # docker does not wrap it

        with self.asked() as client:
            try:
                detail = client.inspect_container(container_id)
                return _container(detail) if detail["State"]["Pid"] else None
            except (docker.errors.APIError, *_NONSENSE):
                return None
            except ReadTimeout:
                client.ping()  # fails where it is the daemon that hangs
                return None

    def events(self) -> Events:
        """Return what happens from now on, on a connection of its own."""
        return Events(Docker(self.url))

    @contextmanager
    def asked(self) -> Iterator[APIClient]:
        """Turn whatever goes wrong in the block into DockerError; the connection is closed then."""
        import docker  # noqa: PLC0415  # most commands do without, and it takes 0.1 s

        try:
            if self._client is None:
                _check_socket(self.url)
                # The address is always given: on its own, docker follows contexts to other hosts.
                self._client = docker.APIClient(base_url=self.url, timeout=_TIMEOUT_S)
            yield self._client
        except DockerError:
            raise
        except (docker.errors.DockerException, OSError, *_NONSENSE) as error:
            self.close()
            _release(error)
            raise _cannot_reach(self.url, _why(error)) from error


def _release(error: BaseException | None) -> None:
    """Close at once, not when garbage is collected, the socket that docker-py could not connect."""
    while error:
        clear_frames(error.__traceback__)
        error = error.__context__


def snapshot(docker_host: str | None = None) -> list[Container]:
    """Return the containers that have a process now, by name.

    Raises InputError as docker_url() does, DockerError when no daemon answers.
    """
    with Docker(docker_host) as docker:
        return docker.containers()


def _event(raw: Mapping[str, Any]) -> Event:
    actor = raw["Actor"]
    attributes = actor.get("Attributes") or {}
    network = actor["ID"] if raw["Type"] == "network" else None
    return Event(
        action=raw["Action"],
        container=attributes.get("container", "") if network else actor["ID"],
        name=attributes.get("name", ""),
        network=network,
        time_ns=raw["timeNano"],
    )


def _container(detail: Mapping[str, Any]) -> Container:
    return Container(
        id=detail["Id"],
        name=detail["Name"].removeprefix("/"),
        pid=detail["State"]["Pid"],
        network_mode=detail["HostConfig"]["NetworkMode"],
        labels=detail["Config"].get("Labels") or {},
        networks=frozenset(detail["NetworkSettings"]["Networks"] or ()),
        paused=detail["State"]["Paused"],
    )


def _check_socket(url: str) -> None:
    """Connect once by hand: docker wraps the error in so much that its number is lost."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_TIMEOUT_S)
        try:
            probe.connect(url.removeprefix(_SCHEME))
        except TimeoutError as error:
            raise _cannot_reach(url, "it does not accept connections") from error
        except OSError as error:
            # Only where nobody listens is there anything to start.
            start = error.errno in (errno.ENOENT, errno.ECONNREFUSED)
            hint = "systemctl start docker" if start else _LOOK
            raise _cannot_reach(url, reason(error), hint) from error


def _why(error: Exception) -> str:
    if isinstance(error, _NONSENSE) and not isinstance(error, OSError):
        return f"its answer makes no sense ({type(error).__name__}: {error})"
    # docker wraps the timeout of requests, which wraps that of urllib3.
    return f"timed out after {_TIMEOUT_S} s" if "timed out" in str(error) else str(error)


def _cannot_reach(url: str, why: str, hint: str = _LOOK) -> DockerError:
    # The hint is for every command; `enable` has another way to go on, and says so itself.
    return DockerError(f"cannot reach Docker at '{url}': {why}", hint)
