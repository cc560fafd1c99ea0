"""Which containers are in scope, and why. Pure: nothing here does I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sockaccel.errors import InputError
from sockaccel.scope import labels
from sockaccel.scope.plan import Entry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from sockaccel.scope.docker import Container
    from sockaccel.scope.ports import PortSet


class Override(StrEnum):
    """The user's word on a container, whatever its labels say."""

    EXCLUDE = "exclude"
    INCLUDE = "include"


class Why(StrEnum):
    """What decided, and what `scope list` shows. The words are part of the interface."""

    IN_SCOPE = "in-scope"
    """Nothing speaks against it."""
    INCLUDED = "included"
    """`sockaccel scope include` names it."""
    NETNS = "netns"
    """--netns names its namespace."""
    EXCLUDED = "excluded"
    """`sockaccel scope exclude` names it."""
    LABEL = "label"
    """Its label refuses."""
    OPT_IN = "opt-in"
    """--opt-in, and its label does not ask for it."""
    NETWORK = "network"
    """It is attached to none of the networks of --network."""
    PROJECT = "project"
    """It is of none of the projects of --project."""
    BAD_LABEL = "bad-label"
    """One of its labels cannot be understood."""
    SHARED = "shared"
    """Another container in its namespace is out of scope."""
    HOST_NETWORK = "host-network"
    """Its namespace is the host's."""
    GONE = "gone"
    """It has exited meanwhile."""
    SCOPE_ALL = "scope-all"
    """--scope all asks nobody."""
    FOREIGN = "foreign"
    """Somebody else has put the namespace in scope."""
    PENDING = "pending"
    """What is decided has not been carried out yet."""


_IN_SCOPE = (Why.IN_SCOPE, Why.INCLUDED, Why.NETNS)


@dataclass(frozen=True, slots=True)
class Policy:
    """Which containers are in scope as far as the options say.

    opt_in: only those whose label asks for it; networks: only those attached to one of these;
    projects: only those of one of these Compose projects. Empty: no such limit.
    """

    opt_in: bool = False
    networks: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a container is in scope.

    cookie: of its namespace, None when it has gone; policy_all and ports: as in Entry, for
    the whole namespace.
    """

    container: Container
    cookie: int | None
    in_scope: bool
    why: Why
    policy_all: bool = False
    ports: PortSet | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """All that decides who is in scope, except for the user's overrides.

    members: the containers, each with the cookie of its namespace, None when it has gone;
    no list at all when Docker could not be asked; host: the cookie of the host's namespace;
    named: the cookies that --netns, or --scope all, names.
    """

    members: tuple[tuple[int | None, Container], ...] | None
    policy: Policy
    host: int
    named: frozenset[int] = frozenset()

    def decide(self, overrides: Mapping[str, Override]) -> tuple[list[Decision], list[str]]:
        """Return a decision for every container, and warnings."""
        return decide(self.members or (), self.policy, overrides, self.host, self.named)

    def wanted(
        self, actual: Mapping[int, Entry], overrides: Mapping[str, Override]
    ) -> dict[int, Entry]:
        """Return what the map `scope` should hold, given what it holds.

        Containers outlive a daemon that does not answer: what it put in scope stays.
        """
        decisions, _ = self.decide(overrides)
        kept = actual if self.members is None else {}
        return {cookie: each for cookie, each in kept.items() if each.by_docker} | entries(
            decisions, self.named
        )


def decide(
    members: Iterable[tuple[int | None, Container]],
    policy: Policy,
    overrides: Mapping[str, Override],
    host: int,
    named: Collection[int] = (),
) -> tuple[list[Decision], list[str]]:
    """Decide for every container, in the order given; also return warnings for the user.

    members: each with the cookie of its namespace, None when it has gone; overrides: by
    container name; host: the cookie of the host's namespace; named: the cookies that --netns
    names. Acceleration is a namespace's, so those that share one are in scope together or
    not at all: one refusal is enough, their lists of ports are cut, and the policy is `all`
    only where each says so. The host's namespace is never in scope because of a container.
    """
    everyone = list(members)
    warnings: list[str] = []
    decisions: dict[int, dict[str, Decision]] = {}
    for cookie, containers in _by_namespace(everyone).items():
        if is_host(cookie, containers, host):
            group = _of_host(cookie, containers, overrides, cookie in named, warnings)
        else:
            group = _of_namespace(cookie, containers, policy, overrides, cookie in named, warnings)
        decisions[cookie] = {each.container.id: each for each in group}
    return [
        Decision(container, None, False, Why.GONE)
        if cookie is None
        else decisions[cookie][container.id]
        for cookie, container in everyone
    ], warnings


def entries(decisions: Iterable[Decision], named: Collection[int] = ()) -> dict[int, Entry]:
    """Return what the map `scope` should hold: for these decisions, and what --netns names."""
    wanted = {cookie: Entry(False, None, by_docker=False, by_netns=True) for cookie in named}
    for each in decisions:
        if each.cookie is None:
            continue
        if each.cookie not in wanted and each.in_scope:
            wanted[each.cookie] = Entry(each.policy_all, each.ports, by_docker=True)
        elif each.why is Why.EXCLUDED:
            wanted.pop(each.cookie, None)
    return wanted


def owners(members: Iterable[tuple[int | None, Container]], host: int) -> dict[int, Container]:
    """Return the container that made each network namespace; the host's is nobody's."""
    return {
        cookie: _maker(containers)
        for cookie, containers in _by_namespace(members).items()
        if not is_host(cookie, containers, host)
    }


def is_host(cookie: int, containers: Iterable[Container], host: int) -> bool:
    """Return whether a namespace is the host's, however its containers came to it.

    Whoever decides may live in a namespace of its own, so Docker's word counts, too.
    """
    return cookie == host or any(each.network_mode == "host" for each in containers)


def _of_host(
    cookie: int,
    containers: list[Container],
    overrides: Mapping[str, Override],
    named: bool,
    warnings: list[str],
) -> list[Decision]:
    why = Why.NETNS if named else Why.HOST_NETWORK
    if not named:
        warnings += [
            f"container '{each.name}' uses the host's network and is left on plain TCP; "
            "to include the whole host: --netns /proc/1/ns/net"
            for each in containers
            if labels.ENABLE in each.labels or overrides.get(each.name) is Override.INCLUDE
        ]
    return [Decision(each, cookie, named, why) for each in containers]


def _of_namespace(
    cookie: int,
    containers: list[Container],
    policy: Policy,
    overrides: Mapping[str, Override],
    named: bool,
    warnings: list[str],
) -> list[Decision]:
    networks = _maker(containers).networks
    answers: list[Why] = []
    for each in containers:
        override = overrides.get(each.name)
        if named:
            answers.append(Why.EXCLUDED if override is Override.EXCLUDE else Why.NETNS)
            continue
        try:
            answers.append(_answer(each, networks, policy, override))
        except InputError as error:
            warnings.append(f"{error}; left on plain TCP")
            answers.append(Why.BAD_LABEL)
    if all(why in _IN_SCOPE for why in answers):
        policy_all, ports = (False, None) if named else _terms(containers, warnings)
        return [
            Decision(each, cookie, True, why, policy_all, ports)
            for each, why in zip(containers, answers, strict=True)
        ]
    return [
        Decision(each, cookie, False, Why.SHARED if why in _IN_SCOPE else why)
        for each, why in zip(containers, answers, strict=True)
    ]


def _answer(
    container: Container,
    networks: frozenset[str],
    policy: Policy,
    override: Override | None,
) -> Why:
    """Return what is to be said of a container by itself. Raises InputError for a bad label."""
    if override is Override.EXCLUDE:
        return Why.EXCLUDED
    labels.ports(container)
    if override is Override.INCLUDE:
        return Why.INCLUDED
    wanted = labels.wanted(container)
    fitting = {
        Why.LABEL: wanted is not False,
        Why.OPT_IN: wanted or not policy.opt_in,
        Why.NETWORK: not policy.networks or not networks.isdisjoint(policy.networks),
        Why.PROJECT: not policy.projects or labels.project(container) in policy.projects,
    }
    return next((why for why, fits in fitting.items() if not fits), Why.IN_SCOPE)


def _terms(containers: list[Container], warnings: list[str]) -> tuple[bool, PortSet | None]:
    """Return the policy and the ports that suit all containers of a namespace."""
    everything = True
    limit: PortSet | None = None
    for each in containers:
        try:
            everything &= labels.policy_all(each)
        except InputError as error:
            warnings.append(f"{error}; taken as safe")
            everything = False
        ports = labels.ports(each)
        if ports is not None:
            limit = ports if limit is None else limit & ports
    return everything, limit


def _by_namespace(
    members: Iterable[tuple[int | None, Container]],
) -> dict[int, list[Container]]:
    shared: dict[int, list[Container]] = {}
    for cookie, container in members:
        if cookie is not None:
            shared.setdefault(cookie, []).append(container)
    return shared


def _maker(containers: Iterable[Container]) -> Container:
    """Return the container whose namespace the others have joined."""
    return min(containers, key=lambda each: (each.network_mode.startswith("container:"), each.name))
