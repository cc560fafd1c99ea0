"""Switches acceleration on and off."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from sockaccel.datapath import compiler, libbpf, pins
from sockaccel.datapath.layout import Config, ConfigFlags, Network
from sockaccel.datapath.libbpf import AttachType
from sockaccel.datapath.state import KEY_ZERO, Datapath
from sockaccel.errors import (
    AttachError,
    DatapathError,
    NotPermittedError,
    StateError,
    reason,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

    from sockaccel.datapath.options import Options
    from sockaccel.scope.netns import Namespace
    from sockaccel.scope.ports import PortSet

# In-flight handshakes; the least recent is pushed out, and then stays on TCP.
MAX_HANDSHAKES = 32_768
# Below this size a stream of writes is better off with TCP, which joins them; bytes.
SMALL_WRITE = 2_048
# Unread bytes that a redirect may add up to where the reader left SO_RCVBUF alone.
QUEUE_BYTES = 1 << 20

_POLL_S = 0.05
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}


@dataclass(frozen=True)
class Scope:
    """Who is accelerated, as resolved from the options."""

    namespaces: tuple[Namespace, ...]
    ports: PortSet | None
    local_networks: frozenset[IPv4Network | IPv6Network]


class Outcome(Enum):
    """What `enable` found."""

    ENABLED = auto()
    ALREADY_ENABLED = auto()


def check_capabilities() -> None:
    """Check that this process may load, attach and look.

    Raises:
        NotPermittedError: a capability is missing; it names which.

    """
    effective = 0
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        raise NotPermittedError(
            f"cannot change the datapath: missing {', '.join(missing)} (EPERM)", "run as root"
        )


def existing(pin_dir: Path, options: Options) -> Outcome | None:
    """Return ALREADY_ENABLED when it is, with these options; None when nothing is active.

    Raises:
        StateError: it is enabled with other options, or the directory holds something else.

    """
    datapath = Datapath.open(pin_dir)
    if datapath is None:
        return None
    with datapath:
        if not datapath.attached:
            return None
        differences = datapath.options.differences(options)
        if differences:
            raise StateError(
                "cannot enable: already enabled with other options: " + "; ".join(differences),
                f"{_command('disable', pin_dir)}, then enable again",
            )
        return Outcome.ALREADY_ENABLED


def enable(pin_dir: Path, options: Options, scope: Scope) -> Outcome:
    """Compile, load, pin and attach. Nothing is left behind when it fails.

    Raises:
        SockaccelError: any of errors.py.

    """
    with pins.locked(pin_dir):
        if found := existing(pin_dir, options):
            return found
        staging = pins.staging(pin_dir)
        # What a killed loader left: nothing of it acts.
        pins.refuse_foreign(staging)
        pins.remove(staging)
        pins.remove(pin_dir)
        try:
            staging.mkdir()
            _build(staging, options, scope)
            staging.rename(pin_dir)
            _attach(pin_dir, options.cgroup)
        except OSError as error:
            _remove_all(staging, pin_dir)
            raise DatapathError(
                f"cannot set up '{error.filename or pin_dir}': {reason(error)}",
                "sockaccel disable, then try again with --debug",
            ) from error
        except BaseException:
            _remove_all(staging, pin_dir)
            raise
    return Outcome.ENABLED


@dataclass(frozen=True)
class Disabled:
    """What `disable` found and left."""

    was_enabled: bool
    map_id: int | None


def disable(pin_dir: Path) -> Disabled:
    """Send all further messages by TCP, enrol nobody any more, and unpin.

    Sockets that are enrolled keep their queue until they close; then the kernel
    frees what is left. Works after a crash, and when nothing is enabled.

    Raises:
        NotPermittedError: this user may not.
        StateError: the directory holds something else.

    """
    with pins.locked(pin_dir):
        datapath = Datapath.open(pin_dir)
        was_enabled, map_id = _switch_off(datapath) if datapath else (False, None)
        try:
            _remove_all(pins.staging(pin_dir), pin_dir)
        except OSError as error:
            raise DatapathError(
                f"cannot remove pin directory '{pin_dir}': {reason(error)}", f"ls -l {pin_dir}"
            ) from error
    return Disabled(was_enabled, map_id)


def _switch_off(datapath: Datapath) -> tuple[bool, int | None]:
    """Flip the flag and detach; each as far as a crash has left it. Also closes."""
    with datapath:
        if datapath.has("config"):
            config = datapath.config
            config.flags &= ~ConfigFlags.ENABLED
            datapath.config = config
        was_enabled = datapath.has(pins.LINK)
        if was_enabled:
            libbpf.detach_link(datapath.fd(pins.LINK))
        if not datapath.has("sock_ops_map"):
            return was_enabled, None
        return was_enabled, libbpf.map_info(datapath.fd("sock_ops_map")).id


def wait_drained(map_id: int, timeout_s: float) -> bool:
    """Wait until the kernel has freed a disabled map; False when it has not in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            os.close(libbpf.map_by_id(map_id))
        except FileNotFoundError:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)


def _build(directory: Path, options: Options, scope: Scope) -> None:
    compiler.compile_and_pin(
        compiler.Request(
            str(directory),
            {
                "MAX_SOCKETS": 2 * options.max_connections,
                "MAX_HANDSHAKES": MAX_HANDSHAKES,
                "SMALL_WRITE": SMALL_WRITE,
                "QUEUE_BYTES": QUEUE_BYTES,
            },
        )
    )
    flags = ConfigFlags.ENABLED
    with Datapath(directory) as datapath:
        libbpf.update(datapath.fd("options"), KEY_ZERO, options.to_bytes())
        for namespace in scope.namespaces:
            key = namespace.cookie.to_bytes(8, "little")
            libbpf.update(datapath.fd("scope"), key, (1).to_bytes(4, "little"))
        if options.scope == "all":
            flags |= ConfigFlags.SCOPE_ALL
        if scope.ports is not None:
            flags |= ConfigFlags.PORTS
            bitmap = scope.ports.to_bitmap()
            for word in range(len(bitmap) // 8):
                index = word.to_bytes(4, "little")
                libbpf.update(datapath.fd("ports"), index, bitmap[8 * word : 8 * word + 8])
        for key in network_keys(scope.local_networks):
            libbpf.update(datapath.fd("local_networks"), key, (1).to_bytes(4, "little"))
        datapath.config = Config(flags=flags)
        sockets = datapath.fd("sock_ops_map")
        # First the one queue, so that no socket ever enters without it.
        libbpf.attach(datapath.fd("sk_skb"), sockets, AttachType.SK_SKB_STREAM_VERDICT)
        libbpf.attach(datapath.fd("sk_msg"), sockets, AttachType.SK_MSG_VERDICT)


def network_keys(networks: Iterable[IPv4Network | IPv6Network]) -> list[bytes]:
    """Return the keys of local_networks: IPv4 as v4-mapped IPv6, as sock_ops looks it up."""
    keys = []
    for network in networks:
        address, prefix = network.network_address.packed, network.prefixlen
        if network.version == 4:
            address, prefix = bytes(10) + b"\xff\xff" + address, prefix + 96
        keys.append(bytes(Network(prefix, tuple(address))))
    return keys


def _attach(pin_dir: Path, cgroup: str) -> None:
    try:
        with (
            libbpf.fd(libbpf.open_pin(pin_dir / "sock_ops")) as program,
            libbpf.fd(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)) as directory,
            libbpf.fd(libbpf.link_cgroup(program, directory, AttachType.CGROUP_SOCK_OPS)) as link,
        ):
            libbpf.pin(link, pin_dir / pins.LINK)
    except OSError as error:
        raise AttachError(
            f"cannot attach sock_ops to cgroup '{cgroup}': {reason(error)}",
            f"bpftool cgroup tree {cgroup} shows who else is attached",
        ) from error


def _remove_all(*directories: Path) -> None:
    for directory in directories:
        pins.remove(directory)


def _command(name: str, pin_dir: Path) -> str:
    where = "" if pin_dir == pins.DEFAULT_PIN_DIR else f"--pin-dir {pin_dir} "
    return f"sockaccel {where}{name}"
