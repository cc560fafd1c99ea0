"""The container labels and what they mean. All label names are here; nothing here does I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sockaccel.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sockaccel.scope.docker import Container

ENABLE = "sockaccel.enable"
PORTS = "sockaccel.ports"
POLICY = "sockaccel.policy"

_POLICIES = ("safe", "all")
_ANSWERS = {"true": True, "false": False}


def wanted(container: Container) -> bool:
    """Return whether a container is to be accelerated as far as its own label says: opt-out.

    Raises InputError, naming the container, when the label is neither true nor false.
    """
    value = container.labels.get(ENABLE, "true")
    try:
        return _ANSWERS[value.strip().lower()]
    except KeyError:
        raise InputError(
            f"cannot use label {ENABLE} of container '{container.name}': "
            f"'{value}' is neither true nor false",
            f"{ENABLE}=false",
        ) from None


def policies(
    containers: Iterable[tuple[int, Container]],
) -> tuple[dict[int, bool], list[str]]:
    """Return for each network namespace whether its programs are not to be asked what they are.

    So only where every container in it says "all"; with the warnings on the way there.
    """
    answers: dict[int, bool] = {}
    warnings: list[str] = []
    for cookie, members in _by_namespace(containers).items():
        values = {member.labels.get(POLICY, "safe").strip().lower() for member in members}
        answers[cookie] = values == {"all"}
        warnings += [
            f"cannot use label {POLICY} of container '{member.name}': "
            f"'{member.labels[POLICY]}' is neither safe nor all; taken as safe"
            for member in members
            if member.labels.get(POLICY, "safe").strip().lower() not in _POLICIES
        ]
    return answers, warnings


def select(
    containers: Iterable[tuple[int, Container]], host: int
) -> tuple[dict[int, Container], list[str]]:
    """Return which network namespaces are in scope, and the warnings on the way there.

    containers: each with the cookie of its namespace; host: the cookie of the host's. The
    result names, for each cookie in scope, the container that the namespace belongs to. Where
    several share one, a single refusal is enough. The host's namespace is never in scope
    because a container uses it, however it came to.
    """
    shared = _by_namespace(containers)
    chosen: dict[int, Container] = {}
    warnings: list[str] = []
    for cookie, members in shared.items():
        refused = False
        for member in members:
            try:
                refused |= not wanted(member)
            except InputError as error:
                warnings.append(f"{error}; left on plain TCP")
                refused = True
        if cookie == host or any(member.network_mode == "host" for member in members):
            warnings += [
                f"container '{member.name}' uses the host's network and is left on plain TCP; "
                "to include the whole host: --netns /proc/1/ns/net"
                for member in members
                if not refused and ENABLE in member.labels
            ]
        elif not refused:
            chosen[cookie] = min(members, key=_joined_and_name)
    return chosen, warnings


def owners(containers: Iterable[tuple[int, Container]]) -> dict[int, Container]:
    """Return which container each network namespace belongs to; those of host networks to none."""
    return {
        cookie: min(members, key=_joined_and_name)
        for cookie, members in _by_namespace(containers).items()
        if not any(member.network_mode == "host" for member in members)
    }


def _by_namespace(containers: Iterable[tuple[int, Container]]) -> dict[int, list[Container]]:
    shared: dict[int, list[Container]] = {}
    for cookie, container in containers:
        shared.setdefault(cookie, []).append(container)
    return shared


def _joined_and_name(container: Container) -> tuple[bool, str]:
    """Order containers that share a namespace: the one whose it is, before those that joined."""
    return container.network_mode.startswith("container:"), container.name
