from __future__ import annotations

import json
from pathlib import Path

import pytest

from sockaccel.bench.docker_lab import DockerLab
from sockaccel.bench.dockerd import without_advice
from sockaccel.errors import BenchError


class Daemon:
    """Answers as Docker would, and writes down what it was asked."""

    url = "unix:///d/docker.sock"

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def client(self, *arguments: str) -> list[str]:
        return ["docker", *arguments]

    def docker(self, *arguments: str) -> str:
        self.asked.append(" ".join(arguments))
        return self.answers.get(arguments[0], "")

    def enter(self, argv: list[str]) -> list[str]:
        return ["echo", self.answers["links"], *argv[:0]]


def port(name: str, received: int, sent: int) -> dict[str, object]:
    return {"ifname": name, "stats64": {"rx": {"bytes": received}, "tx": {"bytes": sent}}}


def lab(daemon: Daemon | None = None, subnet: str = "10.9.0.0/24") -> DockerLab:
    return DockerLab(
        daemon or Daemon(),  # type: ignore[arg-type]
        "image",
        ["client", "server"],
        Path("/shared"),
        clients=["client"],
        prefix="x",
        subnet=subnet,
    )


def test_the_first_address_is_left_to_the_gateway() -> None:
    assert [node.address for node in lab().nodes.values()] == ["10.9.0.2", "10.9.0.3"]
    with pytest.raises(ValueError, match="no addresses"):
        lab(subnet="10.9.0.0/30")


def test_the_daemons_containers_are_the_scope() -> None:
    assert lab().scope == ["--docker-host", "unix:///d/docker.sock"]


def test_a_client_runs_in_the_container_of_its_node() -> None:
    assert lab().command("client", ["wrk", "-v"]) == ["docker", "exec", "x-client", "wrk", "-v"]


def test_the_network_reaches_no_further_and_only_clients_wait_in_it() -> None:
    daemon = Daemon(network="0123456789abcdef")
    with lab(daemon):
        made, waiting = daemon.asked
        assert made == "network create --internal --subnet=10.9.0.0/24 x"
        assert waiting.startswith("run --detach --rm --name=x-client --network=x --ip=10.9.0.2 ")
        assert waiting.endswith(" --volume=/shared:/shared image sleep infinity")
        daemon.answers["ps"] = "aa\nbb"
    assert daemon.asked[3:] == ["rm --force aa bb", "network rm x"]


def test_port_bytes_are_those_of_every_port_of_the_bridge() -> None:
    links = json.dumps([port("veth1", 1, 2), port("veth2", 4, 8), {}])
    assert lab(Daemon(links=links, ps="aa\nbb")).port_bytes() == 15


def test_a_container_without_a_port_is_an_error_and_not_silence() -> None:
    links = json.dumps([port("veth1", 1, 2)])
    with pytest.raises(BenchError, match="1 ports for 2 containers"):
        lab(Daemon(links=links, ps="aa\nbb")).port_bytes()


def test_the_process_of_a_container_tells_its_namespace() -> None:
    assert lab(Daemon(inspect="42")).nodes["server"].path == Path("/proc/42/ns/net")
    with pytest.raises(BenchError, match="'x-server': it has ended"):
        _ = lab(Daemon(inspect="0")).nodes["server"].path


def test_advice_does_not_hide_the_cause() -> None:
    said = "docker: Error response from daemon: no space.\nSee 'docker run --help'.\n"
    assert without_advice(said).strip() == "docker: Error response from daemon: no space."
