"""The keys and values of the maps; that they are carried out is for the tests of the kernel."""

from __future__ import annotations

import sys
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest
from memory_maps import Maps

from sockaccel.datapath.layout import LocalFlags, ScopeFlags
from sockaccel.datapath.scope_map import (
    ScopeMap,
    check_container_name,
    network_keys,
    port_keys,
)
from sockaccel.errors import DatapathError, InputError
from sockaccel.scope.plan import Changes, Entry, NetworkChanges, plan, plan_networks
from sockaccel.scope.ports import PortSet, parse_ports
from sockaccel.scope.selection import Override

if TYPE_CHECKING:
    from sockaccel.scope.netns import Network


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> Maps:
    return Maps(monkeypatch)


@pytest.fixture
def scope(maps: Maps) -> ScopeMap:
    return ScopeMap(maps)  # type: ignore[arg-type]


def cookie_key(cookie: int) -> bytes:
    return cookie.to_bytes(8, sys.byteorder)


NETWORKS = [
    ("10.1.2.0/24", "78000000 00000000000000000000ffff 0a010200"),
    ("127.0.0.0/8", "68000000 00000000000000000000ffff 7f000000"),
    ("192.0.2.7/32", "80000000 00000000000000000000ffff c0000207"),
    ("0.0.0.0/0", "60000000 00000000000000000000ffff 00000000"),
    ("::1/128", "80000000 00000000000000000000000000000001"),
    ("fd00:1::/64", "40000000 fd000001000000000000000000000000"),
    ("::/0", "00000000 00000000000000000000000000000000"),
]


@pytest.mark.parametrize(("network", "key"), NETWORKS)
def test_the_key_of_a_network_is_the_bytes_that_the_kernel_looks_up(network: str, key: str) -> None:
    assert network_keys([ip_network(network)]) == [bytes.fromhex(key)]


def test_the_key_of_a_port_is_the_bytes_that_the_kernel_looks_up() -> None:
    assert port_keys(0x0102030405060708, parse_ports("80,8000-8001")) == [
        bytes.fromhex("50000000 0807060504030201 0050 0000"),
        bytes.fromhex("4f000000 0807060504030201 1f40 0000"),
    ]
    assert port_keys(5, None) == port_keys(5, PortSet(())) == []


ENTRIES = {
    5: Entry(policy_all=False, ports=None, by_docker=True),
    1 << 40: Entry(policy_all=True, ports=None, by_docker=False, by_netns=True),
    7: Entry(policy_all=False, ports=parse_ports("80,8000-8999"), by_docker=True),
    8: Entry(policy_all=True, ports=PortSet(()), by_docker=True),
}


def test_what_was_put_is_read_again(maps: Maps, scope: ScopeMap) -> None:
    scope.apply(plan(ENTRIES, {}))
    assert scope.entries() == ENTRIES
    assert {
        key: int.from_bytes(value, sys.byteorder) for key, value in maps.of("scope").items()
    } == {
        cookie_key(5): ScopeFlags.MEMBER | ScopeFlags.BY_DOCKER,
        cookie_key(1 << 40): ScopeFlags.MEMBER | ScopeFlags.POLICY_ALL | ScopeFlags.BY_NETNS,
        cookie_key(7): ScopeFlags.MEMBER | ScopeFlags.PORTS | ScopeFlags.BY_DOCKER,
        cookie_key(8): ScopeFlags.MEMBER
        | ScopeFlags.PORTS
        | ScopeFlags.POLICY_ALL
        | ScopeFlags.BY_DOCKER,
    }
    scope.apply(plan({}, ENTRIES))
    assert scope.entries() == {}
    assert maps.of("netns_ports") == {}


def test_an_entry_of_somebody_else_is_not_ours(maps: Maps, scope: ScopeMap) -> None:
    maps.of("scope")[cookie_key(5)] = (1).to_bytes(4, sys.byteorder)
    assert scope.entries() == {5: Entry(False, None, by_docker=False)}
    assert not scope.entries()[5].ours


def test_ports_are_there_before_what_refers_to_them_and_go_after_it(
    maps: Maps, scope: ScopeMap
) -> None:
    limited = {7: Entry(False, parse_ports("80"), by_docker=True)}
    scope.apply(plan(limited, {}))
    assert maps.done == [("put", "netns_ports"), ("put", "scope")]
    maps.done.clear()
    other = {7: Entry(False, parse_ports("443"), by_docker=True)}
    scope.apply(plan(other, limited))
    assert maps.done == [("put", "netns_ports"), ("put", "scope"), ("remove", "netns_ports")]
    assert scope.entries() == other
    maps.done.clear()
    scope.apply(plan({}, other))
    assert maps.done == [("remove", "scope"), ("remove", "netns_ports")]


def test_ports_that_a_killed_process_left_go_with_the_next_plan(
    maps: Maps, scope: ScopeMap
) -> None:
    scope.apply(plan(ENTRIES, {}))
    maps.of("netns_ports")[port_keys(99, parse_ports("80"))[0]] = bytes(4)
    scope.apply(Changes())
    assert scope.entries() == ENTRIES
    assert {key[4:12] for key in maps.of("netns_ports")} == {cookie_key(7)}


def test_the_epoch_is_raised_exactly_when_somebody_comes_or_goes(
    maps: Maps, scope: ScopeMap
) -> None:
    web = Entry(False, None, by_docker=True)
    for desired, epoch in (
        ({5: web}, 1),
        ({5: web}, 1),
        ({5: Entry(True, parse_ports("80"), by_docker=True)}, 1),
        ({5: web, 6: web}, 2),
        ({6: web}, 3),
        ({}, 4),
        ({}, 4),
    ):
        scope.apply(plan(desired, scope.entries()))
        assert maps.config.scope_epoch == epoch


def test_a_map_that_is_full_is_an_error_and_who_left_is_out(maps: Maps, scope: ScopeMap) -> None:
    web = Entry(False, None, by_docker=True)
    scope.apply(plan({5: web}, {}))
    maps.room = 1
    with pytest.raises(
        DatapathError, match=r"cannot put a network namespace in scope: .* \(E2BIG\)"
    ):
        scope.apply(plan({6: web, 7: web}, scope.entries()))
    assert maps.config.scope_epoch == 2


def test_who_finds_no_room_keeps_nobody_else_in_or_out(maps: Maps, scope: ScopeMap) -> None:
    web = Entry(False, None, by_docker=True)
    left = Entry(False, parse_ports("80,443"), by_docker=True)
    scope.apply(plan({5: left}, {}))
    maps.room = 3
    greedy = Entry(False, parse_ports("1,3,5,7"), by_docker=True)
    with pytest.raises(DatapathError, match="E2BIG"):
        scope.apply(plan({6: greedy, 7: web, 8: left}, scope.entries()))
    assert scope.entries() == {7: web, 8: left}
    assert {key[4:12] for key in maps.of("netns_ports")} == {cookie_key(8)}


def test_who_finds_no_room_for_its_new_ports_is_left_on_tcp(maps: Maps, scope: ScopeMap) -> None:
    scope.apply(plan({5: Entry(False, parse_ports("80"), by_docker=True)}, {}))
    maps.room = 2
    wanted = {5: Entry(False, parse_ports("1,3,5"), by_docker=True)}
    with pytest.raises(DatapathError, match="E2BIG"):
        scope.apply(plan(wanted, scope.entries()))
    assert scope.entries() == maps.of("netns_ports") == {}
    assert maps.config.scope_epoch == 2


def test_networks_are_ours_or_somebody_else_s(maps: Maps, scope: ScopeMap) -> None:
    ours: set[Network] = {ip_network(text) for text, _ in NETWORKS}
    scope.apply_networks(NetworkChanges(put=ours))
    theirs = ip_network("10.9.0.0/16")
    maps.of("local_networks")[network_keys([theirs])[0]] = (1).to_bytes(4, sys.byteorder)
    assert scope.networks() == {**dict.fromkeys(ours, True), theirs: False}
    value = int(LocalFlags.PRESENT | LocalFlags.OURS).to_bytes(4, sys.byteorder)
    assert maps.of("local_networks")[bytes.fromhex(NETWORKS[0][1])] == value
    scope.apply_networks(plan_networks(set(), scope.networks()))
    assert scope.networks() == {theirs: False}


def test_overrides_are_by_name_and_can_be_forgotten(scope: ScopeMap) -> None:
    scope.set_override("web", Override.EXCLUDE)
    scope.set_override("x" * 127, Override.INCLUDE)
    assert scope.overrides() == {"web": Override.EXCLUDE, "x" * 127: Override.INCLUDE}
    scope.set_override("web", Override.INCLUDE)
    scope.remove_override("x" * 127)
    scope.remove_override("never")
    assert scope.overrides() == {"web": Override.INCLUDE}


@pytest.mark.parametrize("name", ["", "x" * 128, "é" * 64, "a\0b"])
def test_a_name_that_is_no_key_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot override container"):
        check_container_name(name)


def test_names_as_long_as_fits_are_taken() -> None:
    check_container_name("x" * 127)
    check_container_name("é" * 63)


def test_too_many_overrides_are_an_error(maps: Maps, scope: ScopeMap) -> None:
    maps.room = 0
    with pytest.raises(DatapathError, match=r"cannot exclude container 'web': .* \(E2BIG\)"):
        scope.set_override("web", Override.EXCLUDE)
