from __future__ import annotations

import pytest

from sockaccel.datapath.options import Options
from sockaccel.inspect.membership import NamespaceScope, containers, namespaces
from sockaccel.scope.docker import Container
from sockaccel.scope.plan import Entry
from sockaccel.scope.ports import parse_ports
from sockaccel.scope.selection import Decision, Override, Why

WEB = Container("f" * 64, "web", 7, "bridge")
BY_DOCKER = Entry(policy_all=False, ports=None, by_docker=True)
BY_NETNS = Entry(policy_all=False, ports=None, by_docker=False, by_netns=True)
FOREIGN = Entry(policy_all=False, ports=None, by_docker=False)


def decision(cookie: int | None, why: Why, *, in_scope: bool = False) -> Decision:
    return Decision(WEB, cookie, in_scope, why)


@pytest.mark.parametrize(
    ("each", "actual", "in_scope", "why"),
    [
        (decision(5, Why.IN_SCOPE, in_scope=True), {5: BY_DOCKER}, True, "in-scope"),
        (decision(5, Why.IN_SCOPE, in_scope=True), {}, False, "pending"),
        (decision(5, Why.LABEL), {}, False, "label"),
        (decision(5, Why.EXCLUDED), {5: BY_DOCKER}, True, "pending"),
        (decision(5, Why.NETNS, in_scope=True), {5: BY_NETNS}, True, "netns"),
        (decision(None, Why.GONE), {5: BY_DOCKER}, False, "gone"),
    ],
)
def test_a_container_is_in_scope_if_the_kernel_has_it_so(
    each: Decision, actual: dict[int, Entry], in_scope: bool, why: str
) -> None:
    (found,) = containers([each], actual, {}, Options("/c"))
    assert (found.container, found.in_scope, str(found.why)) == (WEB, in_scope, why)


def test_with_scope_all_everybody_is_in_scope_and_nobody_is_asked() -> None:
    options = Options("/c", scope="all", policy="all")
    for why in (Why.LABEL, Why.HOST_NETWORK, Why.IN_SCOPE):
        (found,) = containers([decision(5, why)], {}, {}, options)
        assert (found.in_scope, found.why, found.policy_all) == (True, Why.SCOPE_ALL, True)
    (gone,) = containers([decision(None, Why.GONE)], {}, {}, options)
    assert (gone.in_scope, gone.why) == (False, Why.GONE)


@pytest.mark.parametrize(
    ("label", "option", "both"),
    [
        (None, None, None),
        ("80,443", None, "80,443"),
        (None, "80", "80"),
        ("80,443", "443-500", "443"),
        ("80", "443", ""),
    ],
)
def test_ports_are_those_that_label_and_option_name(
    label: str | None, option: str | None, both: str | None
) -> None:
    entry = Entry(False, parse_ports(label) if label else None, by_docker=True)
    each = decision(5, Why.IN_SCOPE, in_scope=True)
    (found,) = containers([each], {5: entry}, {}, Options("/c", ports=option))
    assert (found.ports if found.ports is None else str(found.ports)) == both


@pytest.mark.parametrize(
    ("entry", "policy", "everything"),
    [(True, "safe", True), (False, "safe", False), (False, "all", True)],
)
def test_the_policy_is_all_if_the_label_or_the_option_says_so(
    entry: bool, policy: str, everything: bool
) -> None:
    actual = {5: Entry(entry, None, by_docker=True)}
    each = decision(5, Why.IN_SCOPE, in_scope=True)
    (found,) = containers([each], actual, {}, Options("/c", policy=policy))
    assert found.policy_all is everything


def test_the_user_s_word_is_shown_whatever_came_of_it() -> None:
    overrides = {"web": Override.INCLUDE, "other": Override.EXCLUDE}
    (found,) = containers([decision(5, Why.HOST_NETWORK)], {}, overrides, Options("/c"))
    assert found.override is Override.INCLUDE


def test_namespaces_are_those_that_are_named_and_those_that_nobody_explains() -> None:
    decisions = [
        decision(5, Why.IN_SCOPE, in_scope=True),
        decision(8, Why.EXCLUDED),
        decision(None, Why.GONE),
    ]
    named = {"/n/gone": None, "/n/6": 6, "/n/7": 7, "/n/8": 8}
    actual = {5: BY_DOCKER, 6: BY_NETNS, 9: BY_DOCKER, 10: FOREIGN}
    assert namespaces(named, decisions, actual) == [
        NamespaceScope("/n/gone", None, in_scope=False, why=Why.GONE),
        NamespaceScope("/n/6", 6, in_scope=True, why=Why.NETNS),
        NamespaceScope("/n/7", 7, in_scope=False, why=Why.PENDING),
        NamespaceScope("/n/8", 8, in_scope=False, why=Why.EXCLUDED),
        NamespaceScope(None, 9, in_scope=True, why=Why.GONE),
        NamespaceScope(None, 10, in_scope=True, why=Why.FOREIGN),
    ]
