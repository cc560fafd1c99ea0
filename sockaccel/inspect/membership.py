"""Who is in scope, as the kernel has it, and why. Pure: from maps and decisions to results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sockaccel.scope.selection import Decision, Override, Why

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sockaccel.datapath.options import Options
    from sockaccel.scope.docker import Container
    from sockaccel.scope.plan import Entry
    from sockaccel.scope.ports import PortSet


@dataclass(frozen=True, slots=True)
class ContainerScope:
    """A container: what the kernel has of its namespace, and why.

    ports: its listeners that are accelerated, None for all; policy_all: its programs are not
    asked what they are. Both say nothing of a container that is out of scope.
    """

    container: Container
    cookie: int | None
    in_scope: bool
    why: Why
    policy_all: bool
    ports: PortSet | None
    override: Override | None


@dataclass(frozen=True, slots=True)
class NamespaceScope:
    """A namespace that is in scope, or should be, though no container's decision says so.

    path: as given to --netns; None where it is not.
    """

    path: str | None
    cookie: int | None
    in_scope: bool
    why: Why


def containers(
    decisions: Iterable[Decision],
    actual: Mapping[int, Entry],
    overrides: Mapping[str, Override],
    options: Options,
) -> list[ContainerScope]:
    """Compare what was decided with what is."""
    everybody, policy_all = options.scope == "all", options.policy == "all"
    ports = options.port_set
    found = []
    for each in decisions:
        entry = actual.get(each.cookie) if each.cookie is not None else None
        in_scope = each.cookie is not None if everybody else entry is not None
        if everybody and in_scope:
            why = Why.SCOPE_ALL
        else:
            why = each.why if each.in_scope == in_scope else Why.PENDING
        found.append(
            ContainerScope(
                each.container,
                each.cookie,
                in_scope,
                why,
                policy_all or bool(entry and entry.policy_all),
                _both(ports, entry.ports if entry else None),
                overrides.get(each.container.name),
            )
        )
    return found


def namespaces(
    named: Mapping[str, int | None], decisions: Iterable[Decision], actual: Mapping[int, Entry]
) -> list[NamespaceScope]:
    """Return what --netns names, and what else is in scope without a container in it.

    named: the cookie of each path, None where there is no namespace any more.
    """
    decided = {each.cookie: each for each in decisions}
    found = []
    for path, cookie in named.items():
        if cookie is None:
            why = Why.GONE
        elif cookie in actual:
            why = Why.NETNS
        else:
            excluded = cookie in decided and not decided[cookie].in_scope
            why = Why.EXCLUDED if excluded else Why.PENDING
        found.append(NamespaceScope(path, cookie, cookie in actual, why))
    for cookie in sorted(actual.keys() - set(named.values()) - decided.keys()):
        why = Why.GONE if actual[cookie].ours else Why.FOREIGN
        found.append(NamespaceScope(None, cookie, in_scope=True, why=why))
    return found


def _both(one: PortSet | None, other: PortSet | None) -> PortSet | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other
