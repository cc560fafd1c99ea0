"""Published ports: what reaches them how, what of it is accelerated, and that nothing breaks.

docs/docker.md says the same in a table.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from containers.harness import MESSAGES, DockerLab, talk
from kernel.harness import Host, Stream, receive, removed, wait_until

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from sockaccel.bench.dockerd import Dockerd

PORT, PUBLISHED = 7000, 8080
CONNTRACK_TIMEOUT_S = 10
UNDER_TRAFFIC_S = 26


class Published:
    """A container whose port is published, one on another network, and the host."""

    def __init__(self, lab: DockerLab) -> None:
        self.lab = lab
        lab.network("front")
        lab.network("back")
        client = lab.container("client", "--network", "front")
        server = lab.container("server", "--network", "back", "-p", f"{PUBLISHED}:{PORT}")
        self.host, self.client, self.server = lab.outside(), lab.inside(client), lab.inside(server)
        networks = server.inspect()["NetworkSettings"]["Networks"]
        self.gateway = (str(networks["back"]["Gateway"]), PUBLISHED)
        self.direct = (server.address("back"), PORT)
        self.loopback = ("127.0.0.1", PUBLISHED)
        self.listener = self.server.listen("0.0.0.0", PORT)

    def connect(self, client: Host, to: tuple[str, int]) -> tuple[socket.socket, socket.socket]:
        return self.lab.connect(client, self.listener, to)

    def ways(self, client: Host, to: tuple[str, int]) -> set[str]:
        return self.lab.ways_of(*self.connect(client, to))

    def neighbour(self) -> tuple[Host, tuple[str, int]]:
        """Return a host on the same wire as the daemon's, and what it reaches the port by."""
        host = self.lab.host()
        host.ip(
            f"link add eth0 type veth peer name lan0 netns {self.lab.dockerd.netns.name}",
            "address add 10.99.0.2/24 dev eth0",
            "link set eth0 up",
        )
        self.host.ip("address add 10.99.0.1/24 dev lan0", "link set lan0 up")
        return host, ("10.99.0.1", PUBLISHED)


def fallbacks(lab: DockerLab) -> dict[str, int]:
    found: dict[str, int] = lab.counters()["fallbacks"]
    return found


def host_in_scope(lab: DockerLab) -> str:
    return f"--netns={lab.dockerd.netns}"


# --- By default: the containers alone are in scope ------------------------------------------


@pytest.mark.parametrize("policy", ["safe", "all"])
def test_whatever_comes_through_the_host_stays_on_tcp_when_only_containers_are_in_scope(
    lab: DockerLab, policy: str
) -> None:
    site = Published(lab)
    neighbour, address = site.neighbour()
    lab.enable(f"--policy={policy}")
    for client, to in (
        (site.client, site.gateway),
        (site.server, site.gateway),
        (site.host, site.gateway),
        (site.host, site.loopback),
        (site.host, site.direct),
        (neighbour, address),
    ):
        assert site.ways(client, to) == {"tcp"}
    assert set(fallbacks(lab)) == {"out-of-scope", "peer-out-of-scope"}


# --- With the host in scope -----------------------------------------------------------------


@pytest.mark.parametrize("policy", ["safe", "all"])
def test_docker_proxy_works_when_the_host_is_in_scope(lab: DockerLab, policy: str) -> None:
    site = Published(lab)
    lab.enable(f"--policy={policy}", host_in_scope(lab))
    for client, to in (
        (site.client, site.gateway),
        (site.server, site.gateway),
        (site.host, site.loopback),
    ):
        assert "redirect" not in site.ways(client, to)
    # Of either way through the proxy at least the half behind it is refused for what it is.
    assert fallbacks(lab)["policy-splice"] >= 3


def test_docker_proxy_that_starts_later_works_under_policy_all(lab: DockerLab) -> None:
    lab.enable("--policy=all", host_in_scope(lab))
    site = Published(lab)
    lab.enable("--policy=all", host_in_scope(lab))
    assert site.ways(site.host, site.loopback) == {"tcp"}
    assert fallbacks(lab) == {"policy-splice": 2}


def test_docker_proxy_that_an_agent_sees_start_works_under_policy_all(lab: DockerLab) -> None:
    lab.agent("--policy=all", host_in_scope(lab))
    site = Published(lab)
    wait_until(lambda: len(lab.scope()) == 3, what="both containers beside the host in scope")
    assert site.ways(site.host, site.loopback) == {"tcp"}
    assert fallbacks(lab) == {"policy-splice": 2}


def test_what_the_host_reaches_without_the_proxy_is_accelerated(lab: DockerLab) -> None:
    site = Published(lab)
    neighbour, address = site.neighbour()
    lab.enable(host_in_scope(lab), f"--netns={neighbour.path}")
    assert site.ways(site.host, site.direct) == {"redirect"}
    for client, to in ((site.host, site.gateway), (neighbour, address)):
        near, far = site.connect(client, to)
        # Translated on the way: connection tracking sees one message of it now and then.
        assert near.getpeername() != far.getsockname()
        lab.ways_of(near, far)
        talk(near, far)
        for sock in (near, far):
            redirected, by_tcp = lab.sent(sock)
            assert redirected > 0.9 * (redirected + by_tcp)
    assert set(fallbacks(lab)) <= {"conntrack"}


# --- A daemon without docker-proxy ----------------------------------------------------------


@pytest.fixture
def lab_without_proxy(second: Dockerd) -> Iterator[DockerLab]:
    with removed(DockerLab(second)) as made:
        yield made


def test_without_docker_proxy_a_container_reaches_its_own_port_by_translation_and_is_accelerated(
    lab_without_proxy: DockerLab,
) -> None:
    lab = lab_without_proxy
    site = Published(lab)
    lab.enable()
    assert "redirect" in site.ways(site.server, site.gateway)


def test_without_docker_proxy_the_hosts_loopback_is_translated_and_stays_on_tcp(
    lab_without_proxy: DockerLab,
) -> None:
    lab = lab_without_proxy
    site = Published(lab)
    lab.enable(host_in_scope(lab))
    assert site.ways(site.host, site.loopback) == {"tcp"}
    # One end has loopback addresses, the other has not: never one pair.
    assert fallbacks(lab)["no-peer"] == 1


# --- Connection tracking --------------------------------------------------------------------


def test_translated_connections_under_traffic_outlive_conntracks_timeout_and_disable(
    lab: DockerLab,
) -> None:
    site = Published(lab)
    neighbour, address = site.neighbour()
    site.host.sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", CONNTRACK_TIMEOUT_S)
    lab.enable(host_in_scope(lab), f"--netns={neighbour.path}")
    busy = [site.connect(site.host, site.gateway), site.connect(neighbour, address)]
    slow = [site.connect(site.host, site.gateway), site.connect(neighbour, address)]
    stream, sent, rounds = Stream(1), 0, 0

    def exchange(pairs: list[tuple[socket.socket, socket.socket]], piece: bytes) -> None:
        for near, far in pairs:
            for sender, receiver in ((near, far), (far, near)):
                sender.sendall(piece)
                assert receive(receiver, len(piece)) == piece

    end = time.monotonic() + UNDER_TRAFFIC_S
    while time.monotonic() < end:
        exchange(busy, stream.at(sent, 1000))
        # One message in three seconds is enough for TCP, too.
        if rounds % 150 == 0:
            exchange(slow, stream.at(sent, 100))
        sent, rounds = sent + 1000, rounds + 1
        time.sleep(0.02)
    for near, far in busy:
        for sock in (near, far):
            redirected, by_tcp = lab.sent(sock)
            # One message every 0.1 s shows connection tracking that it lives.
            assert redirected > by_tcp
    lab.disable()
    exchange(busy + slow, stream.at(sent, 1000))
    for near, far in busy + slow:
        lab.close_one(near)
        assert receive(far, 1) == b""
    assert rounds > MESSAGES
