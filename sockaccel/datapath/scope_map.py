"""The maps that say who is in scope: reading them, and carrying out a plan.

Whoever changes them holds the lock of the pin directory, see lifecycle.update_scope().
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import defaultdict
from ipaddress import IPv6Address, IPv6Network, ip_network
from typing import TYPE_CHECKING

from sockaccel.datapath import libbpf
from sockaccel.datapath.layout import (
    CONTAINER_NAME_SIZE,
    LocalFlags,
    NetnsPort,
    Network,
    OverrideValue,
    ScopeFlags,
)
from sockaccel.errors import DatapathError, InputError, reason
from sockaccel.scope.plan import Changes, Entry, NetworkChanges
from sockaccel.scope.ports import from_prefixes
from sockaccel.scope.selection import Override

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Set

    from sockaccel.datapath.state import Datapath
    from sockaccel.scope import netns
    from sockaccel.scope.ports import PortSet

_WORD = 4
_ALLOWED = (1).to_bytes(_WORD, sys.byteorder)
_NETNS_BITS = 64
_MAPPED_BITS = 96  # ::ffff:0:0/96


class ScopeMap:
    """The maps `scope`, `netns_ports`, `local_networks` and `overrides` of a datapath."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath

    def entries(self) -> dict[int, Entry]:
        """Return the namespaces in scope by cookie."""
        prefixes = defaultdict(list)
        for port in self._port_keys():
            prefixes[_cookie(port)].append(_prefix(port))
        found = {}
        for key, flags in self._words("scope", 8):
            cookie = int.from_bytes(key, sys.byteorder)
            found[cookie] = Entry(
                bool(flags & ScopeFlags.POLICY_ALL),
                from_prefixes(prefixes[cookie]) if flags & ScopeFlags.PORTS else None,
                bool(flags & ScopeFlags.BY_DOCKER),
                bool(flags & ScopeFlags.BY_NETNS),
            )
        return found

    def apply(self, changes: Changes) -> None:
        """Carry out a plan; live connections look again if somebody comes into scope or leaves.

        A process that is killed in the middle leaves nothing but prefixes of ports that no
        namespace refers to, and the next plan to be carried out removes them.

        Raises:
            DatapathError: a map is full. All the rest is done; whom it has no room for is out
                of scope.

        """
        failed: OSError | None = None
        try:
            # First: a map that is full must keep nobody in scope, and they make room.
            for cookie in changes.remove:
                libbpf.delete(self._datapath.fd("scope"), _cookie_key(cookie))
            if changes.remove:
                self._remove_stale_ports({})
            for cookie, entry in changes.put.items():
                try:
                    self._put(cookie, entry)
                except OSError as error:
                    failed = error
        finally:
            # Also where only some of it was done.
            if changes.membership or failed:
                self._raise_epoch()
        self._remove_stale_ports(changes.put)
        if failed:
            raise DatapathError(
                f"cannot put a network namespace in scope: {reason(failed)}",
                "sockaccel scope list",
            ) from failed

    def overrides(self) -> dict[str, Override]:
        """Return the user's word on containers by name."""
        return {
            os.fsdecode(key.rstrip(b"\0")): Override[OverrideValue(value).name]
            for key, value in self._words("overrides", CONTAINER_NAME_SIZE)
        }

    def set_override(self, name: str, override: Override) -> None:
        """Note the user's word on a container, whose name is one that can be checked.

        Raises:
            DatapathError: the map is full.

        """
        value = OverrideValue[override.name]
        try:
            libbpf.update(self._datapath.fd("overrides"), _name_key(name), _word(value))
        except OSError as error:
            raise DatapathError(
                f"cannot {override} container '{name}': {reason(error)}", "sockaccel scope list"
            ) from error

    def remove_override(self, name: str) -> None:
        """Forget the user's word on a container; it is no error if there is none."""
        libbpf.delete(self._datapath.fd("overrides"), _name_key(name))

    def networks(self) -> dict[netns.Network, bool]:
        """Return the local networks, each with whether sockaccel put it there."""
        return {
            _network(Network.from_buffer_copy(key)): bool(flags & LocalFlags.OURS)
            for key, flags in self._words("local_networks", ctypes.sizeof(Network))
        }

    def apply_networks(self, changes: NetworkChanges) -> None:
        """Carry out a plan.

        Raises:
            DatapathError: the map is full.

        """
        networks = self._datapath.fd("local_networks")
        value = _word(LocalFlags.PRESENT | LocalFlags.OURS)
        for key in network_keys(changes.remove):
            libbpf.delete(networks, key)
        try:
            for key in network_keys(changes.put):
                libbpf.update(networks, key, value)
        except OSError as error:
            raise DatapathError(
                f"cannot note the networks of this host: {reason(error)}", "sockaccel status"
            ) from error

    def _put(self, cookie: int, entry: Entry) -> None:
        scope, ports = self._datapath.fd("scope"), self._datapath.fd("netns_ports")
        keys = port_keys(cookie, entry.ports)
        try:
            # What it may do first: the entry that refers to it must find it.
            for key in keys:
                libbpf.update(ports, key, _ALLOWED)
            libbpf.update(scope, _cookie_key(cookie), _word(_flags(entry)))
        except OSError:
            # Half a list of ports is not what was asked for, and takes the room of others.
            libbpf.delete(scope, _cookie_key(cookie))
            for key in keys:
                libbpf.delete(ports, key)
            raise

    def _raise_epoch(self) -> None:
        config = self._datapath.config
        config.scope_epoch += 1
        self._datapath.config = config

    def _remove_stale_ports(self, put: Mapping[int, Entry]) -> None:
        """Remove the ports that nobody refers to, and those which what was put has not."""
        scope = self._datapath.fd("scope")
        wanted: dict[int, Set[bytes]] = {
            cookie: set(port_keys(cookie, entry.ports)) for cookie, entry in put.items()
        }
        for key in list(self._port_keys()):
            cookie = _cookie(key)
            if cookie in wanted:
                stale = bytes(key) not in wanted[cookie]
            else:
                stale = libbpf.lookup(scope, _cookie_key(cookie), _WORD) is None
            if stale:
                libbpf.delete(self._datapath.fd("netns_ports"), bytes(key))

    def _port_keys(self) -> Iterator[NetnsPort]:
        for key in libbpf.keys(self._datapath.fd("netns_ports"), ctypes.sizeof(NetnsPort)):
            yield NetnsPort.from_buffer_copy(key)

    def _words(self, name: str, key_size: int) -> Iterator[tuple[bytes, int]]:
        """Yield the elements of a map with 4-byte values, each key once."""
        descriptor = self._datapath.fd(name)
        for key in dict.fromkeys(libbpf.keys(descriptor, key_size)):
            value = libbpf.lookup(descriptor, key, _WORD)
            if value is not None:
                yield key, int.from_bytes(value, sys.byteorder)


def check_container_name(name: str) -> None:
    """Check that a name can be a key of the map `overrides`.

    Raises:
        InputError: it is empty, too long, or not text.

    """
    size = len(os.fsencode(name))
    if not 0 < size < CONTAINER_NAME_SIZE or "\0" in name:
        raise InputError(
            f"cannot override container '{name}': its name is not 1 to "
            f"{CONTAINER_NAME_SIZE - 1} bytes long",
            "docker rename",
        )


def port_keys(cookie: int, ports: PortSet | None) -> list[bytes]:
    """Return the keys of netns_ports for a namespace; None is no limit, and no keys."""
    if ports is None:
        return []
    return [
        bytes(
            NetnsPort(
                _NETNS_BITS + length, tuple(_cookie_key(cookie)), tuple(first.to_bytes(2, "big"))
            )
        )
        for first, length in ports.prefixes()
    ]


def network_keys(networks: Iterable[netns.Network]) -> list[bytes]:
    """Return the keys of local_networks: IPv4 as v4-mapped IPv6, as sock_ops looks it up."""
    keys = []
    for network in networks:
        address, prefix = network.network_address.packed, network.prefixlen
        if network.version == 4:
            address, prefix = bytes(10) + b"\xff\xff" + address, prefix + _MAPPED_BITS
        keys.append(bytes(Network(prefix, tuple(address))))
    return keys


def _network(key: Network) -> netns.Network:
    network = IPv6Network((bytes(key.address), key.prefix_len))
    address = IPv6Address(bytes(key.address)).ipv4_mapped
    if address is None or key.prefix_len < _MAPPED_BITS:
        return network
    return ip_network((address.packed, key.prefix_len - _MAPPED_BITS))


def _flags(entry: Entry) -> ScopeFlags:
    flags = ScopeFlags.MEMBER
    if entry.policy_all:
        flags |= ScopeFlags.POLICY_ALL
    if entry.ports is not None:
        flags |= ScopeFlags.PORTS
    if entry.by_docker:
        flags |= ScopeFlags.BY_DOCKER
    if entry.by_netns:
        flags |= ScopeFlags.BY_NETNS
    return flags


def _cookie_key(cookie: int) -> bytes:
    return cookie.to_bytes(8, sys.byteorder)


def _cookie(key: NetnsPort) -> int:
    return int.from_bytes(bytes(key.netns), sys.byteorder)


def _prefix(key: NetnsPort) -> tuple[int, int]:
    return int.from_bytes(bytes(key.port), "big"), key.prefix_len - _NETNS_BITS


def _word(value: int) -> bytes:
    return int(value).to_bytes(_WORD, sys.byteorder)


def _name_key(name: str) -> bytes:
    return os.fsencode(name).ljust(CONTAINER_NAME_SIZE, b"\0")
