from __future__ import annotations

import ipaddress
import struct
import sys
from typing import Any

import pytest

from sockaccel.datapath.layout import Conn, ConnRecord, PairKey, Reason, Side
from sockaccel.inspect.connections import Connection, Container, Dump, State, join, tcp_bytes

ESTABLISHED, FIN_WAIT1, FIN_WAIT2, TIME_WAIT = 1, 4, 5, 6
CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING = 7, 8, 9, 11
POLICY = [reason for reason in Reason if reason.is_policy]

CLIENT = (0x11111111, 0x22222222, 0)
SERVER = (0x22222222, 0x11111111, 0)


def record(
    key: tuple[int, int, int],
    side: Side,
    local: str = "10.0.0.1",
    remote: str = "10.0.0.2",
    ports: tuple[int, int] = (40001, 8080),
    *,
    tcp: int = 0,
    **values: Any,
) -> ConnRecord:
    """Return what the kernel would write; `values` are fields of either structure.

    tcp: how far write_seq has moved, all of it acknowledged.
    """
    made = ConnRecord(
        conn=Conn(key=PairKey(*key), side=side),
        write_seq=(key[0] + tcp) & 0xFFFFFFFF,
        bytes_acked=tcp,
        state=ESTABLISHED,
        in_map=1,
        family=2,
        local_port=ports[0],
    )
    # As it lies in the kernel: in network order.
    made.remote_port = int.from_bytes(struct.pack("!H", ports[1]), sys.byteorder)
    addresses = [ipaddress.ip_address(text) for text in (local, remote)]
    if addresses[0].version == 4:
        made.local_ip4[:], made.remote_ip4[:] = (each.packed for each in addresses)
        made.local_ip6[:] = made.remote_ip6[:] = b"\xee" * 16  # of no meaning then
    else:
        made.family = 10
        made.local_ip6[:], made.remote_ip6[:] = (each.packed for each in addresses)
    for name, value in values.items():
        setattr(made.conn if hasattr(Conn, name) else made, name, value)
    return made


def client(**values: Any) -> ConnRecord:
    return record(CLIENT, Side.CLIENT, **values)


def server(**values: Any) -> ConnRecord:
    return record(SERVER, Side.SERVER, "10.0.0.2", "10.0.0.1", (8080, 40001), **values)


def refused(reason: Reason, **values: Any) -> dict[str, Any]:
    """Return the fields of an end that the policy keeps on TCP; it never was in the map."""
    return {"refused": int(reason), "last_reason": int(reason), "in_map": 0, **values}


def joined(*records: ConnRecord, **more: Any) -> tuple[Connection, ...]:
    return join([each.conn.key for each in records], records, **more).connections


def only(*records: ConnRecord, **more: Any) -> Connection:
    (connection,) = joined(*records, **more)
    return connection


@pytest.mark.parametrize("order", [1, -1])
def test_two_ends_are_one_connection(order: int) -> None:
    ends = [client(cookie=7, netns=5, redirected_bytes=10, redirected_messages=2)]
    ends += [server(cookie=9, netns=6, redirected_bytes=30, redirected_messages=4)]
    dump = join([each.conn.key for each in ends[::order]], ends[::order])
    (connection,) = dump.connections
    assert (dump.entries, dump.unreadable) == (2, ())
    assert connection.id == "1111111122222222"
    first, second = connection.client, connection.server
    assert first
    assert second
    assert connection.endpoints == (first, second)
    assert (first.cookie, first.netns_cookie, first.redirected_bytes) == (7, 5, 10)
    assert (second.cookie, second.netns_cookie, second.redirected_bytes) == (9, 6, 30)
    assert (first.redirected_messages, second.redirected_messages) == (2, 4)
    assert (first.local, first.remote) == ("10.0.0.1:40001", "10.0.0.2:8080")
    assert (second.local, second.remote) == ("10.0.0.2:8080", "10.0.0.1:40001")


def test_an_end_without_its_peer_is_shown_on_its_side() -> None:
    alone = only(client())
    assert alone.client
    assert alone.server is None
    assert alone.id == "1111111122222222"
    assert alone.endpoints == (alone.client,)
    alone = only(server())
    assert alone.server
    assert alone.client is None
    assert alone.id == "1111111122222222"


def test_ends_that_agree_in_numbers_but_not_in_the_namespace_are_no_pair() -> None:
    ends = [record((1, 2, 5), Side.CLIENT), record((2, 1, 6), Side.SERVER)]
    assert [(bool(each.client), bool(each.server)) for each in joined(*ends)] == [
        (True, False),
        (False, True),
    ]
    ends = [record((1, 2, 5), Side.CLIENT), record((2, 1, 5), Side.SERVER)]
    assert len(joined(*ends)) == 1


def test_several_connections_are_kept_apart() -> None:
    ends = []
    for number in range(5):
        ends.append(record((number, 100 + number, 0), Side.CLIENT, cookie=number))
        ends.append(record((100 + number, number, 0), Side.SERVER, cookie=100 + number))
    found = joined(*ends[::-1])
    assert len({each.id for each in found}) == 5
    for each in found:
        assert each.client
        assert each.server
        assert each.server.cookie == each.client.cookie + 100


def test_a_key_without_a_record_is_unreadable() -> None:
    dump = join([PairKey(*CLIENT), PairKey(3, 4, 5), PairKey(3, 4, 5)], [client()])
    assert dump.unreadable == ((3, 4, 5),)
    assert dump.entries == 2
    assert len(dump.connections) == 1


def test_a_record_that_has_left_the_map_is_passed_over() -> None:
    dump = join([PairKey(*SERVER)], [client(in_map=0), server()])
    (connection,) = dump.connections
    assert connection.client is None
    assert (dump.entries, dump.unreadable) == (1, ())


@pytest.mark.parametrize("reason", POLICY)
@pytest.mark.parametrize("tcp", [0, 7])
def test_what_the_policy_keeps_on_tcp_is_shown_and_is_no_entry(reason: Reason, tcp: int) -> None:
    ends = [client(**refused(reason, tcp=tcp)), server(**refused(reason))]
    dump = join([], ends)
    (connection,) = dump.connections
    assert (dump.entries, dump.unreadable) == (0, ())
    assert connection.id == "1111111122222222"
    assert connection.state is State.TCP
    assert [end.reason for end in connection.endpoints] == [reason, reason]
    assert sum(end.tcp_bytes for end in connection.endpoints) == tcp


def test_what_the_policy_refused_stands_beside_the_entries_of_the_map() -> None:
    unknown = refused(Reason.POLICY_UNKNOWN)
    other = record((1, 2, 0), Side.CLIENT, **unknown), record((2, 1, 0), Side.SERVER, **unknown)
    ends = [client(redirected_bytes=1), server()]
    dump = join([each.conn.key for each in ends], [*other, *ends])
    assert (dump.entries, dump.unreadable) == (2, ())
    states = {each.id: each.state for each in dump.connections}
    assert states == {"1111111122222222": State.REDIRECT, "0000000100000002": State.TCP}


def shown(dump: Dump) -> tuple[bool, ...]:
    return tuple(bool(each.client) for each in dump.connections)


@pytest.mark.parametrize(
    ("state", "open_"),
    [
        (ESTABLISHED, True),
        (CLOSE_WAIT, True),  # only the peer has closed
        (FIN_WAIT1, False),
        (FIN_WAIT2, False),
        (TIME_WAIT, False),
        (CLOSE, False),
        (LAST_ACK, False),
        (CLOSING, False),
    ],
)
def test_what_its_process_has_closed_is_not_shown_though_the_policy_refused_it(
    state: int, open_: bool
) -> None:
    values = refused(Reason.POLICY_SPLICE, state=state)
    assert shown(join([], [client(**values)])) == (True,) * open_
    # Nor what was never refused, or left the map when it was closed.
    assert shown(join([], [client(in_map=0, state=state)])) == ()


@pytest.mark.parametrize("gone", ["client", "server"])
def test_a_refused_end_whose_peer_has_closed_is_shown_alone(gone: str) -> None:
    values = {
        name: refused(Reason.POLICY_BLOCKING, state=FIN_WAIT2 if name == gone else CLOSE_WAIT)
        for name in ("client", "server")
    }
    connection = only(client(**values["client"]), server(**values["server"]))
    assert connection.state is State.TCP
    assert (connection.client is None, connection.server is None) == (
        gone == "client",
        gone == "server",
    )


def test_a_record_that_is_newer_than_the_walk_counts_as_an_entry() -> None:
    dump = join([PairKey(*CLIENT)], [client(), server()])
    assert dump.entries == 2
    assert len(dump.connections) == 1


def test_nothing_is_nothing() -> None:
    dump = join([], [])
    assert (dump.entries, dump.connections, dump.unreadable) == (0, (), ())


@pytest.mark.parametrize(
    ("client_values", "server_values", "state"),
    [
        ({}, {}, State.REDIRECT),
        ({"redirected_bytes": 1}, {}, State.REDIRECT),
        ({"redirected_bytes": 1}, {"redirected_bytes": 1}, State.REDIRECT),
        ({"tcp": 1}, {}, State.TCP),
        ({}, {"tcp": 1}, State.TCP),
        ({"tcp": 1}, {"redirected_bytes": 1}, State.MIXED),
        ({"redirected_bytes": 1, "tcp": 1}, {}, State.MIXED),
        ({"redirected_bytes": 1, "tcp": 1, "state": FIN_WAIT1}, {}, State.REDIRECT),
        (refused(Reason.POLICY_USER), {}, State.TCP),
        ({}, refused(Reason.POLICY_USER), State.TCP),
    ],
)
def test_the_state_says_which_way_the_bytes_went(
    client_values: dict[str, int], server_values: dict[str, int], state: State
) -> None:
    assert only(client(**client_values), server(**server_values)).state is state


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({}, State.TCP),  # it cannot be redirected any more
        ({"tcp": 1}, State.TCP),
        ({"redirected_bytes": 1}, State.REDIRECT),
        ({"redirected_bytes": 1, "tcp": 1}, State.MIXED),
    ],
)
def test_the_state_of_an_end_alone(values: dict[str, int], state: State) -> None:
    assert only(client(**values)).state is state
    assert only(server(**values)).state is state


@pytest.mark.parametrize(
    ("local", "remote", "texts"),
    [
        ("10.1.2.3", "127.0.0.1", ("10.1.2.3:80", "127.0.0.1:40001")),
        ("::1", "fd00::2:1", ("[::1]:80", "[fd00::2:1]:40001")),
        ("::ffff:10.1.2.3", "::ffff:1.2.3.4", ("[::ffff:10.1.2.3]:80", "[::ffff:1.2.3.4]:40001")),
        ("::", "::10.1.2.3", ("[::]:80", "[::10.1.2.3]:40001")),
    ],
)
def test_addresses_read_as_ss_writes_them(local: str, remote: str, texts: tuple[str, str]) -> None:
    end = only(record(SERVER, Side.SERVER, local, remote, (80, 40001))).server
    assert end
    assert (end.local, end.remote) == texts


@pytest.mark.parametrize("ports", [(1, 256), (256, 1), (0x1F90, 0x901F), (65535, 255)])
def test_ports_are_read_in_the_order_that_each_has(ports: tuple[int, int]) -> None:
    end = only(record(CLIENT, Side.CLIENT, ports=ports)).client
    assert end
    assert (end.local_port, end.remote_port) == ports
    assert end.local.endswith(f":{ports[0]}")
    assert end.remote.endswith(f":{ports[1]}")


@pytest.mark.parametrize("reason", Reason)
def test_the_last_reason_is_told(reason: Reason) -> None:
    end = only(client(last_reason=int(reason))).client
    assert end
    assert end.reason is reason


def test_owners_and_containers_are_looked_up_by_inode_and_namespace() -> None:
    asked = []

    def owner(inode: int) -> tuple[int, str]:
        asked.append(inode)
        return inode + 1, f"p{inode}"

    web = Container("f" * 64, "web")
    connection = only(
        client(inode=41, netns=5),
        server(inode=0, netns=6),  # no file: nobody can hold it
        owner=owner,
        containers={6: web},
    )
    first, second = connection.client, connection.server
    assert first
    assert second
    assert (first.pid, first.process, first.container) == (42, "p41", None)
    assert (second.pid, second.process, second.container) == (None, None, web)
    assert asked == [41]


@pytest.mark.parametrize(
    ("local_seq", "write_seq", "written"),
    [
        (100, 100, 0),
        (100, 105, 5),
        (0xFFFFFFFE, 3, 5),  # past the end of the sequence space
        (0xFFFFFFFF, 0, 1),
        (0, 0x7FFFFFFF, 0x7FFFFFFF),  # nothing acknowledged: more than any window
    ],
)
def test_tcps_share_is_what_write_seq_has_moved(
    local_seq: int, write_seq: int, written: int
) -> None:
    moved = record((local_seq, 1, 0), Side.CLIENT)
    moved.write_seq = write_seq
    for acknowledged in {0, written // 2, written}:
        moved.bytes_acked = acknowledged
        assert tcp_bytes(moved) == written


@pytest.mark.parametrize("local_seq", [0, 100, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("acknowledged", [0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32])
@pytest.mark.parametrize("wraps", [0, 1, 5, 1 << 20])
@pytest.mark.parametrize("in_flight", [0, 1, (1 << 30) - 1])
def test_tcps_share_beyond_4_gib_is_told_by_what_was_acknowledged(
    local_seq: int, acknowledged: int, wraps: int, in_flight: int
) -> None:
    acknowledged += wraps << 32
    written = acknowledged + in_flight
    moved = record((local_seq, 1, 0), Side.CLIENT, tcp=written, bytes_acked=acknowledged)
    assert moved.write_seq == (local_seq + written) % (1 << 32)
    assert tcp_bytes(moved) == written


@pytest.mark.parametrize("written", [0, 10, (1 << 31) - 1, (1 << 32) - 1, 1 << 32, 1 << 40])
def test_a_syn_that_was_acknowledged_is_no_byte(written: int) -> None:
    """A client's SYN, and whoever's FIN, count in bytes_acked as in a sequence number."""
    assert tcp_bytes(client(tcp=written, bytes_acked=written + 1)) == written
    closed = client(tcp=written + 1, bytes_acked=written + 2, state=FIN_WAIT2)
    assert tcp_bytes(closed) == written


@pytest.mark.parametrize(
    ("state", "fin"),
    [
        (ESTABLISHED, 0),
        (CLOSE_WAIT, 0),
        (TIME_WAIT, 0),
        (CLOSE, 0),
        (FIN_WAIT1, 1),
        (FIN_WAIT2, 1),
        (LAST_ACK, 1),
        (CLOSING, 1),
    ],
)
def test_a_fin_has_a_number_and_is_no_byte(state: int, fin: int) -> None:
    assert tcp_bytes(client(tcp=10, state=state)) == 10 - fin
    # The FIN is the one number that is not acknowledged.
    assert tcp_bytes(client(tcp=10, bytes_acked=9, state=state)) == 10 - fin
    assert tcp_bytes(client(tcp=(1 << 32) + 10, state=state)) == (1 << 32) + 10 - fin
    # The state changes a moment before the FIN takes its number.
    assert tcp_bytes(client(state=state)) == 0
    assert tcp_bytes(client(tcp=1, state=state)) == 1 - fin


def test_the_counters_of_tcp_are_shown() -> None:
    end = only(client(tcp=7, tcp_messages=2)).client
    assert end
    assert (end.tcp_bytes, end.tcp_messages) == (7, 2)
