from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_type_hints

import pytest

from sockaccel.bench.arms import Arm
from sockaccel.bench.scenario import LIMITS, Scenario, load, load_all, overruled, parse
from sockaccel.bench.workloads import CLIENTS, SERVERS
from sockaccel.errors import HostError, InputError

if TYPE_CHECKING:
    from pathlib import Path

GOOD: dict[str, Any] = {
    "title": "Redis",
    "topologies": ["netns"],
    "nodes": ["client", "server"],
    "arms": ["baseline", "accelerated"],
    "seconds": 2,
    "warm_up_s": 0.5,
    "servers": [{"node": "server", "program": "redis"}],
    "client": {"node": "client", "program": "redis-benchmark", "server": "server"},
    "parameters": {"message_bytes": 64, "cpus": "split"},
    "cases": {"command": ["get", "set"], "clients": [1, 50], "pipeline": [1]},
    "quick": {"command": ["get"], "clients": [50]},
}


def changed(path: str, value: object) -> dict[str, Any]:
    data = deepcopy(GOOD)
    *tables, key = path.split(".")
    table = data
    for name in tables:
        table = table[int(name)] if name.isdecimal() else table[name]  # type: ignore[call-overload]
    if value is None:
        del table[key]
    else:
        table[key] = value
    return data


SHIPPED = load_all()


def test_all_that_is_asked_for_is_shipped() -> None:
    assert set(SHIPPED) >= {
        "nginx-lb", "nginx-direct", "nginx-large", "redis", "echo", "stream", "connect",
        "postgres", "slow-reader",
    }  # fmt: skip
    sizes = [case.parameters["message_bytes"] for case in SHIPPED["echo"].cases]
    assert (min(sizes), max(sizes)) == (1, 65536)
    sizes = [case.parameters["message_bytes"] for case in SHIPPED["stream"].cases]
    assert (min(sizes), max(sizes)) == (1, 262144)
    keepalive = {case.parameters["upstream_keepalive"] for case in SHIPPED["nginx-lb"].cases}
    assert keepalive == {True, False}
    assert {case.parameters["connections"] for case in SHIPPED["nginx-lb"].cases} == {100}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_scenario_has_cases_with_names_of_their_own(name: str) -> None:
    scenario = SHIPPED[name]
    names = [case.name for case in scenario.cases]
    assert len(set(names)) == len(names) > 0
    assert not any(character in each for each in names for character in "./ ")
    assert scenario.arms[0] is Arm.BASELINE


def test_the_quick_cases_are_few_and_of_every_kind() -> None:
    quick = [
        (scenario.client.program, f"{scenario.name}/{case.name}")
        for scenario in SHIPPED.values()
        for case in scenario.cases
        if case.quick
    ]
    # Each takes about 20 s, and all of them 2 minutes at most.
    assert len(quick) <= 5
    # Else they would show what gets faster, and hide what gets slower.
    assert ("sockets", "connect/64") in quick
    assert {program for program, _ in quick} == {"wrk", "redis-benchmark", "sockets"}


def test_every_number_of_a_program_has_limits() -> None:
    numbers = {
        name
        for program in [*SERVERS.values(), *CLIENTS.values()]
        for name, kind in get_type_hints(program).items()
        if kind is int
    }
    assert numbers == set(LIMITS)


@pytest.mark.parametrize("name", LIMITS)
def test_a_number_beyond_its_limits_is_refused(name: str) -> None:
    scenario = next(each for each in SHIPPED.values() if takes(each, name))
    scenario = replace(scenario, cases=scenario.cases[:1])  # what cases differ in cannot be set
    for value in (LIMITS[name][0] - 1, LIMITS[name][1] + 1):
        with pytest.raises(InputError, match=f"parameter {name} is not from"):
            overruled(scenario, {name: value})


def takes(scenario: Scenario, name: str) -> bool:
    programs = [SERVERS[at.program] for at in scenario.servers]
    hints = [get_type_hints(each) for each in (*programs, CLIENTS[scenario.client.program])]
    return any(name in each for each in hints)


def test_hops_are_counted_along_the_servers_behind() -> None:
    assert SHIPPED["nginx-lb"].hops == 2
    assert SHIPPED["nginx-direct"].hops == 1


def test_the_metric_that_a_scenario_is_about_comes_first() -> None:
    slow = SHIPPED["slow-reader"]
    assert [metric.name for metric in slow.metrics(slow.cases[0])][:2] == [
        "tcp_memory_bytes",
        "bytes_s",
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_latencies_under_saturation_and_at_a_fixed_rate_have_names_of_their_own(name: str) -> None:
    scenario = SHIPPED[name]
    for case in scenario.cases:
        latencies = [
            metric.name for metric in scenario.metrics(case) if metric.name.startswith("latency")
        ]
        prefix = "latency_us_p" if case.parameters.get("rate") else "latency_saturated_us_p"
        assert all(each.startswith(prefix) for each in latencies)


def test_cases_are_every_combination() -> None:
    scenario = parse("redis", GOOD)
    assert [(case.name, case.quick) for case in scenario.cases] == [
        ("get-clients-1", False),
        ("get-clients-50", True),
        ("set-clients-1", False),
        ("set-clients-50", False),
    ]
    parameters = scenario.cases[1].parameters
    assert parameters == {
        "message_bytes": 64, "cpus": "split", "command": "get", "clients": 50, "pipeline": 1,
    }  # fmt: skip


def test_without_cases_there_is_one() -> None:
    data = changed("quick", None) | {"cases": {}}
    data["parameters"] = {"message_bytes": 1, "command": "get", "clients": 1}
    (case,) = parse("redis", data).cases
    assert (case.name, case.quick) == ("only", False)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("title", None, "title is missing"),
        ("title", 7, "title is not a text but 7"),
        ("seconds", True, "seconds is not a number but True"),
        ("seconds", 0, "not above 0"),
        ("arms", ["accelerated"], "'baseline'"),
        ("arms", ["baseline", "baseline"], "twice"),
        ("topologies", [], "empty"),
        ("nodes", ["client", "a-name-that-is-too-long", "server"], "a-name-that-is-too-long"),
        ("nodes", ["client"], "there is no node 'server'"),
        ("servers.0.behind", ["client"], "there is no server before it on node 'client'"),
        ("servers", "redis", "servers is not a list but 'redis'"),
        ("servers", ["redis"], "servers[0] is not a table but 'redis'"),
        ("client.node", "server", "runs two programs"),
        ("client.server", "client", "there is no server on node 'client'"),
        ("parameters.message_bytes", None, "message_bytes of RedisBenchmark is missing"),
        ("parameters.message_bytes", "64", "message_bytes is not an integer but '64'"),
        ("parameters.message_bytes", True, "message_bytes is not an integer but True"),
        ("parameters.cpus", "two", "cpus is not all or one or split but 'two'"),
        ("parameters.least_redirected", 2.0, "not from 0 to 1 but 2.0"),
        ("cases.clients", 5, "cases.clients is not a list of values but 5"),
        ("cases.clients", [], "cases.clients is not a list of values but []"),
        ("cases.message_bytes", [1], "parameters.message_bytes is in [cases], too"),
        ("cases.command", ["get", "del"], "command is not get or set"),
        ("quick.clients", [7], "quick.clients is not a list of values of cases.clients but [7]"),
    ],
)
def test_what_cannot_be_used_is_said(path: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse("redis", changed(path, value))


@pytest.mark.parametrize(
    ("path", "said", "nearest"),
    [
        ("titel", "there is no key 'titel'", "title"),
        ("servers.0.nod", "there is no key 'servers[0].nod'", "servers[0].node"),
        ("client.programm", "there is no key 'client.programm'", "client.program"),
        ("parameters.pipelin", "there is no parameter 'pipelin'", "pipeline"),
        ("cases.client", "there is no parameter 'client'", "clients"),
        ("quick.comand", "there is no key 'quick.comand'", "quick.command"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_name(
    tmp_path: Path, path: str, said: str, nearest: str
) -> None:
    check_file(tmp_path, changed(path, ["x"] if path.startswith(("cases", "quick")) else "x"))
    with pytest.raises(InputError, match="cannot use scenario") as raised:
        load(tmp_path / "redis.toml")
    assert said in str(raised.value)
    assert raised.value.hint == f"'{nearest}' may be meant"


@pytest.mark.parametrize(
    ("path", "value", "nearest"),
    [
        ("client.program", "redis-bench", "redis-benchmark"),
        ("servers.0.program", "reddis", "redis"),
        ("arms", ["baseline", "acelerated"], "accelerated"),
        ("topologies", ["dokcer"], "docker"),
        ("about", "req_ss", "req_s"),
    ],
)
def test_an_unknown_value_is_an_error_with_the_nearest_name(
    tmp_path: Path, path: str, value: object, nearest: str
) -> None:
    check_file(tmp_path, changed(path, value))
    with pytest.raises(InputError) as raised:
        load(tmp_path / "redis.toml")
    assert raised.value.hint == f"'{nearest}' may be meant"


def check_file(directory: Path, data: dict[str, Any]) -> None:
    """Write a scenario as TOML."""

    def text(value: object) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(text, value))}]"
        if isinstance(value, dict):
            return f"{{ {', '.join(f'{key} = {text(each)}' for key, each in value.items())} }}"
        return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)

    lines = [f"{key} = {text(value)}" for key, value in data.items()]
    (directory / "redis.toml").write_text("\n".join(lines))


def test_a_file_as_good_as_the_shipped_ones_is_read(tmp_path: Path) -> None:
    check_file(tmp_path, GOOD)
    assert load_all(tmp_path)["redis"] == parse("redis", GOOD)


@pytest.mark.parametrize("content", [b"title = ", b"\xff\xfe"])
def test_what_is_no_toml_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read scenario '.*x\.toml': no TOML"):
        load(tmp_path / "x.toml")


def test_a_file_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read scenario '.*x.toml': .*ENOENT"):
        load(tmp_path / "x.toml")
    with pytest.raises(HostError, match="there are none"):
        load_all(tmp_path)


def test_a_missing_program_is_said_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sockaccel.bench.process.SYSTEM_PATH", str(tmp_path))
    for name, hint in [
        ("redis", "apt-get install redis-server"),
        ("echo", "apt-get install gcc libc6-dev"),
        ("nginx-direct", "apt-get install nginx-light"),
    ]:
        with pytest.raises(HostError, match="is not installed") as raised:
            SHIPPED[name].tools[0].find()
        assert raised.value.hint == hint
