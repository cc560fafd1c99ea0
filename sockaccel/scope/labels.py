"""The container labels and what they mean. All label names are here; nothing here does I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sockaccel.errors import InputError, one_line
from sockaccel.scope.ports import parse_ports

if TYPE_CHECKING:
    from sockaccel.scope.docker import Container
    from sockaccel.scope.ports import PortSet

ENABLE = "sockaccel.enable"
PORTS = "sockaccel.ports"
POLICY = "sockaccel.policy"
COMPOSE_PROJECT = "com.docker.compose.project"

# Of a map of 65,536 for all containers; a range of ports takes 30 at most.
_MOST_BLOCKS = 1024
_ANSWERS = {"true": True, "false": False}
_POLICIES = {"safe": False, "all": True}


def wanted(container: Container) -> bool | None:
    """Return whether a container wants to be accelerated, None when it does not say.

    Raises InputError, naming the container, when the label is neither true nor false.
    """
    return _answer(container, ENABLE, _ANSWERS, "neither true nor false")


def ports(container: Container) -> PortSet | None:
    """Return the ports to which a container limits its listeners, None for no limit.

    Raises InputError, naming the container, when the label is no list of ports, or one that is
    so scattered that it would take the room of other containers.
    """
    value = container.labels.get(PORTS)
    if value is None:
        return None
    what = f"label {PORTS} of container '{container.name}':"
    found = parse_ports(value, what)
    blocks = sum(1 for _ in found.prefixes())
    if blocks > _MOST_BLOCKS:
        raise InputError(
            f"cannot use {what} '{one_line(value)}': it takes {blocks} entries of the map "
            f"netns_ports, at most {_MOST_BLOCKS}",
            f"{PORTS}=1-65535",
        )
    return found


def policy_all(container: Container) -> bool:
    """Return whether a container's programs are not to be asked what they are.

    Raises InputError, naming the container, when the label is neither safe nor all.
    """
    return bool(_answer(container, POLICY, _POLICIES, "neither safe nor all"))


def project(container: Container) -> str | None:
    """Return the Compose project that a container belongs to."""
    return container.labels.get(COMPOSE_PROJECT)


def _answer(container: Container, label: str, answers: dict[str, bool], fault: str) -> bool | None:
    value = container.labels.get(label)
    if value is None:
        return None
    try:
        return answers[value.strip().lower()]
    except KeyError:
        raise InputError(
            f"cannot use label {label} of container '{container.name}': "
            f"'{one_line(value)}' is {fault}",
            f"{label}={next(iter(answers))}",
        ) from None
