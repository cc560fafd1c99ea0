"""Network namespaces: their cookies, which there are, and what is local to them."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sockaccel.errors import HostError, InputError, NotPermittedError, reason
from sockaccel.scope import netlink
from sockaccel.scope.mountinfo import mounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
Network = IPv4Network | IPv6Network

OWN = "/proc/self/ns/net"
LOOPBACK = frozenset({ip_network("127.0.0.0/8"), ip_network("::1/128")})
"""Local to every namespace."""

_CLONE_NEWNET = 0x40000000
# Linux kernel commit e8b9eab99232 "net: retrieve netns cookie via getsocketopt" (in v5.14)
_SO_NETNS_COOKIE = 71

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace.

    cookie: the kernel's number for it, never used again until reboot; path: a file to enter
    it by; label: what people call it (container, name under /run/netns), if anything.
    """

    cookie: int
    path: str
    label: str | None = None


def in_netns(path_or_fd: str | Path | int, function: Callable[[], T]) -> T:
    """Return what `function` returns when it is called inside another network namespace.

    It runs in a thread of its own that ends with it, so that no other code ever finds itself
    there. Take care to return results, not generators: those would run on outside.

    Raises InputError when this is no network namespace, NotPermittedError when it must not be
    entered (setns(2) wants CAP_SYS_ADMIN), and whatever `function` raises.
    """

    def enter_and_call() -> T:
        with _opened(path_or_fd) as fd:
            if _libc.setns(fd, _CLONE_NEWNET) != 0:
                raise _cannot_enter(path_or_fd, OSError(ctypes.get_errno(), ""))
        return function()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns") as pool:
        return pool.submit(enter_and_call).result()


def netns_cookie(path: str | None = None) -> int:
    """Return the cookie of a network namespace, by default of the caller's own.

    It is what bpf_get_netns_cookie() returns in the kernel. Raises as in_netns() does, and
    HostError when the kernel does not tell (before 5.14).
    """
    return _own_cookie() if path is None else in_netns(path, _own_cookie)


def look_into(path: str) -> tuple[int, frozenset[Network]]:
    """Return the cookie of a network namespace, and the addresses that a peer in it can have.

    Raises as netns_cookie() does, and OSError when the kernel does not answer.
    """
    return in_netns(path, lambda: (_own_cookie(), frozenset(_networks_here())))


def all_namespaces() -> list[Namespace]:
    """Return every network namespace that a process is in or that is mounted, each once.

    A mount (/run/netns/NAME, /run/docker/netns/ID) outlives processes, so it is preferred as
    the path. Not found: namespaces which only an open file, a socket or a thread other than
    its process's first still holds. Raises NotPermittedError.
    """
    found: dict[tuple[int, int], Namespace] = {}
    for path, label in _candidates():
        try:
            status = Path(path).stat()
            identity = (status.st_dev, status.st_ino)
            if identity not in found:
                found[identity] = Namespace(netns_cookie(path), path, label)
        except (OSError, InputError):
            continue  # gone meanwhile, or a process that not even root may look into
    return sorted(found.values(), key=lambda namespace: namespace.cookie)


def local_networks(namespaces: Iterable[Namespace]) -> set[Network]:
    """Return the addresses that a peer on this host can have.

    Loopback, each address of the own and the given namespaces, and the subnets of their local
    bridges, because the next container appears there. A namespace that has gone is left out.
    Raises NotPermittedError, and OSError when the kernel does not answer.
    """
    networks = networks_in() | LOOPBACK
    for namespace in namespaces:
        try:
            networks |= networks_in(namespace.path)
        except InputError:
            continue
    return networks


def networks_in(path: str | None = None) -> set[Network]:
    """Return the addresses of one namespace, and the subnets of its local bridges.

    By default of the caller's own. Raises as in_netns() does, and OSError when the kernel
    does not answer.
    """
    return _networks_here() if path is None else in_netns(path, _networks_here)


def _networks_here() -> set[Network]:
    links = netlink.links()
    # A bridge with any other port (hardware, vxlan, a VM's tap) has remote hosts behind it, as
    # macvlan and overlay networks do: of those only the addresses that are here are local.
    open_bridges = {link.master for link in links if link.kind not in ("veth", "dummy")}
    bridges = {link.index for link in links if link.kind == "bridge"} - open_bridges
    networks: set[Network] = set()
    for index, address in netlink.addresses():
        networks.add(ip_network(address.ip))
        if index in bridges and not address.is_link_local:  # those are the same on every link
            networks.add(address.network)
    return networks


def _candidates() -> Iterator[tuple[str, str | None]]:
    """Yield path and label of what may be a network namespace; the paths to prefer first."""
    for mount in mounts("nsfs"):
        if mount.root.startswith("net:["):
            yield mount.point, Path(mount.point).name
    yield OWN, None
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        yield f"/proc/{pid}/ns/net", None


def _own_cookie() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            value = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
            raise HostError(
                f"cannot read the cookie of a network namespace: {reason(error)}",
                "use Linux 5.14 or later",
            ) from error
    cookie: int = struct.unpack("=Q", value)[0]
    return cookie


@contextmanager
def _opened(path_or_fd: str | Path | int) -> Iterator[int]:
    if isinstance(path_or_fd, int):
        yield path_or_fd
        return
    try:
        # O_NONBLOCK: a FIFO given by mistake must not wait for a writer.
        fd = os.open(path_or_fd, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _cannot_enter(path_or_fd, error) from error
    except ValueError as error:  # a NUL in the name
        raise _cannot_enter(path_or_fd, OSError(errno.EINVAL, "")) from error
    try:
        yield fd
    finally:
        os.close(fd)


def _cannot_enter(what: str | Path | int, error: OSError) -> InputError | NotPermittedError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotPermittedError(
            f"cannot enter network namespace '{what}': {reason(error)}", "run as root"
        )
    name = Path(str(what)).name
    # Unlike Path's, this exists() is also for names that are too long or hold a NUL.
    known = bool(name) and os.path.exists(f"/run/netns/{name}")  # noqa: PTH110
    hint = f"--netns /run/netns/{name}" if known else "lsns -t net -o PID,NSFS,COMMAND"
    return InputError(f"cannot use network namespace '{what}': {reason(error)}", hint)
