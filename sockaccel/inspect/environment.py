"""doctor's checks of the host: they look, and change nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sockaccel.datapath import bcc_module, btf, libbpf, lifecycle, pins, state
from sockaccel.datapath.libbpf import AttachType, ProgType
from sockaccel.datapath.state import Datapath
from sockaccel.errors import DockerError
from sockaccel.inspect import status
from sockaccel.inspect.finding import Outcome, failed, passed, warned
from sockaccel.render.units import bytes_text
from sockaccel.scope import docker
from sockaccel.scope.cgroup import check_cgroup, default_cgroup
from sockaccel.scope.mountinfo import mounts
from sockaccel.scope.netns import netns_cookie

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The first namespaces of a machine have fixed inodes (include/linux/proc_ns.h).
_FIRST_CGROUP_NAMESPACE = 0xEFFFFFFB
_FIRST_USER_NAMESPACE = 0xEFFFFFFD
_LOCKDOWN = Path("/sys/kernel/security/lockdown")
_SOCKSTAT = Path("/proc/net/sockstat")
_TCP_MEM = Path("/proc/sys/net/ipv4/tcp_mem")
_MAP_TYPES = {15: "sockmap", 18: "sockhash"}  # enum bpf_map_type
_ALLOW_MULTI = 2  # BPF_F_ALLOW_MULTI
_MAX_NAMED = 3


@dataclass(frozen=True)
class Host:
    """What to look at: where `enable` would pin and attach, and whom it would ask."""

    pin_dir: Path
    cgroup: str | None = None
    docker_host: str | None = None

    def cgroup_path(self) -> Path:
        """Return the cgroup to attach to. Raises as check_cgroup() and default_cgroup() do."""
        return default_cgroup() if self.cgroup is None else check_cgroup(self.cgroup)


def capabilities(_: Host) -> Outcome:
    """Check that this process may load, attach and look."""
    if _inode("user") != _FIRST_USER_NAMESPACE:
        return failed(
            "in a user namespace: the capabilities that bpf(2) asks for do not count there",
            "run as root outside of it",
        )
    lifecycle.check_capabilities()
    return passed(", ".join(lifecycle.CAPABILITIES))


def lockdown(_: Host) -> Outcome:
    """Check that programs may read kernel memory."""
    try:
        modes = _LOCKDOWN.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return passed("this kernel has no lockdown, or securityfs is not mounted")
    mode = next((word.strip("[]") for word in modes if word.startswith("[")), "none")
    if mode == "confidentiality":
        return failed(
            "lockdown is 'confidentiality': programs may not read kernel memory",
            "boot with lockdown=integrity",
        )
    return passed(f"lockdown is '{mode}'")


def kernel_types(_: Host) -> Outcome:
    """Check that the kernel tells where its fields are."""
    return passed(f"BTF has the {len(btf.field_offsets())} offsets that are needed")


def bpffs(host: Host) -> Outcome:
    """Check that programs and maps can be pinned."""
    pins.check(host.pin_dir)
    return passed(f"{host.pin_dir.parent} is a bpffs")


def cgroup(host: Host) -> Outcome:
    """Check that there is a cgroup v2 to attach to, and whom it covers."""
    path = host.cgroup_path()
    older = len(mounts("cgroup"))
    evidence = f"cgroup v2 at {path}"
    if older:
        evidence += f", beside {older} hierarchies of v1"
    if _inode("cgroup") != _FIRST_CGROUP_NAMESPACE:
        return warned(
            f"{evidence}, in a cgroup namespace: what is outside of this container is not covered",
            "docker run --cgroupns=host …",
        )
    return passed(evidence)


def namespaces(_: Host) -> Outcome:
    """Check that network namespaces have numbers."""
    return passed(f"SO_NETNS_COOKIE works; this namespace is {netns_cookie()}")


def bcc(_: Host) -> Outcome:
    """Check that BCC is there, and is not the package of that name on PyPI."""
    module = bcc_module.import_bcc()
    return passed(f"BCC {getattr(module, '__version__', 'of unknown version')}, {module.__file__}")


def docker_daemon(host: Host) -> Outcome:
    """Check that Docker tells who its containers are."""
    try:
        containers = docker.snapshot(host.docker_host)
    except DockerError as error:
        return warned(
            f"{error}; only --scope docker needs it", "sockaccel enable --netns /run/netns/NAME"
        )
    return passed(f"{docker.docker_url(host.docker_host)}, {len(containers)} containers run")


def tcp_memory(_: Host) -> Outcome:
    """Check that TCP is not short of memory, for else messages are left to it."""
    words = next(
        line.split() for line in _SOCKSTAT.read_text().splitlines() if line.startswith("TCP:")
    )
    used = int(words[words.index("mem") + 1])
    pressure = int(_TCP_MEM.read_text().split()[1])
    page = os.sysconf("SC_PAGE_SIZE")
    evidence = (
        f"TCP holds {bytes_text(used * page)}; pressure begins at {bytes_text(pressure * page)}"
    )
    if used >= pressure:
        return warned(f"{evidence}: messages are left to TCP", "sysctl net.ipv4.tcp_mem")
    return passed(evidence)


def what_is_enabled(host: Host) -> Outcome:
    """Find what is on, and what stayed behind."""
    found = status.read(host.pin_dir)
    disable = pins.command(host.pin_dir, "disable")
    if any(each.redirecting for each in found.draining):
        return warned("sockets of a datapath whose pins are gone are still redirected", disable)
    if found.detached:
        return warned("enabled, but the cgroup it was attached to is gone", disable)
    if pins.staging(host.pin_dir).exists() or (found.programs and not found.active):
        return warned("an enable was interrupted; its pins are left", disable)
    draining = sum(each.entries for each in found.draining)
    after = f"; {draining} sockets of an earlier one are still open, on TCP" if draining else ""
    if found.active:
        return passed(f"enabled on {found.cgroup}, {found.entries} sockets{after}")
    return passed(f"not enabled, nothing is pinned{after}")


def owners(host: Host) -> Outcome:
    """Find who else has programs on connections and sockets."""
    ours = _ours(host.pin_dir)
    target = host.cgroup_path()
    found: list[str] = []
    for path, ids, flags in _attached_sock_ops(default_cgroup()):
        others = [number for number in ids if number not in ours.programs]
        if not others:
            continue
        name = f"sock_ops '{_program_name(others[0])}' on {path}"
        if path == target and not flags & _ALLOW_MULTI:
            return failed(
                f"{name} allows no other program beside it", f"bpftool cgroup show {path}"
            )
        found.append(name)
    found += _sockmap_users(ours)
    if not found:
        return passed("no sock_ops, sk_msg or sk_skb program and no map of sockets but ours")
    more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    return warned(
        f"beside ours: {', '.join(found[:_MAX_NAMED])}{more}; a socket that another sk_msg "
        "program owns stays on TCP",
        "bpftool prog show; bpftool map show",
    )


CHECKS: dict[str, Callable[[Host], Outcome]] = {
    "capabilities": capabilities,
    "lockdown": lockdown,
    "kernel-types": kernel_types,
    "bpffs": bpffs,
    "cgroup": cgroup,
    "namespaces": namespaces,
    "bcc": bcc,
    "docker": docker_daemon,
    "tcp-memory": tcp_memory,
    "enabled": what_is_enabled,
    "owners": owners,
}
"""In the order in which they are shown."""


def _inode(namespace: str) -> int:
    return Path(f"/proc/self/ns/{namespace}").stat().st_ino


class _Ours(NamedTuple):
    """The ids of what belongs to a pin directory."""

    programs: set[int]
    maps: set[int]
    """Of sockets; also those whose pins are gone."""


def _ours(pin_dir: Path) -> _Ours:
    ours = _Ours(set(), {each.map_id for each in state.loaded(pin_dir)})
    datapath = Datapath.open(pin_dir)
    if datapath:
        with datapath:
            ours.programs.update(each.id for each in datapath.programs())
    return ours


def _attached_sock_ops(root: Path) -> Iterator[tuple[Path, list[int], int]]:
    """Yield the cgroups that have sock_ops programs of their own."""
    for path, _, _ in os.walk(root):
        try:
            with libbpf.fd(os.open(path, os.O_RDONLY | os.O_DIRECTORY)) as directory:
                if ids := libbpf.attached_programs(directory, AttachType.CGROUP_SOCK_OPS):
                    flags = libbpf.attach_flags(directory, AttachType.CGROUP_SOCK_OPS)
                    yield Path(path), ids, flags
        except FileNotFoundError:  # gone meanwhile
            continue


def _program_name(number: int) -> str:
    try:
        with libbpf.fd(libbpf.prog_by_id(number)) as program:
            return libbpf.prog_info(program).name.decode() or str(number)
    except FileNotFoundError:
        return str(number)


def _sockmap_users(ours: _Ours) -> list[str]:
    """Return the programs of others that run on sockets, and their maps of sockets."""
    found = []
    for number in libbpf.prog_ids():
        try:
            with libbpf.fd(libbpf.prog_by_id(number)) as program:
                info = libbpf.prog_info(program)
                if info.type not in (ProgType.SK_MSG, ProgType.SK_SKB):
                    continue
                maps = ours.maps.intersection(libbpf.prog_map_ids(program))
        except FileNotFoundError:  # gone meanwhile
            continue
        if not maps and number not in ours.programs:
            found.append(f"{ProgType(info.type).name.lower()} '{info.name.decode()}' ({number})")
    for number in libbpf.map_ids():
        try:
            with libbpf.fd(libbpf.map_by_id(number)) as descriptor:
                map_info = libbpf.map_info(descriptor)
        except FileNotFoundError:
            continue
        if map_info.type in _MAP_TYPES and number not in ours.maps:
            found.append(f"{_MAP_TYPES[map_info.type]} '{map_info.name.decode()}' ({number})")
    return found
