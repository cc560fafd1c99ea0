from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import subprocess
import threading
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sockaccel.errors import HostError, InputError, NotPermittedError
from sockaccel.scope import netns
from sockaccel.scope.netlink import Link, addresses, dump, links
from sockaccel.scope.netns import (
    Namespace,
    all_namespaces,
    in_netns,
    local_networks,
    netns_cookie,
    networks_in,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces")


def identity(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino


def here() -> tuple[int, int]:
    return identity("/proc/thread-self/ns/net")


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


@pytest.fixture
def other() -> Iterator[str]:
    """Return the path of a fresh network namespace that a process of its own holds."""
    command = ["unshare", "--net", "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        yield f"/proc/{holder.pid}/ns/net"
        holder.kill()


@pytest.fixture
def named() -> Iterator[str]:
    """Return the name of a fresh network namespace below /run/netns that no process is in."""
    name = f"sockaccel-unit-{os.getpid()}"
    ip(f"netns add {name}")
    yield name
    ip(f"netns del {name}")


def test_the_own_cookie_is_that_of_any_socket_made_here() -> None:
    with socket.socket() as mine:
        assert netns_cookie() == struct.unpack("=Q", mine.getsockopt(socket.SOL_SOCKET, 71, 8))[0]
    assert netns_cookie() > 0


@needs_root
def test_a_function_runs_inside_and_the_caller_stays_outside(other: str) -> None:
    before, threads = here(), threading.active_count()
    assert in_netns(other, here) == identity(other) != before
    assert in_netns(Path(other), here) == identity(other)
    with Path(other).open("rb") as file:
        assert in_netns(file.fileno(), here) == identity(other)
        assert not file.closed
    assert here() == before
    assert threading.active_count() == threads


@needs_root
def test_errors_of_the_function_reach_the_caller(other: str) -> None:
    before = here()

    def fail() -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        in_netns(other, fail)
    assert here() == before


@needs_root
def test_a_child_of_the_function_is_inside_too(other: str) -> None:
    shown = in_netns(
        other, lambda: subprocess.check_output(["stat", "-L", "-c", "%i", "/proc/self/ns/net"])
    )
    assert int(shown) == identity(other)[1]


@needs_root
def test_no_descriptor_is_left_open(other: str) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        netns_cookie(other)
        all_namespaces()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@needs_root
def test_each_namespace_has_its_own_cookie(other: str) -> None:
    assert netns_cookie("/proc/self/ns/net") == netns_cookie()
    assert netns_cookie(other) != netns_cookie()
    assert netns_cookie(other) == netns_cookie(other)


@needs_root
def test_what_is_no_network_namespace_is_refused_with_the_reason(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    file = tmp_path / "file"
    file.touch()
    for path, why in {
        str(tmp_path / "none"): "no such file or directory (ENOENT)",
        f"{file}/below": "not a directory (ENOTDIR)",
        "/proc/self/ns/uts": "invalid argument (EINVAL)",
        str(tmp_path): "invalid argument (EINVAL)",
        str(file): "invalid argument (EINVAL)",
        str(fifo): "invalid argument (EINVAL)",
        "a\0b": "invalid argument (EINVAL)",
    }.items():
        with pytest.raises(InputError) as caught:
            netns_cookie(path)
        assert str(caught.value) == f"cannot use network namespace '{path}': {why}"
        assert caught.value.hint


def test_not_being_permitted_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def setns(self, _fd: int, _kind: int) -> int:
            ctypes.set_errno(errno.EPERM)
            return -1

    monkeypatch.setattr(netns, "_libc", Refusing())
    with pytest.raises(NotPermittedError, match=r"operation not permitted \(EPERM\)"):
        netns_cookie("/proc/self/ns/net")
    with pytest.raises(NotPermittedError):
        all_namespaces()


def test_a_kernel_without_cookies_is_the_host_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns, "_SO_NETNS_COOKIE", 9999)
    with pytest.raises(HostError, match="ENOPROTOOPT"):
        netns_cookie()


@needs_root
def test_all_namespaces_has_each_once_with_the_mount_preferred(other: str, named: str) -> None:
    path = f"/run/netns/{named}"
    with subprocess.Popen(
        ["ip", "netns", "exec", named, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as inside:
        inside.stdin.write(b"\n")  # type: ignore[union-attr]
        inside.stdin.flush()  # type: ignore[union-attr]
        inside.stdout.readline()  # type: ignore[union-attr]
        found = all_namespaces()
        inside.kill()
    assert Namespace(netns_cookie(path), path, named) in found
    assert Namespace(netns_cookie(other), other, None) in found
    assert netns_cookie() in {namespace.cookie for namespace in found}
    cookies = [namespace.cookie for namespace in found]
    assert cookies == sorted(set(cookies))


@needs_root
def test_a_namespace_that_vanishes_meanwhile_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    paths = [(f"/proc/{gone.pid}/ns/net", None), (netns.OWN, None)]
    monkeypatch.setattr(netns, "_candidates", lambda: iter(paths))
    assert all_namespaces() == [Namespace(netns_cookie(), netns.OWN, None)]
    # Gone between being listed and being entered.
    assert local_networks([Namespace(1, paths[0][0])]) == local_networks([])


def test_loopback_and_the_own_addresses_are_local() -> None:
    local = local_networks([])
    assert {ip_network("127.0.0.0/8"), ip_network("::1")} <= local
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", 9))
        assert ip_network(probe.getsockname()[0]) in local
    shown = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    for line in shown.splitlines():
        assert ip_network(ip_address(line.split()[3].split("/")[0])) in local, line


@needs_root
def test_subnets_are_local_only_behind_bridges_without_a_way_out(other: str) -> None:
    def build() -> None:
        ip("link set lo up")
        # A local bridge: a container's veth is its port.
        ip("link add lbr0 type bridge")
        ip("link add veth0 type veth peer name veth1")
        ip("link set veth0 master lbr0")
        ip("addr add 10.61.0.1/24 dev lbr0")
        ip("addr add fd61::1/64 dev lbr0 nodad")
        ip("addr add fe80::61/64 dev lbr0 nodad")
        ip("addr add 10.62.0.1/24 dev veth1")
        # No ports yet, with a label on the address as ifconfig makes them.
        ip("link add lbr1 type bridge")
        ip("addr add 10.63.0.1/24 dev lbr1 label lbr1:x")
        # A bridge with a way out of the host, as overlay networks have.
        ip("link add lbr2 type bridge")
        ip("link add out2 type vxlan id 5 dstport 4789")
        ip("link set out2 master lbr2")
        ip("addr add 10.64.0.1/24 dev lbr2")
        ip("addr add 10.66.0.1 peer 10.66.0.2/32 dev veth1")
        for name in ("lbr0", "lbr1", "lbr2", "veth0", "veth1"):
            ip(f"link set {name} up")

    in_netns(other, build)
    local = local_networks([Namespace(netns_cookie(other), other)])
    assert {
        ip_network(text)
        for text in (
            "10.61.0.1",
            "10.61.0.0/24",
            "fd61::1",
            "fd61::/64",
            "fe80::61",
            "10.62.0.1",
            "10.63.0.1",
            "10.63.0.0/24",
            "10.64.0.1",
            "10.66.0.1",
        )
    } <= local
    for remote in ("10.62.0.2", "10.64.0.2", "10.66.0.2", "fe80::62"):
        assert not any(ip_address(remote) in network for network in local - local_networks([])), (
            remote
        )
    assert ip_network("10.61.0.1") not in local_networks([])


@needs_root
def test_of_a_macvlan_only_the_addresses_that_are_here_are_local(other: str) -> None:
    def build() -> None:
        ip("link add wire type veth peer name far")
        # As Docker's driver makes it: on a link of the host, whose subnet is on the wire.
        ip("link add eth0 link wire type macvlan mode bridge")
        ip("addr add 10.65.0.2/24 dev eth0")
        ip("addr add fd65::2/64 dev eth0 nodad")
        for name in ("wire", "far", "eth0"):
            ip(f"link set {name} up")

    in_netns(other, build)
    assert {str(network) for network in networks_in(other)} >= {"10.65.0.2/32", "fd65::2/128"}
    for remote in ("10.65.0.1", "10.65.0.3", "fd65::3"):
        assert not any(ip_address(remote) in network for network in networks_in(other)), remote


@needs_root
def test_of_an_overlay_only_the_addresses_that_are_here_are_local(other: str) -> None:
    def build() -> None:
        # As Docker has it in a namespace of its own: the containers' veths and the tunnel
        # are ports of one bridge, which has the gateway's address.
        ip("link add br0 type bridge")
        ip("link add vxlan0 type vxlan id 4096 dstport 4789")
        ip("link set vxlan0 master br0")
        ip("link add veth0 type veth peer name eth0")
        ip("link set veth0 master br0")
        ip("addr add 10.68.0.1/24 dev br0")
        ip("addr add 10.68.0.2/24 dev eth0")

    in_netns(other, build)
    shown = {str(network) for network in networks_in(other)}
    assert {"10.68.0.1/32", "10.68.0.2/32"} <= shown
    assert "10.68.0.0/24" not in shown


@needs_root
def test_the_networks_of_one_namespace_are_its_own(other: str) -> None:
    in_netns(other, lambda: ip("link set lo up"))
    assert {str(network) for network in networks_in(other)} == {"127.0.0.1/32", "::1/128"}
    assert networks_in() <= local_networks([])


@needs_root
def test_links_tell_kind_and_master(other: str) -> None:
    def build_and_read() -> list[Link]:
        ip("link add lbr0 type bridge")
        ip("link add veth0 master lbr0 type veth peer name veth1")
        return links()

    found = in_netns(other, build_and_read)
    kinds = {link.index: link.kind for link in found}
    assert sorted(kinds.values()).count("veth") == 2
    assert "" in kinds.values()  # lo
    (port,) = [link for link in found if link.master]
    assert (port.kind, kinds[port.master]) == ("veth", "bridge")


def test_addresses_of_loopback_keep_their_prefix() -> None:
    assert "127.0.0.1/8" in {str(address) for _, address in addresses()}


def test_a_refused_dump_is_an_error() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        list(dump(0, 9999, bytes(16)))
