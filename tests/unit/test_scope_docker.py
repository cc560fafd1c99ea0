from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from docker import APIClient
from fake_docker import FakeDocker

from sockaccel.errors import DockerError, InputError
from sockaccel.scope import docker
from sockaccel.scope.docker import Container, Docker, Event, docker_url, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# docker-py does not close a socket that it could not connect, see _release().
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)


def unused_sockets() -> set[socket.socket]:
    """Return the Unix sockets that are open, but neither bound nor connected."""
    every = (each for each in gc.get_objects() if type(each) is socket.socket)
    ours = (each for each in every if each.fileno() != -1 and each.family is socket.AF_UNIX)
    return {each for each in ours if "addr=" not in repr(each)}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDocker]:
    with FakeDocker(tmp_path / "docker.sock") as fake:
        yield fake


def test_the_address_is_the_option_then_the_environment_then_the_usual(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old, new = tmp_path / "old.sock", tmp_path / "new.sock"
    monkeypatch.setattr(docker, "_SOCKETS", (str(new), str(old)))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert docker_url() == f"unix://{new}"
    old.touch()
    assert docker_url() == f"unix://{old}"
    new.touch()
    assert docker_url() == f"unix://{new}"
    monkeypatch.setenv("DOCKER_HOST", "unix:///from/environment")
    assert docker_url() == "unix:///from/environment"
    assert docker_url("unix:///from/option") == "unix:///from/option"


@pytest.mark.parametrize(
    "url", ["tcp://10.0.0.1:2375", "ssh://me@there", "https://x", "npipe:////./pipe/x", "x"]
)
def test_another_host_s_docker_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", url)
    with pytest.raises(InputError) as caught:
        snapshot()
    assert url in str(caught.value)
    assert "only containers of this host can be accelerated" in str(caught.value)
    assert (caught.value.hint or "").startswith("--docker-host unix:///")


@pytest.mark.parametrize("url", ["unix://", "unix://relative", "/run/docker.sock"])
def test_a_socket_that_is_not_an_absolute_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="unix:///path"):
        docker_url(url)


def test_the_running_containers_are_listed_by_name(daemon: FakeDocker) -> None:
    web = daemon.add("web", 4242, "my-network", enable="true", ports="80")
    daemon.containers[web]["NetworkSettings"]["Networks"]["other"] = {}
    unlabelled = daemon.add("cache", 4243)
    daemon.containers[unlabelled]["Config"]["Labels"] = None
    daemon.containers[unlabelled]["State"]["Paused"] = True
    daemon.add("exited", 0)
    daemon.listed_only.append("a" * 64)
    assert snapshot(daemon.url) == [
        Container(unlabelled, "cache", 4243, "bridge", {}, frozenset({"bridge"}), paused=True),
        Container(
            f"{0:064x}",
            "web",
            4242,
            "my-network",
            {"sockaccel.enable": "true", "sockaccel.ports": "80"},
            frozenset({"my-network", "other"}),
        ),
    ]
    assert snapshot(daemon.url)[1].netns_path == "/proc/4242/ns/net"


def test_the_connection_is_closed_again(
    monkeypatch: pytest.MonkeyPatch, daemon: FakeDocker
) -> None:
    closed = []

    def close(client: APIClient) -> None:
        closed.append(client)
        super(APIClient, client).close()

    monkeypatch.setattr(APIClient, "close", close)
    daemon.add("web", 4242)
    snapshot(daemon.url)
    assert len(closed) == 1


def test_no_daemon_says_why_and_what_to_do(tmp_path: Path, daemon: FakeDocker) -> None:
    (tmp_path / "file").touch()
    for name, why in {
        "none.sock": "no such file or directory (ENOENT)",
        "file": "connection refused (ECONNREFUSED)",
        "x" * 200: "AF_UNIX path too long",
    }.items():
        with pytest.raises(DockerError) as caught:
            snapshot(f"unix://{tmp_path}/{name}")
        assert str(caught.value) == f"cannot reach Docker at 'unix://{tmp_path}/{name}': {why}"
        assert caught.value.exit_code == 78
        do = "start" if why.endswith(")") else "status"  # an error of connect(2)
        assert caught.value.hint == f"systemctl {do} docker"
    daemon.broken = True
    with pytest.raises(DockerError, match="500") as caught:
        snapshot(daemon.url)
    assert caught.value.hint == "systemctl status docker"


def test_a_daemon_that_does_not_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch, daemon: FakeDocker
) -> None:
    monkeypatch.setattr(docker, "_TIMEOUT_S", 0.2)
    daemon.answering.clear()
    with pytest.raises(DockerError, match=r"timed out after 0\.2 s"):
        snapshot(daemon.url)


def test_one_container_is_found_by_its_id(daemon: FakeDocker) -> None:
    web, exited = daemon.add("web", 4242), daemon.add("exited", 0)
    with Docker(daemon.url) as client:
        found = client.container(web)
        assert found == Container(web, "web", 4242, "bridge", {}, frozenset({"bridge"}))
        assert client.container(exited) is None
        assert client.container("a" * 64) is None
        client.ping()
    assert daemon.asked["version"] == 1  # one connection serves all


def test_a_client_that_failed_begins_anew(daemon: FakeDocker) -> None:
    web = daemon.add("web", 4242)
    before = unused_sockets()
    with Docker(daemon.url) as client:
        client.ping()
        daemon.die()
        with pytest.raises(DockerError, match="cannot reach Docker"):
            client.ping()
        assert unused_sockets() <= before
        with pytest.raises(DockerError, match=r"connection refused \(ECONNREFUSED\)"):
            client.ping()
        daemon.start()
        assert client.container(web)


@pytest.mark.parametrize("damage", [("State",), ("HostConfig",), ("NetworkSettings",), ("Name",)])
def test_an_answer_that_makes_no_sense_hides_only_its_container(
    daemon: FakeDocker, damage: tuple[str]
) -> None:
    bad = daemon.add("bad", 4242)
    daemon.add("good", 4243)
    del daemon.containers[bad][damage[0]]
    assert [each.name for each in snapshot(daemon.url)] == ["good"]


def test_a_container_that_hangs_hides_only_itself(
    daemon: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "_TIMEOUT_S", 0.5)
    daemon.hanging.add(daemon.add("stuck", 4242))
    daemon.add("good", 4243)
    assert [each.name for each in snapshot(daemon.url)] == ["good"]


def test_events_say_what_happened_to_which_container(daemon: FakeDocker) -> None:
    with Docker(daemon.url) as client:
        events = client.events()
    daemon.event("start", "c" * 64, "web")
    daemon.network_event("disconnect", "d" * 64)
    stream = iter(events)
    assert next(stream) == Event("start", "c" * 64, "web", None, 1)
    assert next(stream) == Event("disconnect", "d" * 64, "net", "e" * 64, 1)
    daemon.close_streams()
    assert list(stream) == []
    events.close()
    events.close()


def test_what_happens_to_a_volume_is_not_taken_for_a_container(daemon: FakeDocker) -> None:
    with Docker(daemon.url) as client:
        events = client.events()
    daemon.say({"Type": "volume", "Action": "destroy", "Actor": {"ID": "web"}, "timeNano": 1})
    daemon.event("start", "c" * 64, "web")
    assert next(iter(events)).container == "c" * 64
    events.close()


def test_events_can_be_ended_by_another_thread(daemon: FakeDocker) -> None:
    with Docker(daemon.url) as client:
        events = client.events()
    ended = threading.Event()

    def read() -> None:
        for _ in events:
            pass
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    events.close()
    assert ended.wait(10)
    thread.join()


def test_docker_is_imported_only_when_it_is_asked() -> None:
    code = "import sys, sockaccel.scope.docker; sys.exit('docker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
