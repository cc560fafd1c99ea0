"""`sockaccel scope` on maps in memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from memory_maps import Maps

from sockaccel.cli import main, scope
from sockaccel.datapath import lifecycle
from sockaccel.datapath.options import Options
from sockaccel.datapath.scope_map import ScopeMap
from sockaccel.errors import DockerError, InputError
from sockaccel.scope.docker import Container, snapshot
from sockaccel.scope.plan import Entry, plan
from sockaccel.scope.ports import parse_ports
from sockaccel.scope.selection import Override

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from sockaccel.datapath.lifecycle import Wanted

Run = Callable[..., tuple[str, str]]

HOST = 1
BY_DOCKER = Entry(policy_all=False, ports=None, by_docker=True)
BY_NETNS = Entry(policy_all=False, ports=None, by_docker=False, by_netns=True)


def container(
    name: str, mode: str = "bridge", *, networks: tuple[str, ...] = ("bridge",), **values: str
) -> Container:
    found = {f"sockaccel.{label}": value for label, value in values.items()}
    return Container(name[0] * 64, name, 7, mode, found, frozenset(networks))


class Host:
    """A datapath that is enabled, and the containers that run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.maps = Maps(monkeypatch)
        self.map = ScopeMap(self.maps)  # type: ignore[arg-type]
        self.options = Options("/c")
        self.containers: list[tuple[int | None, Container]] = []
        self.docker: Exception | None = None
        self.named: dict[str, int] = {}
        monkeypatch.setattr(lifecycle, "check_capabilities", lambda: None)
        monkeypatch.setattr(lifecycle, "opened", lambda _: self.opened())
        monkeypatch.setattr(lifecycle, "override_scope", self.override_scope)
        monkeypatch.setattr(scope, "snapshot", self.snapshot)
        monkeypatch.setattr(scope, "members", self.members)
        monkeypatch.setattr(scope, "netns_cookie", self.cookie)

    def opened(self) -> Maps:
        self.maps.options = self.options  # type: ignore[attr-defined]
        return self.maps

    def override_scope(
        self, _: Path, overrides: Mapping[str, Override | None], wanted: Wanted
    ) -> None:
        """Do what lifecycle does, without its locks; the tests of the kernel have those."""
        for name, override in overrides.items():
            if override:
                self.map.set_override(name, override)
            else:
                self.map.remove_override(name)
        actual = self.map.entries()
        self.map.apply(plan(wanted(actual, self.map.overrides()), actual))

    def members(self, wanted: Iterable[Container]) -> list[tuple[int | None, Container]]:
        names = [each.name for each in wanted]
        return [each for each in self.containers if each[1].name in names]

    def snapshot(self, _: str | None) -> list[Container]:
        if self.docker:
            raise self.docker
        return [each for _, each in self.containers]

    def cookie(self, path: str | None = None) -> int:
        if path is None:
            return HOST
        if path not in self.named:
            raise InputError(f"cannot use network namespace '{path}': gone")
        return self.named[path]

    def put(self, **entries: Entry) -> None:
        """Put the namespaces of these containers in scope, and no others."""
        cookies = {each.name: cookie for cookie, each in self.containers if cookie}
        wanted = {cookies[name]: entry for name, entry in entries.items()}
        self.map.apply(plan(wanted, self.map.entries()))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(monkeypatch)
    made.containers = [(5, container("web", networks=("front", "back"))), (6, container("cache"))]
    made.put(web=BY_DOCKER, cache=BY_DOCKER)
    return made


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command and returns what it wrote on stdout and stderr."""

    def run_one(*args: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["sockaccel", *args])
        with pytest.raises(SystemExit) as caught:
            main.main()
        captured = capsys.readouterr()
        assert caught.value.code == code, captured.err
        return captured.out, captured.err

    return run_one


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_list_shows_every_container_and_why(host: Host, run: Run) -> None:
    host.containers += [
        (7, container("limited", ports="80,8000-8999", policy="all")),
        (8, container("refused", enable="false")),
        (HOST, container("proxy", "host", networks=("host",))),
        (7, container("sidecar", f"container:{'l' * 64}", networks=(), policy="all")),
        (4, container("alone", f"container:{'x' * 64}", networks=(), enable="false")),
        (None, container("exited")),
        (9, container("new")),
    ]
    terms = Entry(True, parse_ports("80,8000-8999"), by_docker=True)
    host.put(web=BY_DOCKER, cache=BY_DOCKER, limited=terms)
    out, err = run("scope", "list")
    assert rows(out) == [
        ["CONTAINER", "ID", "IN", "SCOPE", "WHY", "POLICY", "PORTS", "NETWORKS"],
        ["web", "w" * 12, "yes", "in-scope", "safe", "all", "back,front"],
        ["cache", "c" * 12, "yes", "in-scope", "safe", "all", "bridge"],
        ["limited", "l" * 12, "yes", "in-scope", "all", "80,8000-8999", "bridge"],
        ["refused", "r" * 12, "no", "label", "-", "-", "bridge"],
        ["proxy", "p" * 12, "no", "host-network", "-", "-", "host"],
        ["sidecar", "s" * 12, "yes", "in-scope", "all", "80,8000-8999", "container:limited"],
        ["alone", "a" * 12, "no", "label", "-", "-", f"container:{'x' * 12}"],
        ["exited", "e" * 12, "no", "gone", "-", "-", "bridge"],
        ["new", "n" * 12, "no", "pending", "-", "-", "bridge"],
    ]
    assert err == "Note: what is pending is done by `sockaccel agent`, or by enable\n"


def test_list_in_json_has_the_keys_of_the_interface(host: Host, run: Run) -> None:
    host.containers = host.containers[:1]
    host.options = Options("/c", netns=("/n/6", "/n/gone"), ports="80")
    host.named = {"/n/6": 6}
    host.map.apply(plan({5: BY_DOCKER, 6: BY_NETNS}, {5: BY_DOCKER, 6: BY_DOCKER}))
    host.map.set_override("db", Override.EXCLUDE)
    answer = json.loads(run("scope", "list", "-o", "json")[0])
    assert answer == {
        "schema": "sockaccel.scope/1",
        "containers": [
            {
                "name": "web",
                "id": "w" * 64,
                "netns_cookie": 5,
                "in_scope": True,
                "why": "in-scope",
                "override": None,
                "policy": "safe",
                "ports": "80",
                "networks": ["back", "front"],
                "network_mode": "bridge",
                "paused": False,
            }
        ],
        "namespaces": [
            {"path": "/n/6", "netns_cookie": 6, "in_scope": True, "why": "netns"},
            {"path": "/n/gone", "netns_cookie": None, "in_scope": False, "why": "gone"},
        ],
        "overrides": {"db": "exclude"},
    }


def test_list_shows_namespaces_and_overrides_of_who_does_not_run(host: Host, run: Run) -> None:
    host.containers = []
    host.options = Options("/c", netns=("/n/5",))
    host.named = {"/n/5": 5}
    host.map.set_override("db", Override.EXCLUDE)
    out, _ = run("scope", "list")
    assert rows(out) == [
        ["no", "container", "runs"],
        [],
        ["NAMESPACE", "COOKIE", "IN", "SCOPE", "WHY"],
        ["/n/5", "5", "yes", "netns"],
        ["-", "6", "yes", "gone"],
        [],
        ["NOT", "RUNNING", "OVERRIDE"],
        ["db", "excluded"],
    ]


def test_list_tells_of_bad_labels(host: Host, run: Run) -> None:
    host.containers = [(5, container("web", enable="maybe"))]
    host.put()
    _, err = run("scope", "list")
    assert err.startswith("Warning: cannot use label sockaccel.enable of container 'web': 'maybe'")


def test_list_without_docker_shows_what_is_named_or_says_why_not(host: Host, run: Run) -> None:
    host.docker = DockerError("cannot reach Docker at 'unix:///d': gone", "start Docker")
    out, err = run("scope", "list", code=78)
    assert out == ""
    assert err == "Error: cannot reach Docker at 'unix:///d': gone\nHint: start Docker\n"
    host.options = Options("/c", netns=("/n/5",))
    host.named = {"/n/5": 5}
    out, err = run("scope", "list")
    assert ["/n/5", "5", "yes", "netns"] in rows(out)
    assert err == "Warning: cannot reach Docker at 'unix:///d': gone\n"


def test_with_scope_all_list_says_so_and_nobody_can_be_excluded(host: Host, run: Run) -> None:
    host.options = Options("/c", scope="all")
    out, _ = run("scope", "list")
    assert [row[3] for row in rows(out)[1:]] == ["scope-all", "scope-all"]
    out, err = run("scope", "exclude", "web", code=1)
    assert out == ""
    assert err == (
        "Error: cannot exclude container 'web': enabled with --scope all, "
        "which does not ask who is in scope\n"
        "Hint: sockaccel disable\n"
    )
    assert host.map.overrides() == {}


def test_exclude_include_and_reset_are_carried_out_at_once(host: Host, run: Run) -> None:
    host.containers.append((7, container("quiet", enable="false")))
    assert run("scope", "exclude", "web") == ("web: excluded\n", "")
    assert host.map.entries().keys() == {6}
    assert run("scope", "include", "quiet") == ("quiet: included\n", "")
    assert host.map.entries().keys() == {6, 7}
    assert host.map.overrides() == {"web": Override.EXCLUDE, "quiet": Override.INCLUDE}
    out, _ = run("scope", "reset", "web", "quiet")
    words = "left to its labels and the options of enable"
    assert out == f"quiet: {words}\nweb: {words}\n"
    assert host.map.entries().keys() == {5, 6}
    assert host.map.overrides() == {}


def test_who_is_restarted_while_it_is_excluded_does_not_stay_in_scope(
    monkeypatch: pytest.MonkeyPatch, host: Host, run: Run
) -> None:
    host.containers = [(11, container("web"))]
    host.map.apply(plan({11: BY_DOCKER}, {}))

    def members(wanted: Iterable[Container]) -> list[tuple[int | None, Container]]:
        """Let the agent follow a restart as soon as the namespaces have been looked up."""
        seen = host.members(wanted)
        monkeypatch.setattr(scope, "members", host.members)
        host.containers = [(12, container("web"))]
        host.map.apply(plan({12: BY_DOCKER}, host.map.entries()))
        return seen

    monkeypatch.setattr(scope, "members", members)
    run("scope", "exclude", "web")
    assert host.map.entries() == {}


def test_the_new_state_is_shown_in_json(host: Host, run: Run) -> None:
    answer = json.loads(run("-o", "json", "scope", "exclude", "web")[0])
    assert answer["schema"] == "sockaccel.scope/1"
    (web,) = answer["containers"]
    assert (web["name"], web["in_scope"], web["why"]) == ("web", False, "excluded")
    assert answer["overrides"] == {"web": "exclude"}


def test_of_other_containers_nothing_is_changed(host: Host, run: Run) -> None:
    """An agent may know more than the list of containers that the command has seen."""
    started_since = {5: BY_DOCKER, 6: BY_DOCKER, 9: BY_DOCKER}
    host.map.apply(plan(started_since, host.map.entries()))
    host.containers.append((7, container("not-yet")))
    run("scope", "exclude", "web")
    assert host.map.entries().keys() == {6, 9}


def test_a_container_may_be_named_by_its_id(host: Host, run: Run) -> None:
    run("scope", "exclude", "w" * 12)
    assert host.map.overrides() == {"web": Override.EXCLUDE}
    run("scope", "exclude", "c" * 11, code=2)


@pytest.mark.parametrize("verb", ["exclude", "include", "reset"])
def test_a_name_that_no_container_has_is_refused_with_the_nearest(
    host: Host, run: Run, verb: str
) -> None:
    out, err = run("--pin-dir", "/p", "scope", verb, "cache", "wbe", code=2)
    assert out == ""
    assert err == (
        f"Error: cannot {verb} container 'wbe': no running container has this name, "
        "and there is no override for it\n"
        f"Hint: sockaccel --pin-dir /p scope {verb} web\n"
    )
    assert host.map.overrides() == {}
    host.containers = []
    assert "Hint: docker ps\n" in run("scope", verb, "web", code=2)[1]


def test_an_override_of_who_does_not_run_can_be_changed(host: Host, run: Run) -> None:
    host.map.set_override("db", Override.EXCLUDE)
    run("scope", "include", "db")
    assert host.map.overrides() == {"db": Override.INCLUDE}
    run("scope", "reset", "db")
    assert host.map.overrides() == {}


def test_what_an_override_cannot_do_is_told(host: Host, run: Run) -> None:
    host.containers = [
        (5, container("web", enable="false")),
        (5, container("sidecar", "container:web")),
        (HOST, container("proxy", "host")),
    ]
    host.put()
    out, err = run("scope", "include", "sidecar", "proxy")
    assert out == "proxy: included\nsidecar: included\n"
    assert err == (
        "Warning: container 'sidecar' stays out of scope: shared\n"
        "Warning: container 'proxy' stays out of scope: host-network\n"
    )
    assert host.map.entries() == {}


def test_the_host_stays_in_scope_where_it_is_named(host: Host, run: Run) -> None:
    host.options = Options("/c", netns=("/proc/1/ns/net",))
    host.named = {"/proc/1/ns/net": HOST}
    host.containers = [(HOST, container("proxy", "host"))]
    host.map.apply(plan({HOST: BY_NETNS}, host.map.entries()))
    _, err = run("scope", "exclude", "proxy")
    assert err == "Warning: container 'proxy' stays in scope: netns\n"
    assert host.map.entries() == {HOST: BY_NETNS}


@pytest.mark.parametrize("args", [["list"], *([verb, "web"] for verb in ("exclude", "reset"))])
def test_without_docker_the_hint_is_one_that_this_command_can_use(
    monkeypatch: pytest.MonkeyPatch, host: Host, run: Run, tmp_path: Path, args: list[str]
) -> None:
    host.options = Options("/c", docker_host=f"unix://{tmp_path}/none")
    monkeypatch.setattr(scope, "snapshot", snapshot)
    out, err = run("scope", *args, code=78)
    assert out == ""
    error, hint = err.splitlines()
    assert error.startswith(f"Error: cannot reach Docker at '{host.options.docker_host}': ")
    assert hint == "Hint: systemctl start docker"


def test_without_docker_nothing_is_overridden(host: Host, run: Run) -> None:
    host.docker = DockerError("cannot reach Docker at 'unix:///d': gone", "start Docker")
    out, err = run("scope", "exclude", "web", code=78)
    assert (out, err.splitlines()[0]) == ("", "Error: cannot reach Docker at 'unix:///d': gone")
    assert host.map.overrides() == {}


@pytest.mark.parametrize("verb", ["exclude", "include", "reset"])
def test_a_name_is_needed(run: Run, verb: str) -> None:
    assert run("scope", verb, code=2)[1] == (
        f"Error: cannot run 'sockaccel scope {verb}': NAME... is missing\n"
        f"Hint: sockaccel scope {verb} NAME...\n"
    )


def test_help_says_what_the_commands_are(run: Run) -> None:
    out, _ = run("scope", "--help")
    for verb in ("list", "exclude", "include", "reset"):
        assert f"\n  {verb} " in out
        assert "--output" in run("scope", verb, "--help")[0]
