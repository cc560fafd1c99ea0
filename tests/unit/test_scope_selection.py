from __future__ import annotations

from itertools import permutations

import pytest

from sockaccel.scope import labels
from sockaccel.scope.docker import Container
from sockaccel.scope.plan import Entry
from sockaccel.scope.ports import PortSet, parse_ports
from sockaccel.scope.selection import (
    Decision,
    Override,
    Policy,
    Selection,
    Why,
    decide,
    entries,
    owners,
)

HOST = 1  # the cookie of the host's namespace
ANYBODY = Policy()


def container(
    name: str,
    enable: str | None = None,
    mode: str = "bridge",
    *,
    policy: str | None = None,
    ports: str | None = None,
    project: str | None = None,
    networks: tuple[str, ...] = ("bridge",),
) -> Container:
    values = {
        labels.ENABLE: enable,
        labels.POLICY: policy,
        labels.PORTS: ports,
        labels.COMPOSE_PROJECT: project,
    }
    found = {label: value for label, value in values.items() if value is not None}
    return Container(name * 8, name, 7, mode, found, frozenset(networks))


def decided(
    *members: tuple[int | None, Container],
    policy: Policy = ANYBODY,
    overrides: dict[str, Override] | None = None,
    named: set[int] | None = None,
) -> dict[str, Decision]:
    """Return the decisions by container name, the same in every order of the containers."""
    results = []
    for order in permutations(members):
        decisions, _ = decide(order, policy, overrides or {}, HOST, named or set())
        assert [each.container for each in decisions] == [each for _, each in order]
        results.append({each.container.name: each for each in decisions})
    assert all(result == results[0] for result in results)
    return results[0]


def why(*members: tuple[int | None, Container], **more: object) -> dict[str, str]:
    """Return what decided by container name; who is in scope is told by the same word."""
    decisions = decided(*members, **more)  # type: ignore[arg-type]
    for each in decisions.values():
        assert each.in_scope == (each.why in ("in-scope", "included", "netns"))
    return {name: str(each.why) for name, each in decisions.items()}


def warned(*members: tuple[int | None, Container], **more: object) -> list[str]:
    arguments = {"policy": ANYBODY, "overrides": {}, "host": HOST, **more}
    return decide(members, **arguments)[1]  # type: ignore[arg-type]


# One container


@pytest.mark.parametrize(
    ("enable", "opt_in", "code"),
    [
        (None, False, "in-scope"),
        ("true", False, "in-scope"),
        ("false", False, "label"),
        ("maybe", False, "bad-label"),
        (None, True, "opt-in"),
        ("true", True, "in-scope"),
        ("false", True, "label"),
        ("maybe", True, "bad-label"),
    ],
)
def test_the_label_decides_with_opt_out_and_opt_in(
    enable: str | None, opt_in: bool, code: str
) -> None:
    assert why((5, container("web", enable)), policy=Policy(opt_in=opt_in)) == {"web": code}


@pytest.mark.parametrize(
    ("wanted", "attached", "code"),
    [
        (("front",), ("front",), "in-scope"),
        (("front",), ("front", "back"), "in-scope"),
        (("front", "back"), ("back",), "in-scope"),
        (("front",), ("back",), "network"),
        (("front",), (), "network"),
        (("fro",), ("front",), "network"),
    ],
)
def test_one_of_the_networks_is_enough(
    wanted: tuple[str, ...], attached: tuple[str, ...], code: str
) -> None:
    web = container("web", networks=attached)
    assert why((5, web), policy=Policy(networks=wanted)) == {"web": code}


@pytest.mark.parametrize(
    ("wanted", "project", "code"),
    [
        (("shop",), "shop", "in-scope"),
        (("blog", "shop"), "shop", "in-scope"),
        (("shop",), "blog", "project"),
        (("shop",), None, "project"),
    ],
)
def test_one_of_the_projects_is_enough(
    wanted: tuple[str, ...], project: str | None, code: str
) -> None:
    web = container("web", project=project)
    assert why((5, web), policy=Policy(projects=wanted)) == {"web": code}


@pytest.mark.parametrize(
    ("enable", "networks", "project", "code"),
    [
        ("true", ("front",), "shop", "in-scope"),
        (None, ("front",), "shop", "opt-in"),
        ("true", ("back",), "shop", "network"),
        ("true", ("front",), "blog", "project"),
        ("false", ("back",), "blog", "label"),
    ],
)
def test_different_options_must_all_hold(
    enable: str | None, networks: tuple[str, ...], project: str, code: str
) -> None:
    web = container("web", enable, networks=networks, project=project)
    assert why((5, web), policy=Policy(True, ("front",), ("shop",))) == {"web": code}


def test_a_container_that_has_gone_has_no_namespace() -> None:
    assert decided((None, container("web"))) == {
        "web": Decision(container("web"), None, False, Why.GONE)
    }


def test_a_paused_container_keeps_its_place() -> None:
    paused = Container("f" * 64, "web", 7, "bridge", paused=True)
    assert why((5, paused)) == {"web": "in-scope"}


# Bad labels


@pytest.mark.parametrize(
    ("bad", "label", "value"),
    [
        (container("bad", "maybe"), "sockaccel.enable", "maybe"),
        (container("bad", ports="http"), "sockaccel.ports", "http"),
    ],
)
def test_a_bad_label_skips_only_its_container_and_is_told(
    bad: Container, label: str, value: str
) -> None:
    assert why((5, bad), (6, container("good"))) == {"bad": "bad-label", "good": "in-scope"}
    (warning,) = warned((5, bad), (6, container("good")))
    assert warning.startswith(f"cannot use label {label} of container 'bad': '{value}'")
    assert warning.endswith("; left on plain TCP")


def test_a_bad_policy_is_told_and_taken_as_safe() -> None:
    bad, good = container("bad", policy="fast"), container("good", policy="all")
    found = decided((5, bad), (6, good))
    assert {name: each.policy_all for name, each in found.items()} == {"bad": False, "good": True}
    assert all(each.in_scope for each in found.values())
    (warning,) = warned((5, bad), (6, good))
    assert warning == (
        "cannot use label sockaccel.policy of container 'bad': 'fast' is neither safe nor all; "
        "taken as safe"
    )


def test_labels_of_a_container_that_is_excluded_are_not_complained_of() -> None:
    bad = container("bad", "maybe", ports="x", policy="y")
    assert warned((5, bad), overrides={"bad": Override.EXCLUDE}) == []


# Overrides


@pytest.mark.parametrize("enable", [None, "true", "false", "maybe"])
@pytest.mark.parametrize("named", [set(), {5}])
def test_exclude_wins_over_everything(enable: str | None, named: set[int]) -> None:
    overrides = {"web": Override.EXCLUDE}
    assert why((5, container("web", enable)), overrides=overrides, named=named) == {
        "web": "excluded"
    }


@pytest.mark.parametrize(
    ("web", "policy"),
    [
        (container("web", "false"), ANYBODY),
        (container("web", "maybe"), ANYBODY),
        (container("web"), Policy(opt_in=True)),
        (container("web"), Policy(networks=("front",))),
        (container("web"), Policy(projects=("shop",))),
    ],
)
def test_include_wins_over_label_opt_in_and_filters(web: Container, policy: Policy) -> None:
    assert why((5, web), policy=policy) != {"web": "in-scope"}
    overrides = {"web": Override.INCLUDE}
    assert why((5, web), policy=policy, overrides=overrides) == {"web": "included"}
    assert warned((5, web), policy=policy, overrides=overrides) == []


def test_include_keeps_the_ports_and_does_not_mend_them() -> None:
    overrides = {"web": Override.INCLUDE}
    limited = decided((5, container("web", "false", ports="80")), overrides=overrides)
    assert limited["web"].ports == parse_ports("80")
    bad = container("web", ports="http")
    assert why((5, bad), overrides=overrides) == {"web": "bad-label"}


def test_an_override_is_for_one_name() -> None:
    overrides = {"web": Override.EXCLUDE, "gone": Override.INCLUDE}
    members = [(5, container("web")), (6, container("web2", "false"))]
    assert why(*members, overrides=overrides) == {"web": "excluded", "web2": "label"}


# Shared namespaces


@pytest.mark.parametrize(
    ("refusing", "code", "policy", "overrides"),
    [
        (container("b", "false"), "label", ANYBODY, {}),
        (container("b", "maybe"), "bad-label", ANYBODY, {}),
        (container("b"), "opt-in", Policy(opt_in=True), {}),
        (container("b"), "excluded", ANYBODY, {"b": Override.EXCLUDE}),
    ],
)
def test_the_strictest_of_a_shared_namespace_wins(
    refusing: Container, code: str, policy: Policy, overrides: dict[str, Override]
) -> None:
    willing = container("a", "true", "container:b")
    assert why(
        (5, willing), (5, refusing), (6, container("c", "true")), policy=policy, overrides=overrides
    ) == {"a": "shared", "b": code, "c": "in-scope"}


def test_the_networks_are_those_of_the_container_that_made_the_namespace() -> None:
    maker = container("web", networks=("front",))
    joined = container("agent", mode="container:web", networks=())
    assert why((5, maker), (5, joined), policy=Policy(networks=("front",))) == {
        "web": "in-scope",
        "agent": "in-scope",
    }
    assert why((5, maker), (5, joined), policy=Policy(networks=("back",))) == {
        "web": "network",
        "agent": "network",
    }


@pytest.mark.parametrize(
    ("lists", "result"),
    [
        ([None, None], None),
        (["80,443", None], "80,443"),
        (["80,443", "443-500"], "443"),
        (["80", "443"], ""),
        (["1-100,200-300", "50-250", "60-70,240-260"], "60-70,240-250"),
    ],
)
def test_the_ports_of_a_shared_namespace_are_those_that_all_name(
    lists: list[str | None], result: str | None
) -> None:
    members = [(5, container(f"c{number}", ports=each)) for number, each in enumerate(lists)]
    for each in decided(*members).values():
        assert each.in_scope
        assert (each.ports if each.ports is None else str(each.ports)) == result


@pytest.mark.parametrize(
    ("values", "everything"),
    [
        ([None], False),
        (["safe"], False),
        (["all"], True),
        (["all", "all"], True),
        (["all", "safe"], False),
        (["all", None], False),  # one that says nothing is asked
        (["all", "fast"], False),
    ],
)
def test_programs_are_not_asked_only_where_all_containers_say_so(
    values: list[str | None], everything: bool
) -> None:
    members = [(5, container(f"c{number}", policy=each)) for number, each in enumerate(values)]
    assert {each.policy_all for each in decided(*members).values()} == {everything}


# The host's namespace


def test_a_container_with_the_host_s_network_is_never_in_scope_by_itself() -> None:
    members = [
        (HOST, container("asked", "true", "host")),
        (HOST, container("joined", mode="container:asked")),
        # Also where Docker calls it something else.
        (HOST, container("sneaky", "true")),
    ]
    codes = dict.fromkeys(("asked", "joined", "sneaky"), "host-network")
    assert why(*members) == codes
    assert why(*members, overrides=dict.fromkeys(codes, Override.INCLUDE)) == codes
    # Also where whoever decides sees another namespace as its own.
    assert set(why((9, members[0][1]), (9, members[1][1])).values()) == {"host-network"}


def test_it_is_told_so_if_it_asked() -> None:
    silent = container("silent", mode="host")
    assert warned((HOST, silent)) == []
    (warning,) = warned((HOST, silent), (HOST, container("asked", "true", "host")))
    assert "'asked'" in warning
    assert "--netns /proc/1/ns/net" in warning
    (warning,) = warned((HOST, silent), overrides={"silent": Override.INCLUDE})
    assert "'silent'" in warning


def test_who_names_the_host_s_namespace_gets_it_whatever_one_container_says() -> None:
    web = container("web", "false", "host")
    for overrides in ({}, {"web": Override.EXCLUDE}):
        found = decided((HOST, web), overrides=overrides, named={HOST})
        assert found["web"].why is Why.NETNS
        assert entries(found.values(), {HOST}).keys() == {HOST}


# What the map should hold


def test_a_name_puts_a_namespace_in_scope_whatever_the_labels_say() -> None:
    found = decided((5, container("web", "false", ports="x", policy="all")), named={5, 6})
    assert found["web"].why is Why.NETNS
    by_netns = Entry(policy_all=False, ports=None, by_docker=False, by_netns=True)
    assert entries(found.values(), {5, 6}) == {5: by_netns, 6: by_netns}


def test_an_excluded_container_is_out_although_its_namespace_is_named() -> None:
    overrides = {"b": Override.EXCLUDE}
    found = decided((5, container("a")), (5, container("b")), overrides=overrides, named={5, 6})
    assert {name: each.why for name, each in found.items()} == {"a": "shared", "b": "excluded"}
    assert entries(found.values(), {5, 6}).keys() == {6}


def test_entries_are_of_those_in_scope_with_their_terms() -> None:
    found = decided(
        (5, container("web", policy="all", ports="80")),
        (6, container("no", "false")),
        (None, container("gone")),
        (HOST, container("host", mode="host")),
    )
    assert entries(found.values()) == {5: Entry(True, PortSet(((80, 80),)), by_docker=True)}


def test_what_docker_put_in_scope_stays_while_it_does_not_answer() -> None:
    by_docker = Entry(policy_all=True, ports=None, by_docker=True)
    by_netns = Entry(policy_all=False, ports=None, by_docker=False, by_netns=True)
    actual = {5: by_docker, 6: by_netns, 7: by_docker}
    unknown = Selection(None, ANYBODY, HOST, frozenset({8}))
    assert unknown.wanted(actual, {}) == {5: by_docker, 7: by_docker, 8: by_netns}
    assert unknown.decide({}) == ([], [])
    nobody = Selection((), ANYBODY, HOST, frozenset({8}))
    assert nobody.wanted(actual, {}) == {8: by_netns}
    web = Selection(((5, container("web")),), ANYBODY, HOST)
    assert web.wanted(actual, {}) == {5: Entry(False, None, by_docker=True)}
    assert web.wanted(actual, {"web": Override.EXCLUDE}) == {}


# Whose a namespace is


@pytest.mark.parametrize("order", [1, -1])
def test_a_namespace_belongs_to_the_container_that_made_it(order: int) -> None:
    maker, guest = container("web"), container("agent", mode="container:web")
    host, gone = container("host", mode="host"), container("gone")
    members = [(5, maker), (5, guest), (HOST, host), (None, gone)]
    assert owners(members[::order], HOST) == {5: maker}


def test_a_container_out_of_scope_has_its_namespace_too() -> None:
    refused = container("web", "false")
    assert owners([(5, refused)], HOST) == {5: refused}
