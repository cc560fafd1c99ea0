"""The containers of this host, from the Docker daemon. The only module that imports docker."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sockaccel.errors import DockerError, InputError, reason

if TYPE_CHECKING:
    from collections.abc import Mapping

_SOCKETS = ("/run/docker.sock", "/var/run/docker.sock")
_SCHEME = "unix://"
_TIMEOUT_S = 10  # for each request; a healthy daemon answers in milliseconds


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


def snapshot(docker_host: str | None = None) -> list[Container]:
    """Return the containers that have a process now, by name.

    Raises InputError as docker_url() does, DockerError when no daemon answers.
    """
    url = docker_url(docker_host)
    _check_socket(url)
    import docker  # noqa: PLC0415  # most commands do without, and it takes 0.1 s

    found = []
    try:
        client = docker.APIClient(base_url=url, timeout=_TIMEOUT_S)
        try:
            for summary in client.containers():
                try:
                    detail = client.inspect_container(summary["Id"])
                except docker.errors.NotFound:
                    continue  # gone since the list was made
                if detail["State"]["Pid"]:
                    found.append(_container(detail))
        finally:
            client.close()
    except (docker.errors.DockerException, OSError) as error:  # requests raises OSErrors
        raise _cannot_reach(url, str(error)) from error
    return sorted(found, key=lambda container: container.name)


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
            # A path longer than a Unix socket's can be has no number.
            why = reason(error) if error.errno else str(error)
            raise _cannot_reach(url, why) from error


def _cannot_reach(url: str, why: str) -> DockerError:
    return DockerError(
        f"cannot reach Docker at '{url}': {why}",
        "start Docker, name namespaces with --netns PATH, or use --scope all",
    )
