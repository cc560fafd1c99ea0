from __future__ import annotations

from ipaddress import ip_network
from random import Random

from sockaccel.scope.plan import Changes, Entry, NetworkChanges, plan, plan_networks
from sockaccel.scope.ports import parse_ports

BY_DOCKER = Entry(policy_all=False, ports=None, by_docker=True)
BY_NETNS = Entry(policy_all=False, ports=None, by_docker=False, by_netns=True)
FOREIGN = Entry(policy_all=False, ports=None, by_docker=False)
LIMITED = Entry(policy_all=True, ports=parse_ports("80"), by_docker=True)


def carry_out(changes: Changes, actual: dict[int, Entry]) -> dict[int, Entry]:
    left = {cookie: each for cookie, each in actual.items() if cookie not in changes.remove}
    return left | changes.put


def test_what_is_missing_is_put_and_what_is_ours_and_not_wanted_goes() -> None:
    changes = plan({1: BY_DOCKER, 2: BY_DOCKER}, {2: BY_DOCKER, 3: BY_DOCKER, 4: BY_NETNS})
    assert changes == Changes({1: BY_DOCKER}, {3, 4}, {1})
    assert changes
    assert changes.membership


def test_what_is_as_wanted_changes_nothing() -> None:
    changes = plan({1: LIMITED, 2: BY_NETNS}, {1: LIMITED, 2: BY_NETNS})
    assert changes == Changes()
    assert not changes
    assert not changes.membership


def test_other_terms_are_put_but_nobody_comes_or_goes() -> None:
    changes = plan({1: LIMITED}, {1: BY_DOCKER})
    assert changes == Changes({1: LIMITED}, set(), set())
    assert changes
    assert not changes.membership


def test_what_somebody_else_put_there_is_neither_changed_nor_removed() -> None:
    assert not plan({}, {1: FOREIGN})
    assert not plan({1: LIMITED}, {1: FOREIGN})
    assert not plan({1: BY_NETNS}, {1: FOREIGN})


def test_a_namespace_changes_hands_between_a_container_and_a_name() -> None:
    assert plan({1: BY_NETNS}, {1: BY_DOCKER}).put == {1: BY_NETNS}
    assert plan({1: BY_DOCKER}, {1: BY_NETNS}).put == {1: BY_DOCKER}


def test_a_plan_that_was_carried_out_leaves_nothing_to_plan() -> None:
    random = Random(4)
    kinds = [BY_DOCKER, BY_NETNS, FOREIGN, LIMITED, Entry(True, parse_ports("1-9"), True)]
    for _ in range(2000):
        desired = {random.randrange(9): random.choice(kinds) for _ in range(random.randrange(9))}
        actual = {random.randrange(9): random.choice(kinds) for _ in range(random.randrange(9))}
        changes = plan(desired, actual)
        after = carry_out(changes, actual)
        assert not plan(desired, after)
        strangers = {cookie: each for cookie, each in actual.items() if not each.ours}
        assert strangers.items() <= after.items()
        assert {c: e for c, e in desired.items() if c not in strangers}.items() <= after.items()
        assert after.keys() == desired.keys() | strangers.keys()
        assert changes.added == after.keys() - actual.keys()
        assert changes.membership == (after.keys() != actual.keys())


NEAR, FAR, OLD = (ip_network(text) for text in ("10.0.0.0/24", "fd00::/64", "10.9.0.0/16"))


def test_networks_come_and_only_ours_go() -> None:
    assert plan_networks({NEAR, FAR}, {NEAR: True, OLD: True}) == NetworkChanges({FAR}, {OLD})
    assert not plan_networks({NEAR}, {NEAR: True, OLD: False})
    assert not plan_networks({NEAR}, {NEAR: False})
    assert not plan_networks(set(), {})
