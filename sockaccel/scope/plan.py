"""What to change so that the kernel's maps say what is wanted. Pure: nothing here does I/O.

Only what sockaccel put itself is ever changed or removed. What somebody else wrote into the
maps is left alone, and a plan that has been carried out leaves nothing to plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from sockaccel.scope.netns import Network
    from sockaccel.scope.ports import PortSet


@dataclass(frozen=True, slots=True)
class Entry:
    """What the map `scope` says of a network namespace that is in scope.

    policy_all: its programs are not asked what they are; ports: of its listeners, None for
    all; by_docker: in scope because of a container; by_netns: because --netns or --scope all
    names it. Neither: somebody else put it there.
    """

    policy_all: bool
    ports: PortSet | None
    by_docker: bool
    by_netns: bool = False

    @property
    def ours(self) -> bool:
        """Whether sockaccel put it there, and so may change and remove it."""
        return self.by_docker or self.by_netns


@dataclass(frozen=True, slots=True)
class Changes:
    """What to do to the map `scope`, by namespace cookie.

    put: to be written; added: those of them that were not in scope before; remove: to be
    taken out of scope.
    """

    put: dict[int, Entry] = field(default_factory=dict)
    remove: set[int] = field(default_factory=set)
    added: set[int] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.put or self.remove)

    @property
    def membership(self) -> bool:
        """Whether a namespace comes into scope or leaves it."""
        return bool(self.added or self.remove)


@dataclass(frozen=True, slots=True)
class NetworkChanges:
    """What to do to the map `local_networks`."""

    put: set[Network] = field(default_factory=set)
    remove: set[Network] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.put or self.remove)


def plan(desired: Mapping[int, Entry], actual: Mapping[int, Entry]) -> Changes:
    """Return what makes the namespaces in scope those that are desired."""
    put = {
        cookie: entry
        for cookie, entry in desired.items()
        if cookie not in actual or (actual[cookie].ours and actual[cookie] != entry)
    }
    remove = {cookie for cookie, entry in actual.items() if entry.ours and cookie not in desired}
    return Changes(put, remove, put.keys() - actual.keys())


def plan_networks(desired: AbstractSet[Network], actual: Mapping[Network, bool]) -> NetworkChanges:
    """Return what makes the local networks those that are desired.

    actual: each with whether sockaccel put it there.
    """
    stale = {network for network, ours in actual.items() if ours and network not in desired}
    return NetworkChanges(desired - actual.keys(), stale)
