"""`sockaccel agent`: containers are accelerated because they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from containers.harness import IMAGE, MESSAGE, PORT, Container, DockerLab, talk, wire_silent
from kernel.harness import Stream, receive, removed, wait_until

from sockaccel.datapath.scope_map import ScopeMap
from sockaccel.datapath.state import Datapath

if TYPE_CHECKING:
    import socket

    from kernel.harness import Host

    from sockaccel.bench.dockerd import Dockerd

# Answers what it is sent; asyncio never waits in recv().
ECHO = """
import asyncio
async def answer(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def main():
    async with await asyncio.start_server(answer, "0.0.0.0", 7000) as server:
        await server.serve_forever()
asyncio.run(main())
"""


def joined(lab: DockerLab, network: str, one: Container, two: Container) -> tuple[Host, Host, str]:
    """Return two containers as hosts, and the address of the second."""
    return lab.inside(one), lab.inside(two), two.address(network)


def await_listener(lab: DockerLab, client: Host, address: str, port: int = PORT) -> socket.socket:
    """Connect as soon as a program in a container listens."""

    def connect() -> socket.socket | None:
        sock = client.socket()
        try:
            sock.connect((address, port))
        except OSError:
            lab.close_one(sock)
            return None
        return sock

    return wait_until(connect, 10, "a listener")


def echo(sock: socket.socket, stream: Stream, offset: int, count: int) -> int:
    """Send so much of a stream and check what comes back; return the new offset."""
    for start in range(offset, offset + count, 1000):
        sock.sendall(stream.at(start, 1000))
        stream.check(start, receive(sock, 1000))
    return offset + count


# --- Because they run -----------------------------------------------------------------------


def test_two_containers_are_accelerated_with_no_command_but_the_agents(lab: DockerLab) -> None:
    lab.agent()
    one, two = lab.pair_on("net")
    lab.await_scope(one, two)
    near, far, address = joined(lab, "net", one, two)
    client, server = lab.connect(near, far.listen(address, PORT))
    assert lab.ways_of(client, server) == {"redirect"}
    assert wire_silent([near, far], lambda: talk(client, server))
    shown = lab.connection(client)
    assert shown
    assert shown["state"] == "redirect"
    assert shown["client"]["container"]["name"] == "net-1"
    assert shown["server"]["container"]["name"] == "net-2"
    assert lab.counters()["fallbacks"] == {}
    lab.docker("rm", "--force", "net-1")
    lab.await_scope(two)


def test_programs_known_by_name_are_accelerated_by_default(lab: DockerLab) -> None:
    lab.agent("--policy=safe")
    lab.network("net")
    server = lab.container(
        "server", "--network", "net", command=("redis-server", "--protected-mode", "no")
    )
    client = lab.container("client", "--network", "net")
    lab.await_scope(server, client)
    await_listener(lab, lab.inside(client), server.address("net"), 6379)
    benchmark = ("redis-benchmark", "-h", "server", "-t", "set", "-n", "2000", "-d", "1000", "-q")
    client.exec(*benchmark)
    assert lab.counters()["redirected_bytes"] > 1_900_000


def test_the_label_policy_takes_the_programs_of_a_container_as_they_are(lab: DockerLab) -> None:
    lab.agent("--policy=safe")
    one, two = lab.pair_on("net", "--label", "sockaccel.policy=all")
    other = lab.container("other", "--network", "net")
    lab.await_scope(one, two, other)
    near, far, address = joined(lab, "net", one, two)
    assert lab.ways(near, far, address) == {"redirect"}
    # Of the one without the label it is asked; the other has nothing to blame its own for.
    assert lab.ways(lab.inside(other), far, address) == {"policy-unknown", "tcp"}


@pytest.mark.parametrize("restarted", [0, 1])
def test_a_restart_of_either_end_recovers_by_itself(lab: DockerLab, restarted: int) -> None:
    lab.agent()
    ends = lab.pair_on("net")
    lab.await_scope(*ends)
    near, far, address = joined(lab, "net", *ends)
    assert lab.ways(near, far, address) == {"redirect"}
    before = ends[restarted].cookie
    lab.docker("restart", "--time", "0", ends[restarted].name)
    assert ends[restarted].cookie != before
    lab.await_scope(*ends)
    near, far, address = joined(lab, "net", *ends)
    assert lab.ways(near, far, address) == {"redirect"}


def test_a_paused_container_stays_in_scope_and_loses_no_byte(lab: DockerLab) -> None:
    lab.agent()
    lab.network("net")
    server = lab.container("server", "--network", "net", command=("/usr/bin/python3", "-c", ECHO))
    client = lab.container("client", "--network", "net")
    lab.await_scope(server, client)
    sock = await_listener(lab, lab.inside(client), server.address("net"))
    stream = Stream(1)
    offset = echo(sock, stream, 0, 10_000)
    lab.docker("pause", "server")
    assert lab.decisions()["server"] == (True, "in-scope")
    sock.sendall(stream.at(offset, 50_000))
    lab.docker("unpause", "server")
    stream.check(offset, receive(sock, 50_000))
    echo(sock, stream, offset + 50_000, 10_000)
    lab.expect_redirected(sock)
    assert lab.sent(sock)[1] == 0
    lab.await_scope(server, client)


def test_a_renamed_container_stays_in_scope_under_its_new_name(lab: DockerLab) -> None:
    lab.agent()
    one, two = lab.pair_on("net")
    lab.await_scope(one, two)
    near, far, address = joined(lab, "net", one, two)
    client, server = lab.connect(near, far.listen(address, PORT))
    assert lab.ways_of(client, server) == {"redirect"}
    lab.docker("rename", "net-2", "other")
    other = Container(lab.dockerd, "other")
    wait_until(lambda: "other" in lab.decisions(), what="the new name")
    assert lab.decisions() == {"net-1": (True, "in-scope"), "other": (True, "in-scope")}
    lab.await_scope(one, other)
    assert lab.ways_of(client, server) == {"redirect"}
    shown = lab.connection(server)
    assert shown
    assert shown["own"]["container"]["name"] == "other"


# --- Labels and filters ---------------------------------------------------------------------


def test_labels_and_filters_decide_and_the_list_says_why(lab: DockerLab) -> None:
    agent = lab.agent()
    lab.network("net")
    network = ("--network", "net")
    plain = lab.container("plain", *network)
    lab.container("refused", *network, "--label", "sockaccel.enable=false")
    lab.container("mistaken", *network, "--label", "sockaccel.enable=maybe")
    lab.container("wrong-ports", *network, "--label", "sockaccel.ports=80,http")
    asked = lab.container("asked", *network, "--label", "sockaccel.enable=true")
    lab.await_scope(plain, asked)
    assert lab.decisions() == {
        "plain": (True, "in-scope"),
        "asked": (True, "in-scope"),
        "refused": (False, "label"),
        "mistaken": (False, "bad-label"),
        "wrong-ports": (False, "bad-label"),
    }
    agent.await_word("sockaccel.enable", "'mistaken'", "'maybe'")
    agent.await_word("sockaccel.ports", "'wrong-ports'", "http")
    near, far = lab.inside(plain), lab.inside(Container(lab.dockerd, "refused"))
    refused = Container(lab.dockerd, "refused").address("net")
    assert lab.ways(near, far, refused) == {"tcp"}
    assert lab.ways(near, lab.inside(asked), asked.address("net")) == {"redirect"}


def test_opt_in_takes_only_those_that_ask_for_it(lab: DockerLab) -> None:
    lab.agent("--opt-in")
    lab.network("net")
    lab.container("silent", "--network", "net")
    asked = lab.container("asked", "--network", "net", "--label", "sockaccel.enable=true")
    lab.await_scope(asked)
    assert lab.decisions()["silent"] == (False, "opt-in")


def test_networks_and_projects_limit_the_scope(lab: DockerLab) -> None:
    lab.agent("--network=front", "--network=back", "--project=shop")
    for name in ("front", "back", "other"):
        lab.network(name)
    project = ("--label", "com.docker.compose.project=shop")
    both = [
        lab.container("one", "--network", "front", *project),
        lab.container("two", "--network", "back", *project),
    ]
    lab.container("elsewhere", "--network", "other", *project)
    lab.container("of-nobody", "--network", "front")
    lab.await_scope(*both)
    assert lab.decisions()["elsewhere"] == (False, "network")
    assert lab.decisions()["of-nobody"] == (False, "project")
    # A container that joins a network while it runs joins the scope.
    lab.docker("network", "connect", "back", "elsewhere")
    lab.await_scope(*both, Container(lab.dockerd, "elsewhere"))
    lab.docker("network", "disconnect", "back", "elsewhere")
    lab.await_scope(*both)


def test_the_label_ports_limits_a_container_to_listeners_on_these(lab: DockerLab) -> None:
    lab.agent()
    lab.network("net")
    client = lab.container("client", "--network", "net")
    server = lab.container("server", "--network", "net", "--label", "sockaccel.ports=80,7000-7002")
    lab.await_scope(client, server)
    near, far, address = joined(lab, "net", client, server)
    for port, ways in ((7000, "redirect"), (7002, "redirect"), (80, "redirect")):
        assert lab.ways(near, far, address, port=port) == {ways}
    assert "redirect" not in lab.ways(near, far, address, port=7003)
    # The list is of the server's ports: as a client it goes where it likes.
    assert lab.ways(far, near, client.address("net"), port=9999) == {"redirect"}


# --- Namespaces that are shared -------------------------------------------------------------


def test_containers_that_share_a_namespace_are_in_scope_only_together(lab: DockerLab) -> None:
    lab.agent()
    one, two = lab.pair_on("net")
    lab.container("guest", "--network", "container:net-1")
    lab.await_scope(one, two)
    near, far, address = joined(lab, "net", one, two)
    assert lab.ways(near, far, address) == {"redirect"}
    lab.container("objector", "--network", "container:net-1", "--label", "sockaccel.enable=false")
    lab.await_scope(two)
    decisions = lab.decisions()
    assert decisions["objector"] == (False, "label")
    assert decisions["net-1"] == decisions["guest"] == (False, "shared")
    lab.docker("rm", "--force", "objector")
    lab.await_scope(one, two)


def test_the_hosts_namespace_is_never_in_scope_because_of_a_container(lab: DockerLab) -> None:
    agent = lab.agent()
    lab.container("on-the-host", "--network", "host", "--label", "sockaccel.enable=true")
    apart = lab.container("apart", "--network", "none")
    lab.await_scope(apart)
    assert lab.decisions()["on-the-host"] == (False, "host-network")
    agent.await_word("'on-the-host'", "--netns /proc/1/ns/net")


# --- Networks -------------------------------------------------------------------------------


def test_a_network_that_is_connected_later_is_local_at_once(lab: DockerLab) -> None:
    lab.agent()
    one, two = lab.pair_on("net")
    lab.network("later")
    lab.await_scope(one, two)
    near, far, address = joined(lab, "net", one, two)
    client, server = lab.connect(near, far.listen(address, PORT))
    for container in (one, two):
        lab.docker("network", "connect", "later", container.name)
    assert lab.ways(near, far, two.address("later"), port=7001) == {"redirect"}
    lab.docker("network", "disconnect", "later", one.name)
    assert lab.ways(near, far, address, port=7001) == {"redirect"}
    assert lab.ways_of(client, server) == {"redirect"}


def test_ipv6_networks_are_accelerated(lab: DockerLab) -> None:
    lab.agent()
    lab.network("six", "--ipv6", "--subnet", "fd00:5ac:6::/64")
    one, two = (lab.container(name, "--network", "six") for name in ("one", "two"))
    lab.await_scope(one, two)
    near, far = lab.inside(one), lab.inside(two)
    address = two.address("six", ipv6=True)
    assert lab.ways(near, far, address) == {"redirect"}
    # A listener for both families sees an IPv4 client by a mapped address.
    assert lab.ways(near, far, "::", to=(two.address("six"), 7001), port=7001) == {"redirect"}


def test_of_a_macvlan_whose_wire_has_remote_hosts_only_the_containers_are_local(
    lab: DockerLab,
) -> None:
    host = lab.outside()
    host.ip("link add wire0 type veth peer name wire1", "link set wire0 up", "link set wire1 up")
    try:
        lab.agent()
        subnet = ("--subnet", "10.88.0.0/24")
        lab.network("wire", "--driver", "macvlan", *subnet, "--opt", "parent=wire0")
        one, two = (lab.container(name, "--network", "wire") for name in ("one", "two"))
        lab.await_scope(one, two)
        near, far, address = joined(lab, "wire", one, two)
        assert lab.ways(near, far, address) == {"redirect"}
        with Datapath(lab.pin_dir) as datapath:
            local = {str(network) for network in ScopeMap(datapath).networks()}
        assert {f"{one.address('wire')}/32", f"{address}/32"} <= local
        assert "10.88.0.0/24" not in local
    finally:
        lab.docker("rm", "--force", "one", "two")
        lab.docker("network", "rm", "wire")
        host.ip("link del wire0")


def test_equal_addresses_of_two_daemons_are_never_mixed_up(lab: DockerLab, second: Dockerd) -> None:
    subnet = ("--subnet", "172.31.7.0/24")
    lab.network("twin", *subnet)
    second.docker("network", "create", *subnet, "twin")
    for name in ("client", "server"):
        lab.container(name, "--network", "twin")
        second.docker("run", "-d", "--name", name, "--network", "twin", IMAGE, "sleep", "infinity")
    try:
        here = [Container(lab.dockerd, name) for name in ("client", "server")]
        there = [Container(second, name) for name in ("client", "server")]
        lab.agent(*(f"--netns={container.path}" for container in there))
        assert [each.address("twin") for each in here] == [each.address("twin") for each in there]
        address = here[1].address("twin")
        pairs = []
        for client, server in (here, there):
            near, far = lab.inside(client), lab.inside(server)
            listener = far.listen(address, PORT)
            pairs.append(lab.connect(near, listener, source=(client.address("twin"), 45_000)))
        (client, server), (their_client, their_server) = pairs
        assert client.getsockname() == their_client.getsockname()
        assert client.getpeername() == their_client.getpeername()
        for number in range(50):
            for near, far, whose in ((client, server, b"o"), (their_client, their_server, b"t")):
                message = whose * (100 + number)
                near.sendall(message)
                far.sendall(message.upper())
                assert receive(far, len(message)) == message
                assert receive(near, len(message)) == message.upper()
        lab.expect_redirected(client, server, their_client, their_server)
    finally:
        lab.close_sockets()
        second.docker("rm", "--force", "client", "server")
        second.docker("network", "rm", "twin")


# --- Connections that last ------------------------------------------------------------------


def test_connections_from_before_stay_on_tcp_and_are_counted(lab: DockerLab) -> None:
    one, two = lab.pair_on("net")
    near, far, address = joined(lab, "net", one, two)
    client, server = lab.connect(near, far.listen(address, PORT))
    lab.agent()
    assert lab.ways_of(client, server) == {"tcp"}
    wait_until(lambda: lab.status()["agent"]["open_before"] == 1, what="one connection counted")


def test_excluding_puts_live_connections_on_tcp_and_including_brings_them_back(
    lab: DockerLab,
) -> None:
    agent = lab.agent()
    one, two = lab.pair_on("net")
    lab.await_scope(one, two)
    near, far, address = joined(lab, "net", one, two)
    client, server = lab.connect(near, far.listen(address, PORT))
    assert lab.ways_of(client, server) == {"redirect"}
    # What is under way when the scope changes is not lost either.
    client.sendall(MESSAGE)
    lab.cli("scope", "exclude", "net-2")
    assert lab.scope() == {one.cookie}
    assert receive(server, len(MESSAGE)) == MESSAGE
    assert "redirect" not in lab.ways_of(client, server)
    assert lab.decisions()["net-2"] == (False, "excluded")
    # The word outlives the agent.
    agent.kill()
    lab.agent()
    assert lab.decisions()["net-2"] == (False, "excluded")
    assert lab.scope() == {one.cookie}
    client.sendall(MESSAGE)
    lab.cli("scope", "include", "net-2")
    assert lab.scope() == {one.cookie, two.cookie}
    assert receive(server, len(MESSAGE)) == MESSAGE
    assert lab.ways_of(client, server) == {"redirect"}
    assert lab.decisions()["net-2"] == (True, "included")


def test_a_killed_agent_is_taken_over_from_without_touching_live_connections(
    lab: DockerLab,
) -> None:
    agent = lab.agent()
    one, two = lab.pair_on("net")
    lab.await_scope(one, two)
    near, far, address = joined(lab, "net", one, two)
    client, server = lab.connect(near, far.listen(address, PORT))
    assert lab.ways_of(client, server) == {"redirect"}
    agent.kill()
    assert lab.ways_of(client, server) == {"redirect"}
    newcomer = lab.container("newcomer", "--network", "net")
    lab.docker("rm", "--force", "net-1")
    with Datapath(lab.pin_dir) as datapath:
        program = datapath.programs()
    lab.agent()
    lab.await_scope(two, newcomer)
    with Datapath(lab.pin_dir) as datapath:
        assert datapath.programs() == program
    assert lab.ways(lab.inside(newcomer), far, address, port=7001) == {"redirect"}


def test_an_agent_that_is_killed_and_started_again_changes_nothing(lab: DockerLab) -> None:
    agent = lab.agent()
    one, two = lab.pair_on("net")
    lab.await_scope(one, two)
    near, far, address = joined(lab, "net", one, two)
    client, server = lab.connect(near, far.listen(address, PORT))
    assert lab.ways_of(client, server) == {"redirect"}
    with Datapath(lab.pin_dir) as datapath:
        epoch = datapath.config.scope_epoch
    agent.kill()
    lab.agent()
    with Datapath(lab.pin_dir) as datapath:
        assert datapath.config.scope_epoch == epoch
    assert lab.ways_of(client, server) == {"redirect"}


# --- A daemon that comes and goes -----------------------------------------------------------


@pytest.mark.parametrize("crash", [False, True])
def test_containers_that_outlive_their_daemon_stay_accelerated(lab: DockerLab, crash: bool) -> None:
    agent = lab.agent()
    one, two = lab.pair_on("net")
    lab.await_scope(one, two)
    near, far, address = joined(lab, "net", one, two)
    client, server = lab.connect(near, far.listen(address, PORT))
    before = lab.scope()
    if crash:
        lab.dockerd.kill()
    else:
        lab.dockerd.stop()
    try:
        agent.await_word("what is in scope stays")
        assert lab.scope() == before
        assert lab.ways_of(client, server) == {"redirect"}
    finally:
        lab.dockerd.start()
    agent.await_word("connected again")
    three = lab.container("three", "--network", "net")
    lab.await_scope(one, two, three)
    assert lab.ways_of(client, server) == {"redirect"}
    assert lab.ways(lab.inside(three), far, address, port=7001) == {"redirect"}


def test_containers_that_end_with_their_daemon_leave_the_scope(second: Dockerd) -> None:
    with removed(DockerLab(second)) as lab:
        agent = lab.agent()
        one, two = lab.pair_on("net", "--restart", "always")
        three = lab.container("three", "--network", "net")
        lab.await_scope(one, two, three)
        second.restart()
        agent.await_word("connected again")
        wait_until(lambda: one.pid and two.pid, 10, "both are there again")
        lab.await_scope(one, two)
        near, far, address = joined(lab, "net", one, two)
        assert lab.ways(near, far, address) == {"redirect"}


def test_an_agent_that_was_there_before_docker_follows_when_docker_comes(
    second: Dockerd,
) -> None:
    with removed(DockerLab(second)) as lab:
        second.stop()
        try:
            agent = lab.agent(await_docker=False)
            agent.await_word("cannot reach Docker")
        finally:
            second.start()
        one, two = lab.pair_on("net")
        lab.await_scope(one, two)
        assert lab.ways(*joined(lab, "net", one, two)) == {"redirect"}
