from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from sockaccel.datapath.layout import Side
from sockaccel.datapath.programs import program_key
from sockaccel.inspect import existing
from sockaccel.inspect.existing import (
    count_existing_local,
    count_older,
    count_pairs,
    existing_listeners,
)
from sockaccel.inspect.processes import Owner
from sockaccel.inspect.sockdiag import TcpSocket
from sockaccel.scope.netns import OWN, Namespace, in_netns, netns_cookie
from sockaccel.scope.ports import parse_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces")

Endpoint = tuple[str, int]
_next_cookie = iter(range(1, 10**6))


def end(local: Endpoint, remote: Endpoint) -> TcpSocket:
    family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
    return TcpSocket(next(_next_cookie), 1, 0, family, 1, local, remote)


def both(client: Endpoint, server: Endpoint) -> list[TcpSocket]:
    return [end(client, server), end(server, client)]


A, B = ("10.0.0.2", 40000), ("10.0.0.3", 80)
LO_A, LO_B = ("127.0.0.1", 40000), ("127.0.0.1", 80)


def test_the_two_ends_of_a_connection_count_as_one() -> None:
    assert count_pairs([both(A, B)]) == 1
    assert count_pairs([[end(A, B)], [end(B, A)]]) == 1
    assert count_pairs([both(("fd00::2", 40000), ("fd00::3", 80))]) == 1


def test_an_end_alone_does_not_count() -> None:
    assert count_pairs([[end(A, B)], []]) == 0
    assert count_pairs([[end(A, B)], [end(("10.0.0.3", 81), A)]]) == 0
    assert count_pairs([]) == 0


@pytest.mark.parametrize("which", ["client", "server", "both"])
def test_v4_mapped_ends_pair_with_plain_ones(which: str) -> None:
    client, server = end(A, B), end(B, A)
    mapped_client = end((f"::ffff:{A[0]}", A[1]), (f"::ffff:{B[0]}", B[1]))
    mapped_server = end((f"::ffff:{B[0]}", B[1]), (f"::ffff:{A[0]}", A[1]))
    assert (
        count_pairs(
            [
                [mapped_client if which != "server" else client],
                [mapped_server if which != "client" else server],
            ]
        )
        == 1
    )


@pytest.mark.parametrize(
    ("client", "server"),
    [(LO_A, LO_B), (("::1", 40000), ("::1", 80)), (("127.1.2.3", 4), ("127.0.0.1", 80)), (LO_A, B)],
)
def test_loopback_stays_within_its_namespace(client: Endpoint, server: Endpoint) -> None:
    assert count_pairs([both(client, server)]) == 1
    assert count_pairs([[end(client, server)], [end(server, client)]]) == 0
    assert count_pairs([both(client, server), both(client, server)]) == 2


def test_v4_mapped_loopback_is_loopback() -> None:
    client = end(("::ffff:127.0.0.1", 40000), ("::ffff:127.0.0.1", 80))
    assert count_pairs([[client], [end(LO_B, LO_A)]]) == 0
    assert count_pairs([[client, end(LO_B, LO_A)]]) == 1


def test_equal_addresses_in_several_namespaces_count_as_often_as_they_pair() -> None:
    assert count_pairs([[end(A, B)], [end(A, B)], [end(B, A)]]) == 1
    assert count_pairs([both(A, B), both(A, B)]) == 2


def test_a_socket_connected_to_itself_is_no_pair() -> None:
    assert count_pairs([[end(LO_A, LO_A)]]) == 0


def test_a_socket_that_the_dump_repeats_counts_once() -> None:
    ends = both(A, B)
    assert count_pairs([ends + ends]) == 1


def test_ports_choose_connections_by_either_end() -> None:
    tables = [both(A, B) + both(LO_A, ("127.0.0.1", 8080))]
    assert count_pairs(tables, parse_ports("80")) == 1
    assert count_pairs(tables, parse_ports("80,8000-8999")) == 2
    assert count_pairs(tables, parse_ports("81")) == 0
    assert count_pairs(tables) == 2


def ip(namespace: Namespace, *commands: str) -> None:
    def run() -> None:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)

    in_netns(namespace.path, run)


@pytest.fixture
def pair() -> Iterator[tuple[Namespace, Namespace]]:
    """Return two fresh network namespaces, 10.71.0.1 and .2, joined by a veth pair."""
    with ExitStack() as stack:
        found = []
        for _ in range(2):
            holder = stack.enter_context(
                subprocess.Popen(
                    ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec cat"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            stack.callback(holder.kill)
            assert holder.stdout
            holder.stdout.readline()
            path = f"/proc/{holder.pid}/ns/net"
            found.append((holder.pid, Namespace(netns_cookie(path), path)))
        (_, first), (second_pid, second) = found
        peer = f"type veth peer name v1 netns {second_pid}"
        ip(first, f"link add v0 {peer}", "addr add 10.71.0.1/24 dev v0", "link set v0 up")
        ip(second, "addr add 10.71.0.2/24 dev v1", "link set v1 up")
        yield first, second


@needs_root
def test_connections_within_and_across_real_namespaces_are_counted(
    pair: tuple[Namespace, Namespace],
) -> None:
    first, second = pair
    gone = Namespace(10**9, "/proc/4194305/ns/net")
    own = Namespace(netns_cookie(), OWN)
    with ExitStack() as stack:

        def connect(client: Namespace, server: Namespace, address: str) -> int:
            listener = stack.enter_context(
                in_netns(server.path, lambda: socket.create_server((address, 0)))
            )
            stack.enter_context(
                in_netns(client.path, lambda: socket.create_connection(listener.getsockname()))
            )
            stack.enter_context(listener.accept()[0])
            port: int = listener.getsockname()[1]
            return port

        assert count_existing_local([first, second]) == 0
        across = connect(first, second, "10.71.0.2")
        assert count_existing_local([first, second, gone]) == 1
        assert count_existing_local([first]) == 0
        assert count_existing_local([second, second]) == 0
        assert count_older([first, gone], [second]) == 1
        assert count_older([second], [first]) == 1
        assert count_older([first], []) == 0  # its other end is out of scope
        assert count_older([gone], [first, second]) == 0
        assert count_older([], [first, second]) == 0
        connect(first, first, "127.0.0.1")
        connect(second, second, "10.71.0.2")
        assert count_existing_local([first]) == 1
        assert count_existing_local([first, first, second]) == 3
        assert count_older([first, second], []) == 3
        assert count_older([first], [second]) == 2  # not what is within the second
        assert count_older([first], [second], parse_ports(str(across))) == 1
        assert count_existing_local([first, second], parse_ports(str(across))) == 1
        outside = connect(own, own, "127.0.0.1")
        assert count_existing_local([own], parse_ports(str(outside))) == 1
        assert count_existing_local([first, second]) == 3


SO_COOKIE = 57
LISTENER = """
import socket, struct, sys
server = socket.create_server(("127.0.0.1", 0))
print(struct.unpack("=Q", server.getsockopt(socket.SOL_SOCKET, 57, 8))[0], flush=True)
sys.stdin.read()
"""


def cookie_of(which: socket.socket) -> int:
    cookie: int = struct.unpack("=Q", which.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]
    return cookie


@needs_root
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_listener_is_the_program_that_holds_it(address: str) -> None:
    own = Namespace(netns_cookie(), OWN)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    expected = bytes(program_key(os.getpid(), Side.SERVER))
    with socket.create_server((address, 0), family=family) as server, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        with (
            socket.create_connection(server.getsockname()[:2]) as client,
            server.accept()[0] as end,
        ):
            found = existing_listeners([own, own])
            assert bytes(found[cookie_of(server)]) == expected
            assert not {cookie_of(each) for each in (silent, client, end)} & set(found)
        cookie = cookie_of(server)
    assert cookie not in existing_listeners([own])


@needs_root
def test_listeners_of_other_processes_and_namespaces_are_found(
    pair: tuple[Namespace, Namespace],
) -> None:
    first, second = pair
    command = [sys.executable, "-c", LISTENER]
    with ExitStack() as stack:

        def listener(namespace: Namespace) -> tuple[int, bytes]:
            process = stack.enter_context(
                in_netns(
                    namespace.path,
                    lambda: subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                    ),
                )
            )
            stack.callback(process.kill)
            assert process.stdout
            cookie = int(process.stdout.readline())
            return cookie, bytes(program_key(process.pid, Side.SERVER))

        def found(*namespaces: Namespace) -> dict[int, bytes]:
            return {cookie: bytes(key) for cookie, key in existing_listeners(namespaces).items()}

        gone = Namespace(10**9, "/proc/4194305/ns/net")
        assert found(first, second) == {}
        here, there = dict([listener(first)]), dict([listener(second)])
        assert found(first) == here
        assert found(second) == there
        assert found(gone, first, second) == here | there
        assert found() == {}


def test_a_listener_whose_process_is_gone_or_hidden_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end_of(cookie: int, inode: int) -> TcpSocket:
        return TcpSocket(cookie, inode, 0, socket.AF_INET, 10, ("0.0.0.0", 80), ("0.0.0.0", 0))

    asked = []

    def owners(inodes: set[int]) -> dict[int, Owner]:
        asked.append(inodes)
        # Of 13 nobody knows who holds it; the holder of 12 has ended since.
        return {11: Owner(os.getpid(), "me"), 12: Owner(2**22 + 1, "gone")}

    sockets = [end_of(1, 11), end_of(2, 12), end_of(3, 13), end_of(4, 0)]
    monkeypatch.setattr(existing, "in_netns", lambda *_: sockets)
    monkeypatch.setattr(existing, "owners", owners)
    found = existing_listeners([Namespace(1, "/n")])
    assert {cookie: bytes(key) for cookie, key in found.items()} == {
        1: bytes(program_key(os.getpid(), Side.SERVER))
    }
    assert asked == [{11, 12, 13}]  # all at once, and none without a file
