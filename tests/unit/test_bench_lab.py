from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sockaccel.bench.lab import Lab, sum_port_bytes
from sockaccel.bench.nginx import load_balancer_config, web_config, write_page
from sockaccel.bench.process import find_tool, last_line
from sockaccel.errors import BenchError, HostError


def link(name: str, received: int, sent: int) -> dict[str, object]:
    return {"ifname": name, "stats64": {"rx": {"bytes": received}, "tx": {"bytes": sent}}}


def test_port_bytes_are_received_and_sent_of_the_ports_alone() -> None:
    text = json.dumps([link("lo", 1, 2), link("br0", 4, 8), link("a", 16, 32), link("b", 64, 128)])
    assert sum_port_bytes(text, ["a", "b"]) == 16 + 32 + 64 + 128


def test_a_port_without_counters_is_an_error_and_not_zero() -> None:
    with pytest.raises(BenchError, match="'b'"):
        sum_port_bytes(json.dumps([link("a", 1, 2), {}]), ["a", "b"])


@pytest.mark.skipif(shutil.which("ip") is None, reason="ip is not installed")
def test_nodes_have_names_namespaces_and_addresses_of_their_own() -> None:
    lab = Lab("x", ["client", "server"], subnet="10.9.0.0/24")
    client, server = lab.nodes.values()
    assert (client.address, server.address) == ("10.9.0.1", "10.9.0.2")
    assert (client.path, server.path) == (Path("/run/netns/x-client"), Path("/run/netns/x-server"))
    assert lab.command("server", ["true"])[1:] == ["netns", "exec", "x-server", "true"]
    assert lab.scope == ["--netns", "/run/netns/x-client", "--netns", "/run/netns/x-server"]


@pytest.mark.skipif(shutil.which("ip") is None, reason="ip is not installed")
@pytest.mark.parametrize("names", [["bridge"], ["a" * 16], [f"n{i}" for i in range(7)]])
def test_names_that_cannot_be_ports_and_too_small_subnets_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"names|addresses"):
        Lab("x", names, subnet="10.9.0.0/29")


def test_load_balancers_differ_in_upstream_keepalive_alone() -> None:
    with_it, without = (
        load_balancer_config("10.0.0.2", ["10.0.0.3:80", "10.0.0.4:80"], keepalive=keepalive)
        for keepalive in (True, False)
    )
    added = {line.strip() for line in with_it.splitlines()} - {
        line.strip() for line in without.splitlines()
    }
    assert added == {
        "keepalive 128;",
        "proxy_http_version 1.1;",
        'proxy_set_header Connection "";',
    }
    assert "worker_processes 2;" in without
    assert without.count("server 10.0.0.") == 2


@pytest.mark.parametrize(
    "config",
    [
        web_config("10.0.0.3", Path("pages")),
        load_balancer_config("10.0.0.2", ["10.0.0.3:80"], keepalive=True),
    ],
)
def test_every_path_that_nginx_writes_is_inside_its_directory(config: str) -> None:
    settings = dict(
        line.strip().rstrip(";").split(maxsplit=1) for line in config.splitlines() if ";" in line
    )
    temps = [name for name in settings if name.endswith("_temp_path")]
    assert len(temps) == 5  # as many as nginx has with a default of the distribution's
    for name in [*temps, "pid", "error_log"]:
        assert not settings[name].startswith("/")
    assert settings["access_log"] == "off"
    assert config.count("{") == config.count("}")


@pytest.mark.parametrize("size", [0, 1, 612, 10_000])
def test_page_has_exactly_the_size(tmp_path: Path, size: int) -> None:
    write_page(tmp_path / "page", size)
    assert (tmp_path / "page" / "index.html").stat().st_size == size


def test_a_missing_tool_is_an_error_with_the_hint_to_install_it() -> None:
    with pytest.raises(HostError, match="'no-such-tool'") as raised:
        find_tool("no-such-tool")
    assert raised.value.hint == "scripts/setup"
    assert raised.value.exit_code == 78


@pytest.mark.parametrize(
    ("text", "line"), [("a\n b \n\n", "b"), ("", "exit code 3"), (" \n", "exit code 3")]
)
def test_last_line_of_what_a_program_said(text: str, line: str) -> None:
    assert last_line(text, 3) == line
