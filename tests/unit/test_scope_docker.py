from __future__ import annotations

import http.server
import json
import socketserver
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from docker import APIClient

from sockaccel.errors import DockerError, InputError
from sockaccel.scope import docker
from sockaccel.scope.docker import Container, docker_url, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Daemon(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """As much of a Docker daemon as listing its containers takes."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str) -> None:
        super().__init__(path, Handler)
        self.url = f"unix://{path}"
        self.containers: dict[str, dict[str, Any]] = {}
        self.listed_only: list[str] = []  # gone when they are asked for
        self.broken = False

    def add(self, name: str, pid: int, mode: str = "bridge", **labels: str) -> str:
        identifier = f"{len(self.containers):064x}"
        self.containers[identifier] = {
            "Id": identifier,
            "Name": f"/{name}",
            "State": {"Pid": pid, "Paused": False},
            "HostConfig": {"NetworkMode": mode},
            "NetworkSettings": {"Networks": {mode: {}}},
            "Config": {"Labels": {f"sockaccel.{key}": value for key, value in labels.items()}},
        }
        return identifier


class Handler(http.server.BaseHTTPRequestHandler):
    server: Daemon

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.server.broken:
            self.answer(500, {"message": "boom"})
        elif path.endswith("/version"):
            self.answer(200, {"ApiVersion": "1.44", "Version": "26.0.0"})
        elif path.endswith("/containers/json"):
            names = [*self.server.containers, *self.server.listed_only]
            self.answer(200, [{"Id": name} for name in names])
        else:
            detail = self.server.containers.get(path.split("/")[-2])
            self.answer(200, detail) if detail else self.answer(404, {"message": "no such"})

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(str(tmp_path / "docker.sock")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


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


def test_the_running_containers_are_listed_by_name(daemon: Daemon) -> None:
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


def test_the_connection_is_closed_again(monkeypatch: pytest.MonkeyPatch, daemon: Daemon) -> None:
    closed = []

    def close(client: APIClient) -> None:
        closed.append(client)
        super(APIClient, client).close()

    monkeypatch.setattr(APIClient, "close", close)
    daemon.add("web", 4242)
    snapshot(daemon.url)
    assert len(closed) == 1


def test_no_daemon_says_why_and_what_to_do(tmp_path: Path, daemon: Daemon) -> None:
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
        assert "--netns PATH" in (caught.value.hint or "")
    daemon.broken = True
    with pytest.raises(DockerError, match="500"):
        snapshot(daemon.url)


def test_a_daemon_that_does_not_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(docker, "_TIMEOUT_S", 0.2)
    path = str(tmp_path / "deaf.sock")
    with (
        socketserver.UnixStreamServer(path, Handler),
        pytest.raises(DockerError, match="timed out"),
    ):
        snapshot(f"unix://{path}")


def test_docker_is_imported_only_when_it_is_asked() -> None:
    code = "import sys, sockaccel.scope.docker; sys.exit('docker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
