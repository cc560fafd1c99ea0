"""Who is in scope: what is decided reaches live and new connections, and the maps hold no more."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from sockaccel.datapath import libbpf, lifecycle
from sockaccel.datapath.lifecycle import Scope
from sockaccel.datapath.scope_map import ScopeMap, network_keys
from sockaccel.datapath.state import Datapath
from sockaccel.errors import InputError, StateError
from sockaccel.scope import labels
from sockaccel.scope.docker import Container
from sockaccel.scope.members import members
from sockaccel.scope.netns import netns_cookie
from sockaccel.scope.plan import Entry
from sockaccel.scope.selection import Override, Policy, Selection

from .harness import (
    IPV4_B,
    Lab,
    bytes_acked,
    receive_stream,
    run,
    send_stream,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .harness import Host

FAILED, USAGE = 1, 2
HELLO = b"hello"


def container(name: str, host: Host, **values: str) -> Container:
    """Return a container as Docker would list it if it had made this namespace."""
    found = {f"sockaccel.{label}": value for label, value in values.items()}
    return Container(name * 8, name, host.pid, "bridge", found, frozenset({"bridge"}))


def selection(*containers: Container, named: set[int] | None = None) -> Selection:
    return Selection(tuple(members(containers)), Policy(), netns_cookie(), frozenset(named or ()))


def update(lab: Lab, *containers: Container, named: set[int] | None = None) -> lifecycle.Updated:
    """Put these containers in scope as far as they want to be, and nobody else."""
    return lifecycle.update_scope(lab.pin_dir, Scope(selection(*containers, named=named).wanted))


def cookie(host: Host) -> int:
    return netns_cookie(str(host.path))


@contextmanager
def scope_map(lab: Lab) -> Iterator[ScopeMap]:
    with Datapath(lab.pin_dir) as datapath:
        yield ScopeMap(datapath)


def entries(lab: Lab) -> dict[int, Entry]:
    with scope_map(lab) as maps:
        return maps.entries()


def epoch(lab: Lab) -> int:
    with Datapath(lab.pin_dir) as datapath:
        return datapath.config.scope_epoch


def elements(lab: Lab, name: str) -> int:
    return len(json.loads(run("bpftool", "-j", "map", "dump", "pinned", lab.pin_dir / name)))


def talk(client: socket.socket, server: socket.socket) -> None:
    for sender, receiver in ((client, server), (server, client)):
        sender.sendall(HELLO)
        assert receiver.recv(len(HELLO), socket.MSG_WAITALL) == HELLO


def is_redirected(lab: Lab, client: Host, server: Host, port: int) -> bool:
    """Return whether a new connection is accelerated. Its listener is new, too."""
    listener = server.listen(IPV4_B, port)
    near, far = lab.connect(client, listener)
    talk(near, far)
    connection = lab.connection(near)
    redirected = bool(connection and connection["state"] == "redirect")
    for each in (near, far, listener):
        lab.close_one(each)
    return redirected


def containers_in_scope(lab: Lab, **values: str) -> tuple[Host, Host, Container, Container]:
    """Enable for two containers, the second with these labels."""
    one, two = lab.pair()
    bystander = lab.host()
    lab.enable(hosts=[bystander])
    client, server = container("client", one), container("server", two, **values)
    update(lab, client, server, named={cookie(bystander)})
    return one, two, client, server


# --- Leaving and coming back ----------------------------------------------------------------


@pytest.mark.parametrize("leaves", ["client", "server"])
def test_a_container_that_leaves_goes_on_by_tcp_and_is_accelerated_when_it_comes_back(
    accelerated_lab: Lab, leaves: str
) -> None:
    lab = accelerated_lab
    one, two, client, server = containers_in_scope(lab)
    near, far = lab.connect(one, two.listen(IPV4_B))
    by_tcp = bytes_acked(near)
    talk(near, far)
    assert bytes_acked(near) == by_tcp
    update(lab, server if leaves == "client" else client)
    for count in (1, 2):
        talk(near, far)
        wait_until(lambda: bytes_acked(near) == by_tcp + count * len(HELLO), what="all by TCP")  # noqa: B023
    assert not is_redirected(lab, one, two, 7001)
    update(lab, client, server)
    by_tcp = bytes_acked(near)
    before, _ = lab.sent(near)
    talk(near, far)
    assert lab.sent(near)[0] == before + len(HELLO)
    assert bytes_acked(near) == by_tcp
    assert is_redirected(lab, one, two, 7001)


def test_no_byte_is_lost_while_containers_come_and_go(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    one, two, client, server = containers_in_scope(lab)
    near, far = lab.connect(one, two.listen(IPV4_B))
    total = 24_000_000
    writer = lab.spawn(send_stream, near, 3, total, [1, 700, 9_000, 64_000])
    back = lab.spawn(send_stream, far, 4, total, [300, 20_000])
    readers = [
        lab.spawn(receive_stream, far, 3, total, 30_000),
        lab.spawn(receive_stream, near, 4, total, 7_000),
    ]
    for _ in range(60):
        update(lab, client)
        update(lab, client, server)
        update(lab, server)
        update(lab, client, server)
    assert [writer.result(), back.result(), *(each.result() for each in readers)] == [total] * 4
    redirected, by_tcp = lab.sent(near)
    assert redirected > 0
    assert by_tcp > 0


def test_only_who_comes_or_goes_makes_live_connections_look_again(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    _, two, client, server = containers_in_scope(lab)
    before = epoch(lab)
    assert not update(lab, client, server, named={cookie(lab.hosts[2])}).changes
    limited = container("server", two, ports="80", policy="all")
    assert update(lab, client, limited, named={cookie(lab.hosts[2])}).changes.put
    assert epoch(lab) == before
    updated = update(lab, client, limited)
    assert (updated.changes.remove, updated.namespaces) == ({cookie(lab.hosts[2])}, 2)
    assert epoch(lab) == before + 1


# --- What a container's ports mean ----------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "asked", "accelerated", "plain"),
    [
        ("7001,7010-7021", None, [7001, 7010, 7015, 7021], [7000, 7002, 7009, 7022]),
        ("7000-7010", "7005-7015", [7005, 7010], [7004, 7011]),
        ("7000", "7001", [], [7000, 7001]),
        ("1-65535", "7001", [7001], [7000]),
    ],
)
def test_a_listener_is_accelerated_where_its_label_and_the_option_name_its_port(
    accelerated_lab: Lab, label: str, asked: str | None, accelerated: list[int], plain: list[int]
) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    lab.enable(*([f"--ports={asked}"] if asked else []), hosts=[lab.host()])
    update(lab, container("client", one), container("server", two, ports=label))
    found = {port: is_redirected(lab, one, two, port) for port in accelerated + plain}
    assert found == {**dict.fromkeys(accelerated, True), **dict.fromkeys(plain, False)}


def test_ports_limit_the_listeners_of_their_own_namespace_only(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    lab.enable(hosts=[lab.host()])
    # As a client it may use any port; its numbers are those of another's prefixes.
    update(lab, container("client", one, ports="80"), container("server", two))
    assert is_redirected(lab, one, two, 7000)
    update(lab, container("client", one), container("server", two, ports="7001"))
    assert not is_redirected(lab, one, two, 7000)
    # Two containers whose lists have nothing in common.
    shared = container("shared", two, ports="7000")
    update(lab, container("client", one), container("server", two, ports="7001"), shared)
    assert not is_redirected(lab, one, two, 7001)


def test_the_ports_of_a_container_leave_the_maps_with_it(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    _, two, client, server = containers_in_scope(lab, ports="1-65534")
    assert elements(lab, "netns_ports") == 30
    ports = labels.ports(server)
    assert entries(lab)[cookie(two)] == Entry(False, ports, by_docker=True)
    update(lab, client, container("server", two, ports="80,443"))
    assert elements(lab, "netns_ports") == 2
    update(lab, client, container("server", two))
    assert elements(lab, "netns_ports") == 0
    update(lab, client, container("server", two, ports="80"))
    update(lab, client)
    assert elements(lab, "netns_ports") == 0


# --- Who put what there ---------------------------------------------------------------------


def test_what_somebody_else_put_in_scope_is_left_alone(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    _, _, client, server = containers_in_scope(lab)
    stranger = lab.host()
    with Datapath(lab.pin_dir) as datapath:
        key = cookie(stranger).to_bytes(8, "little")
        libbpf.update(datapath.fd("scope"), key, (1).to_bytes(4, "little"))
    update(lab, client, server)
    update(lab)
    assert entries(lab).keys() == {cookie(stranger)}
    lab.enable(hosts=[lab.hosts[2]])
    assert entries(lab).keys() == {cookie(stranger), cookie(lab.hosts[2])}


def test_the_same_enable_again_puts_the_new_namespace_of_a_name_in_scope(
    accelerated_lab: Lab,
) -> None:
    lab = accelerated_lab
    host = lab.host()
    lab.enable()
    old = cookie(host)
    assert entries(lab).keys() == {old}
    run("ip", "netns", "del", host.name)
    run("ip", "netns", "add", host.name)
    lab.enable()
    assert cookie(host) != old
    assert entries(lab).keys() == {cookie(host)}


def test_the_networks_follow_and_those_of_somebody_else_stay(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    containers_in_scope(lab)
    near, far, theirs = (ip_network(each) for each in ("10.61.0.0/24", "fd61::/64", "10.9.0.0/16"))
    with scope_map(lab) as maps:
        before = maps.networks()
        assert set(before.values()) == {True}
        assert ip_network("127.0.0.0/8") in before
        assert ip_network(IPV4_B) in before
    with Datapath(lab.pin_dir) as datapath:
        (key,) = network_keys([theirs])
        libbpf.update(datapath.fd("local_networks"), key, (1).to_bytes(4, "little"))
    for networks in ({*before, near, far}, {near}):
        only_networks = Scope(lambda actual, _: actual, networks)
        assert not lifecycle.update_scope(lab.pin_dir, only_networks).changes
        with scope_map(lab) as maps:
            assert maps.networks() == {**dict.fromkeys(networks, True), theirs: False}


# --- The user's word ------------------------------------------------------------------------


def override(lab: Lab, found: Selection, **overrides: Override | None) -> None:
    lifecycle.override_scope(lab.pin_dir, overrides, found.wanted)


def test_an_override_is_carried_out_at_once_and_outlives_whoever_follows_docker(
    accelerated_lab: Lab,
) -> None:
    lab = accelerated_lab
    one, two, client, server = containers_in_scope(lab)
    found = selection(client, server)
    near, far = lab.connect(one, two.listen(IPV4_B))
    talk(near, far)
    by_tcp = bytes_acked(near)
    override(lab, found, server=Override.EXCLUDE)
    talk(near, far)
    wait_until(lambda: bytes_acked(near) == by_tcp + len(HELLO), what="all by TCP")
    # An agent that starts now knows nothing but the maps.
    update(lab, client, server)
    assert entries(lab).keys() == {cookie(one)}
    shown = run("bpftool", "map", "dump", "pinned", lab.pin_dir / "overrides")
    assert '"server"' in shown or b"server".hex(" ") in shown
    override(lab, found, server=None)
    assert entries(lab).keys() == {cookie(one), cookie(two)}
    talk(near, far)
    assert bytes_acked(near) == by_tcp + len(HELLO)


def test_an_override_ends_with_disable(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    _, _, client, server = containers_in_scope(lab)
    override(lab, selection(client, server), server=Override.EXCLUDE)
    lab.disable()
    lab.enable(hosts=[lab.hosts[2]])
    with scope_map(lab) as maps:
        assert maps.overrides() == {}


def test_a_name_that_is_too_long_changes_nothing(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    _, _, client, server = containers_in_scope(lab)
    overrides = {"server": Override.EXCLUDE, "x" * 128: Override.EXCLUDE}
    with pytest.raises(InputError, match="cannot override container 'x"):
        lifecycle.override_scope(lab.pin_dir, overrides, selection(client, server).wanted)
    with scope_map(lab) as maps:
        assert maps.overrides() == {}


# --- Other options while it is enabled ------------------------------------------------------


def test_options_can_be_adjusted_and_live_connections_stay_as_they_are(
    accelerated_lab: Lab,
) -> None:
    lab = accelerated_lab
    one, two, _, _ = containers_in_scope(lab)
    near, far = lab.connect(one, two.listen(IPV4_B, 7000))
    talk(near, far)
    with Datapath(lab.pin_dir) as datapath:
        options = datapath.options
    ids = [each["id"] for each in lab.status()["programs"]]
    limited = replace(options, ports="7001")
    assert lifecycle.adjust(lab.pin_dir, limited, dict) == ["--ports is 7001, not unset"]
    assert lifecycle.adjust(lab.pin_dir, limited, dict) == []
    assert not is_redirected(lab, one, two, 7002)
    assert is_redirected(lab, one, two, 7001)
    sent, _ = lab.sent(near)
    talk(near, far)
    assert lab.sent(near)[0] == sent + len(HELLO)
    assert lifecycle.adjust(lab.pin_dir, options, dict) == ["--ports is unset, not 7001"]
    assert is_redirected(lab, one, two, 7002)
    safe = replace(options, policy="safe")
    assert lifecycle.adjust(lab.pin_dir, safe, dict) == ["--policy is safe, not all"]
    assert not is_redirected(lab, one, two, 7002)
    programs = {each["name"]: each["id"] for each in lab.status()["programs"]}
    assert programs.pop("reader")
    assert lifecycle.adjust(lab.pin_dir, options, dict) == ["--policy is all, not safe"]
    assert ids == list(programs.values()) == [each["id"] for each in lab.status()["programs"]]
    assert is_redirected(lab, one, two, 7002)


def test_what_the_programs_were_loaded_with_cannot_be_adjusted(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    containers_in_scope(lab)
    with Datapath(lab.pin_dir) as datapath:
        options = datapath.options
    other = replace(options, max_connections=7, ports="80")
    with pytest.raises(StateError, match=r"other options: --max-connections is 65536, not 7$"):
        lifecycle.adjust(lab.pin_dir, other, dict)
    with Datapath(lab.pin_dir) as datapath:
        assert datapath.options == options


# --- Where nothing is enabled ---------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["list"], ["exclude", "web"], ["include", "a"], ["reset", "b"]]
)
def test_without_a_datapath_there_is_no_scope(lab: Lab, command: list[str]) -> None:
    refused = lab.cli("scope", *command, expect=FAILED)
    assert refused.stdout == ""
    error, hint = refused.stderr.splitlines()
    assert error == f"Error: cannot use the scope of '{lab.pin_dir}': nothing is enabled there"
    assert hint == f"Hint: sockaccel --pin-dir {lab.pin_dir} enable"
    with pytest.raises(StateError):
        update(lab)
