"""Exact pairing: a byte reaches the socket that the handshake connected, never another."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest

from .harness import (
    IPV4_A,
    IPV4_B,
    Host,
    Lab,
    cookie,
    nothing_to_read,
    receive,
    wait_until,
)
from .packets import RawClient, Sniffer, forge

MESSAGES = 23
IPPROTO_MPTCP = 262
RESET = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
TIES = {"remote", "no-peer", "peer-out-of-scope", "out-of-scope"}


def talk(client: socket.socket, server: socket.socket, secret: bytes) -> None:
    """Exchange a secret in both directions, twice."""
    for number in range(2):
        for sender, receiver in ((client, server), (server, client)):
            message = b"%s %d" % (secret, number)
            sender.sendall(message)
            assert receive(receiver, len(message)) == message


# --- Equal tuples (hazard 1) ----------------------------------------------------------------


def two_worlds(lab: Lab, where: str) -> list[tuple[Host, Host, str, str]]:
    """Return two separate worlds that use the same addresses: client, server, their addresses."""
    if where == "loopback":
        hosts = [lab.host(), lab.host()]
        return [(host, host, "127.0.0.1", "127.0.0.1") for host in hosts]
    if where == "a veth pair each":
        return [(*lab.pair(), IPV4_A, IPV4_B) for _ in range(2)]
    bridges = [lab.bridge(2)[1] for _ in range(2)]
    return [(one, two, IPV4_A, IPV4_B) for one, two in bridges]


@pytest.mark.parametrize("where", ["loopback", "a veth pair each", "a bridge each"])
def test_equal_tuples_in_two_worlds_stay_apart(lab: Lab, where: str) -> None:
    worlds = two_worlds(lab, where)
    lab.start()
    ends = []
    for client_host, server_host, near, far in worlds:
        listener = server_host.listen(far, 6000)
        ends.append(lab.connect(client_host, listener, source=(near, 5000)))
    (one, its_server), (other, other_server) = ends
    assert one.getsockname() == other.getsockname()
    assert one.getpeername() == other.getpeername()
    for _ in range(MESSAGES):
        one.sendall(b"secret-of-A")
        other.sendall(b"secret-of-B")
        assert receive(its_server, 11) == b"secret-of-A"
        assert receive(other_server, 11) == b"secret-of-B"
        other_server.sendall(b"answer-to-B")
        assert nothing_to_read(one)
        assert receive(other, 11) == b"answer-to-B"
    lab.expect_redirected(one, other, other_server)


@pytest.mark.parametrize("where", ["loopback", "a veth pair each", "a bridge each"])
def test_a_server_in_close_wait_reads_nothing_of_an_equal_tuple(lab: Lab, where: str) -> None:
    worlds = two_worlds(lab, where)
    lab.start()
    (client_host, server_host, near, far), other_world = worlds
    gone, stale = lab.connect(client_host, server_host.listen(far, 6000), source=(near, 5000))
    talk(gone, stale, b"secret-of-A")
    gone.close()

    client_host, server_host, near, far = other_world
    client, server = lab.connect(client_host, server_host.listen(far, 6000), source=(near, 5000))
    client.sendall(b"secret-of-B")
    assert receive(server, 11) == b"secret-of-B"
    assert receive(stale, 100) == b""
    with contextlib.suppress(OSError):
        stale.sendall(b"late words of A")
    assert nothing_to_read(client)
    talk(client, server, b"still B")
    lab.expect_redirected(client, server)


@pytest.mark.parametrize("end", ["the server closes first", "the client resets"])
def test_a_reused_tuple_never_meets_an_older_connection(lab: Lab, end: str) -> None:
    one, two = lab.pair()
    lab.start()
    listener = two.listen(IPV4_B, 6000)
    for number in range(50):
        client, server = lab.connect(one, listener, source=(IPV4_A, 5000))
        talk(client, server, b"connection %d" % number)
        server.sendall(b"unread of %d" % number)
        if end == "the client resets":
            client.setsockopt(*RESET)
            client.close()
            with pytest.raises(ConnectionResetError):
                server.recv(1)
            server.close()
        else:
            server.close()
            assert receive(client, 100) == b"unread of %d" % number
            client.close()
    if lab.accelerated:
        assert lab.counters()["connections_paired"] == 50
        assert lab.counters()["redirected_bytes"] > 0
        wait_until(lambda: lab.dump()["entries"] == 0, what="an empty map")


def test_churn_of_connections_mixes_nothing_up(lab: Lab) -> None:
    one, two = lab.pair()
    lab.start()
    listener = two.listen(IPV4_B)
    alive: list[tuple[socket.socket, socket.socket]] = []
    for number in range(300):
        alive.append(lab.connect(one, listener))
        alive[number % len(alive)][0].sendall(b"%09d" % number)
        assert receive(alive[number % len(alive)][1], 9) == b"%09d" % number
        if number % 3:
            for sock in alive.pop(number % len(alive)):
                sock.close()
    for number, (client, server) in enumerate(alive):
        talk(client, server, b"survivor %d" % number)
        assert nothing_to_read(client)
        assert nothing_to_read(server)
    if lab.accelerated:
        assert lab.counters()["connections_paired"] == 300
        assert lab.counters()["tcp_bytes"] == 0


# --- Forgers (hazard 1) ---------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["lives", "has closed its client"])
def test_a_raw_client_with_the_victims_number_gets_nothing_of_it(lab: Lab, victim: str) -> None:
    switch, (one, two, three) = lab.bridge(3)
    lab.start(hosts=[one, two, three])
    sniffer = Sniffer(switch)
    listener = two.listen(IPV4_B, 6000)
    client, server = lab.connect(one, listener)
    number, _ = sniffer.initial_numbers(client)
    talk(client, server, b"secret")
    lab.expect_redirected(client, server)
    if victim != "lives":
        client.close()

    attacker = RawClient(three, ("10.77.1.3", 4444), (IPV4_B, 6000), number)
    attacked = lab.accept(listener)
    assert attacked.getpeername() == ("10.77.1.3", 4444)
    attacker.send(b"from the attacker")
    assert receive(attacked, 17) == b"from the attacker"
    attacked.sendall(b"to the attacker")
    if victim == "lives":
        assert nothing_to_read(client)
        assert nothing_to_read(server)
        talk(client, server, b"still secret")
    else:
        with contextlib.suppress(OSError):
            server.sendall(b"into the void")
        assert receive(server, 100) == b""
    assert nothing_to_read(attacked)
    # Everything the attacker's connection carried went by packets, and nothing else did.
    assert attacker.receive(15) == b"to the attacker"
    if lab.accelerated:
        connection = lab.connection(attacked)
        assert connection is None or connection["own"]["redirected_bytes"] == 0


@pytest.mark.parametrize(
    "case",
    [
        "copies the live client",
        "copies the live server",
        "takes the place of a closed client",
        "takes the place of a client out of scope",
    ],
)
def test_a_socket_with_forged_sequence_numbers_is_never_paired(lab: Lab, case: str) -> None:
    switch, (one, two, three) = lab.bridge(3)
    out_of_scope = case.endswith("out of scope")
    lab.start(hosts=[two, three] if out_of_scope else [one, two, three])
    sniffer = Sniffer(switch)
    client, server = lab.connect(one, two.listen(IPV4_B, 6000))
    port = client.getsockname()[1]
    of_client, of_server = sniffer.initial_numbers(client)
    if not out_of_scope:
        talk(client, server, b"secret")
        lab.expect_redirected(client, server)
    if "closed" in case:
        client.close()
        assert receive(server, 1) == b""

    numbers = (of_client + 1, of_server + 1)
    ports = (port, 6000)
    if "server" in case:
        numbers, ports = numbers[::-1], ports[::-1]
    peer = IPV4_A if "server" in case else IPV4_B
    forged = forge(three, ("10.77.1.3", ports[0]), (peer, ports[1]), *numbers)
    if lab.accelerated:
        assert lab.connection(forged) is None

    with contextlib.suppress(OSError):
        server.sendall(b"for the client's eyes")
    assert nothing_to_read(forged)
    with contextlib.suppress(OSError):
        forged.sendall(b"injected")
    if "closed" in case:
        with contextlib.suppress(ConnectionResetError):
            assert receive(server, 100) == b""
        return
    assert receive(client, 21) == b"for the client's eyes"
    assert nothing_to_read(client)
    assert nothing_to_read(server)
    talk(client, server, b"unharmed")
    if not out_of_scope:
        lab.expect_redirected(client, server)


# --- Address translation (hazard 7) and SYN cookies -----------------------------------------


@pytest.mark.parametrize("tool", ["nft", "iptables"])
@pytest.mark.parametrize("where", ["from another namespace", "within one namespace"])
def test_connections_through_redirect_are_accelerated(lab: Lab, tool: str, where: str) -> None:
    if where == "within one namespace":
        client_host = server_host = lab.host()
        server_host.ip("address add 10.99.0.2/32 dev lo")
        target, chain, hook = "10.99.0.2", "OUTPUT", "output"
    else:
        client_host, server_host = lab.pair()
        target, chain, hook = IPV4_B, "PREROUTING", "prerouting"
    if tool == "nft":
        server_host.nft("nat", hook, "tcp dport 8088 redirect to :15001")
    else:
        rule = ["-p", "tcp", "--dport", "8088", "-j", "REDIRECT", "--to-ports", "15001"]
        server_host.execute("iptables", "-t", "nat", "-A", chain, *rule)
    listener = server_host.listen("0.0.0.0", 15001)
    lab.start()
    client, server = lab.connect(client_host, listener, (target, 8088))
    assert client.getpeername()[1] == 8088
    assert server.getsockname()[1] == 15001
    for number in range(MESSAGES):
        talk(client, server, b"message %d" % number)
    lab.expect_redirected(client, server)
    if lab.accelerated:
        connection = lab.connection(client)
        assert connection
        assert connection["client"]["remote"] == f"{target}:8088"
        assert connection["server"]["local"].endswith(":15001")


def test_connections_made_with_syn_cookies_are_accelerated(lab: Lab) -> None:
    """From the second on: the first one shows that cookies are in use."""
    one, two = lab.pair()
    two.sysctl("net.ipv4.tcp_syncookies", 2)
    lab.start()
    listener = two.listen(IPV4_B)
    first = lab.connect(one, listener)
    talk(*first, b"by either way")
    client, server = lab.connect(one, listener)
    names, values = (
        line.split()
        for line in two.execute("cat", "/proc/net/netstat").splitlines()
        if line.startswith("TcpExt:")
    )
    assert int(dict(zip(names, values, strict=True))["SyncookiesRecv"]) == 2
    for number in range(MESSAGES):
        talk(client, server, b"message %d" % number)
    lab.expect_redirected(client, server)


# --- MPTCP (hazard 15) ----------------------------------------------------------------------


@pytest.mark.parametrize("listens", ["MPTCP", "TCP"])
@pytest.mark.parametrize("connects", ["MPTCP", "TCP"])
def test_mptcp_works_and_is_not_enrolled(lab: Lab, connects: str, listens: str) -> None:
    protocol = {"MPTCP": IPPROTO_MPTCP, "TCP": 0}
    one, two = lab.pair()
    lab.start()
    listener = two.listen(IPV4_B, protocol=protocol[listens])
    client = one.socket(protocol=protocol[connects])
    client.connect(listener.getsockname())
    server = lab.accept(listener)
    for number in range(MESSAGES):
        talk(client, server, b"message %d" % number)
    if lab.accelerated and connects == listens == "MPTCP":
        assert lab.dump()["entries"] == 0
        assert lab.counters()["redirected_bytes"] == 0
        assert lab.counters()["fallbacks"]["mptcp"] > 0
    if lab.accelerated and connects == listens == "TCP":
        lab.expect_redirected(client, server)  # the control


# --- What stays on TCP (hazards 16, 19, 21) -------------------------------------------------


def fallbacks(lab: Lab) -> dict[str, int]:
    return lab.counters()["fallbacks"]


@pytest.mark.parametrize("in_scope", ["client", "server"])
def test_a_peer_out_of_scope_gets_everything_by_tcp(lab: Lab, in_scope: str) -> None:
    _, (client_host, server_host) = lab.bridge(2)
    lab.start(hosts=[client_host if in_scope == "client" else server_host])
    client, server = lab.connect(client_host, server_host.listen(IPV4_B))
    for number in range(MESSAGES):
        talk(client, server, b"message %d" % number)
    if lab.accelerated:
        assert lab.counters()["redirected_bytes"] == 0
        wait_until(lambda: lab.dump()["entries"] == 0, what="no entry without a peer")
        assert lab.connection(client) is lab.connection(server) is None
        assert sum(fallbacks(lab).get(reason, 0) for reason in TIES) > 0


def test_a_destination_elsewhere_is_not_enrolled(lab: Lab) -> None:
    client_host, server_host = lab.pair()
    lab.start(hosts=[client_host])
    # Afterwards: an address of this host would be local.
    server_host.ip("address add 203.0.113.7/32 dev lo")
    client_host.ip(f"route add 203.0.113.7/32 via {IPV4_B}")
    client, server = lab.connect(client_host, server_host.listen("203.0.113.7"))
    if lab.accelerated:
        assert lab.dump()["entries"] == 0
        assert fallbacks(lab)["remote"] == 1
    talk(client, server, b"by packets")
    if lab.accelerated:
        assert lab.counters()["redirected_bytes"] == 0


def test_bystanders_in_the_cgroup_but_out_of_scope_are_left_alone(lab: Lab) -> None:
    one, two = lab.pair()
    other_one, other_two = lab.pair()
    lab.start(hosts=[one, two])
    inside = lab.connect(one, two.listen(IPV4_B, 6000), source=(IPV4_A, 5000))
    outside = lab.connect(other_one, other_two.listen(IPV4_B, 6000), source=(IPV4_A, 5000))
    for number in range(MESSAGES):
        talk(*inside, b"inside %d" % number)
        talk(*outside, b"outside %d" % number)
    lab.expect_redirected(*inside)
    if lab.accelerated:
        assert lab.connection(outside[0]) is lab.connection(outside[1]) is None
        assert lab.counters()["connections_paired"] == 1


def test_only_the_listed_ports_are_accelerated(lab: Lab) -> None:
    one, two = lab.pair()
    lab.start("--ports", "6000,7000-7002")
    ends = {
        port: lab.connect(one, two.listen(IPV4_B, port))
        for port in (5999, 6000, 6001, 6999, 7000, 7001, 7002, 7003)
    }
    for port, (client, server) in ends.items():
        talk(client, server, b"port %d" % port)
    if lab.accelerated:
        known = lab.ends()
        paired = {port for port, (client, _) in ends.items() if cookie(client) in known}
        assert paired == {6000, 7000, 7001, 7002}
        lab.expect_redirected(*ends[6000], *ends[7002])


def test_a_full_map_leaves_the_rest_on_tcp(lab: Lab) -> None:
    one, two = lab.pair()
    lab.start("--max-connections", "4")
    listener = two.listen(IPV4_B)
    ends = [lab.connect(one, listener) for _ in range(10)]
    for number, (client, server) in enumerate(ends):
        talk(client, server, b"connection %d" % number)
    if not lab.accelerated:
        return
    status = lab.status()
    assert status["map"]["entries"] <= status["map"]["max_entries"]
    assert status["counters"]["connections_paired"] == 4
    assert status["counters"]["fallbacks"]["map-full"] >= 6
    known = lab.ends()
    redirected = [end for end in ends if cookie(end[0]) in known]
    assert len(redirected) == 4
    # Room again once some have closed, and nothing of the old ones in it.
    for client, server in redirected:
        client.close()
        server.close()
    late = wait_until(lambda: connect_paired(lab, one, listener), what="a pair in a freed place")
    talk(*late, b"late")
    lab.expect_redirected(*late)


def connect_paired(
    lab: Lab, host: Host, listener: socket.socket
) -> tuple[socket.socket, socket.socket] | None:
    ends = lab.connect(host, listener)
    known = lab.connection(ends[0])
    return ends if known and cookie(ends[0]) == int(known["client"]["cookie"], 16) else None
