from __future__ import annotations

import http.server
import json
import os
import socketserver
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from docker import APIClient

from sockaccel.errors import DockerError, InputError
from sockaccel.scope import docker
from sockaccel.scope.docker import Container, docker_namespaces, docker_url, snapshot
from sockaccel.scope.labels import ENABLE, POLICY, policies, select, wanted
from sockaccel.scope.netns import Namespace, netns_cookie

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces")

HOST = 1  # the cookie of the host's namespace in the tests of select()


def container(
    name: str, enable: str | None = None, mode: str = "bridge", *, policy: str | None = None
) -> Container:
    labels = {} if enable is None else {ENABLE: enable}
    labels |= {} if policy is None else {POLICY: policy}
    return Container("f" * 64, name, 7, mode, labels)


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
            "State": {"Pid": pid},
            "HostConfig": {"NetworkMode": mode},
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


@pytest.fixture
def other() -> Iterator[int]:
    """Return the pid of a process in a fresh network namespace."""
    command = ["unshare", "--net", "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        yield holder.pid
        holder.kill()


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
    daemon.add("web", 4242, "my-network", enable="true", ports="80")
    unlabelled = daemon.add("cache", 4243)
    daemon.containers[unlabelled]["Config"]["Labels"] = None
    daemon.add("exited", 0)
    daemon.listed_only.append("a" * 64)
    assert snapshot(daemon.url) == [
        Container(unlabelled, "cache", 4243, "bridge", {}),
        Container(
            f"{0:064x}",
            "web",
            4242,
            "my-network",
            {"sockaccel.enable": "true", "sockaccel.ports": "80"},
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


@needs_root
def test_namespaces_of_containers_have_cookie_path_and_name(daemon: Daemon, other: int) -> None:
    daemon.add("web", other)
    daemon.add("host", os.getpid(), "host")
    daemon.add("gone", 2**22 + 1)  # above the highest pid there can be
    path = f"/proc/{other}/ns/net"
    namespaces, warnings = docker_namespaces(daemon.url)
    assert namespaces == [Namespace(netns_cookie(path), path, "web")]
    assert warnings == []


@needs_root
def test_the_host_s_namespace_is_never_in_scope_whatever_docker_calls_it(daemon: Daemon) -> None:
    daemon.add("sneaky", os.getpid(), "container:abc")
    assert docker_namespaces(daemon.url) == ([], [])


@pytest.mark.parametrize(
    ("value", "answer"),
    [(None, True), ("true", True), ("false", False), (" False\n", False), ("TRUE", True)],
)
def test_a_container_is_wanted_unless_it_says_no(value: str | None, answer: bool) -> None:
    assert wanted(container("web", value)) is answer


@pytest.mark.parametrize("value", ["", "yes", "0", "no"])
def test_a_bad_label_is_an_error_that_names_the_container(value: str) -> None:
    with pytest.raises(InputError, match=rf"sockaccel\.enable of container 'web': '{value}'"):
        wanted(container("web", value))


def test_a_bad_label_skips_only_its_container() -> None:
    bad, good = container("bad", "maybe"), container("good")
    chosen, warnings = select([(5, bad), (6, good)], HOST)
    assert chosen == {6: good}
    (warning,) = warnings
    assert "'bad'" in warning
    assert "'maybe'" in warning


@pytest.mark.parametrize("refusal", ["false", "maybe"])
@pytest.mark.parametrize("order", [1, -1])
def test_the_strictest_label_of_a_shared_namespace_wins(refusal: str, order: int) -> None:
    members = [(5, container("a", "true")), (5, container("b", refusal)), (5, container("c"))]
    chosen, _ = select(members[::order], HOST)
    assert chosen == {}


@pytest.mark.parametrize("order", [1, -1])
def test_a_shared_namespace_is_named_after_the_container_it_belongs_to(order: int) -> None:
    owner, guest = container("web"), container("agent", mode="container:web")
    chosen, warnings = select([(5, owner), (5, guest)][::order], HOST)
    assert (chosen, warnings) == ({5: owner}, [])


def test_host_network_containers_are_left_out_and_told_so_if_they_asked() -> None:
    asked, silent = container("asked", "true", "host"), container("silent", mode="host")
    joined = container("joined", mode="container:asked")
    assert select([(HOST, silent), (HOST, joined)], HOST) == ({}, [])
    chosen, warnings = select([(HOST, asked), (HOST, silent)], HOST)
    assert chosen == {}
    (warning,) = warnings
    assert "'asked'" in warning
    assert "--netns" in warning
    # Also where the agent itself sees another namespace as its own.
    assert select([(9, silent), (9, joined)], HOST) == ({}, [])


@pytest.mark.parametrize(
    ("values", "everything"),
    [
        ([None], False),
        (["safe"], False),
        (["all"], True),
        ([" ALL\n"], True),
        (["Safe"], False),
        (["all", "all"], True),
        (["all", "safe"], False),
        (["all", None], False),  # one that says nothing is asked
        ([None, None], False),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_a_namespace_is_not_asked_only_if_all_its_containers_say_so(
    values: list[str | None], everything: bool, order: int
) -> None:
    members = [(5, container(f"web{number}", policy=value)) for number, value in enumerate(values)]
    assert policies(members[::order]) == ({5: everything}, [])


def test_each_namespace_has_its_own_policy() -> None:
    members = [(5, container("a", policy="all")), (6, container("b")), (7, container("c"))]
    assert policies(members) == ({5: True, 6: False, 7: False}, [])
    assert policies([]) == ({}, [])


@pytest.mark.parametrize("value", ["", "fast", "true", "all,safe"])
def test_a_policy_that_is_none_is_told_and_taken_as_safe(value: str) -> None:
    bad, good = container("bad", policy=value), container("good", policy="all")
    answers, warnings = policies([(5, bad), (6, good)])
    assert answers == {5: False, 6: True}
    (warning,) = warnings
    assert warning == (
        f"cannot use label sockaccel.policy of container 'bad': '{value}' "
        "is neither safe nor all; taken as safe"
    )
    # Also where others of its namespace want everything, and it is told once for each.
    answers, warnings = policies([(5, good), (5, bad), (5, bad)])
    assert answers == {5: False}
    assert len(warnings) == 2


@needs_root
@pytest.mark.parametrize(("policy", "everything"), [("all", True), ("safe", False), ("x", False)])
def test_the_policy_of_a_container_goes_with_its_namespace(
    daemon: Daemon, other: int, policy: str, everything: bool
) -> None:
    daemon.add("web", other, policy=policy)
    path = f"/proc/{other}/ns/net"
    namespaces, warnings = docker_namespaces(daemon.url)
    assert namespaces == [Namespace(netns_cookie(path), path, "web", everything)]
    assert [("'web'" in each, "'x'" in each) for each in warnings] == [(True, True)] * (
        policy == "x"
    )


def test_docker_is_imported_only_when_it_is_asked() -> None:
    code = "import sys, sockaccel.scope.docker; sys.exit('docker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
