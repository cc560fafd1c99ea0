"""The containers of this host with the network namespaces that they are in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sockaccel.errors import InputError
from sockaccel.scope.netns import netns_cookie

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sockaccel.scope.docker import Container


def members(containers: Iterable[Container]) -> list[tuple[int | None, Container]]:
    """Return each container with its namespace's cookie, None when it has exited meanwhile.

    Raises NotPermittedError and HostError as netns_cookie() does.
    """
    return [(cookie_of(container), container) for container in containers]


def cookie_of(container: Container) -> int | None:
    """Return the cookie of a container's network namespace, None when it has exited.

    Raises NotPermittedError and HostError as netns_cookie() does.
    """
    try:
        return netns_cookie(container.netns_path)
    except InputError:
        return None
