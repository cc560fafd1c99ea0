"""Reads the kernel side through its pins. Needs neither BCC nor the agent."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from sockaccel.datapath import libbpf, pins
from sockaccel.datapath.compiler import ITERATOR_PIN, PROGRAMS
from sockaccel.datapath.layout import (
    COUNTER_SLOTS,
    OPTIONS_SIZE,
    Config,
    ConfigFlags,
    ConnRecord,
    PairKey,
)
from sockaccel.datapath.libbpf import AttachType, ProgType
from sockaccel.datapath.options import Options
from sockaccel.errors import NotPermittedError, StateError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY_ZERO = bytes(4)
_READ_SIZE = 1 << 20
_MAP_ATTACHMENTS = {
    "sk_msg": AttachType.SK_MSG_VERDICT,
    "sk_skb": AttachType.SK_SKB_STREAM_VERDICT,
}


@dataclass(frozen=True)
class Program:
    """A program of ours in the kernel."""

    type: str
    name: str
    id: int
    pinned: bool
    attached: bool


class Datapath:
    """The pinned kernel side, opened. A context manager."""

    def __init__(self, pin_dir: Path) -> None:
        self.pin_dir = pin_dir
        self._stack = ExitStack()
        self._fds: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @classmethod
    def open(cls, pin_dir: Path) -> Self | None:
        """Open what is pinned, None when nothing is.

        Raises:
            NotPermittedError: this user may not look.
            StateError: the directory holds something else.

        """
        try:
            os.listdir(pin_dir)
        except (FileNotFoundError, NotADirectoryError):
            pins.refuse_foreign(pin_dir)
            return None
        except OSError as error:
            raise pins.unusable(pin_dir, error) from error
        pins.refuse_foreign(pin_dir)
        return cls(pin_dir)

    def has(self, name: str) -> bool:
        """Say whether something is pinned under that name."""
        return (self.pin_dir / name).exists()

    def fd(self, name: str) -> int:
        """Return the descriptor of a pin, open as long as this object.

        Raises:
            NotPermittedError: this user may not open it.
            StateError: it is missing.

        """
        if name not in self._fds:
            path = self.pin_dir / name
            try:
                descriptor = libbpf.open_pin(path)
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EACCES):
                    raise NotPermittedError(
                        f"cannot open pin '{path}': {reason(error)}", "run as root"
                    ) from error
                raise StateError(
                    f"cannot open pin '{path}': {reason(error)}",
                    "sockaccel disable, then sockaccel enable",
                ) from error
            self._stack.callback(os.close, descriptor)
            self._fds[name] = descriptor
        return self._fds[name]

    @property
    def config(self) -> Config:
        """The switches of the datapath."""
        value = libbpf.lookup(self.fd("config"), KEY_ZERO, ctypes.sizeof(Config))
        return Config.from_buffer_copy(value or bytes(ctypes.sizeof(Config)))

    @config.setter
    def config(self, config: Config) -> None:
        libbpf.update(self.fd("config"), KEY_ZERO, bytes(config))

    @property
    def options(self) -> Options:
        """What `enable` was asked for.

        Raises:
            StateError: they cannot be read.

        """
        stored = libbpf.lookup(self.fd("options"), KEY_ZERO, OPTIONS_SIZE) or b""
        try:
            return Options.from_bytes(stored)
        except (ValueError, TypeError, AttributeError) as error:
            raise StateError(
                f"cannot read the options of '{self.pin_dir}': {error}",
                "sockaccel disable, then sockaccel enable",
            ) from error

    @property
    def attached(self) -> bool:
        """Whether sock_ops is attached to a cgroup that exists."""
        return self.has(pins.LINK) and libbpf.link_info(self.fd(pins.LINK)).cgroup_id != 0

    @property
    def active(self) -> bool:
        """Whether new connections are enrolled and live ones redirected."""
        return self.attached and bool(self.config.flags & ConfigFlags.ENABLED)

    def programs(self) -> list[Program]:
        """Return the pinned programs and whether each is attached."""
        found = []
        for name, kind in PROGRAMS.items():
            if not self.has(name):
                continue
            number = libbpf.prog_info(self.fd(name)).id
            attached = self.attached if kind is ProgType.SOCK_OPS else self._on_map(name, number)
            found.append(Program(kind.name.lower(), name, number, pinned=True, attached=attached))
        return found

    def _on_map(self, name: str, number: int) -> bool:
        try:
            attached = libbpf.attached_programs(self.fd("sock_ops_map"), _MAP_ATTACHMENTS[name])
        except OSError:  # before Linux 5.16 maps of sockets cannot be asked
            return self.has("sock_ops_map")
        return number in attached

    def entries(self) -> list[PairKey]:
        """Return the keys of sock_ops_map."""
        size = ctypes.sizeof(PairKey)
        return [
            PairKey.from_buffer_copy(key)
            for key in dict.fromkeys(libbpf.keys(self.fd("sock_ops_map"), size))
        ]

    def namespaces(self) -> list[int]:
        """Return the cookies of the namespaces in scope."""
        return [int.from_bytes(key, "little") for key in libbpf.keys(self.fd("scope"), 8)]

    def counters(self) -> list[int]:
        """Return the sums over closed connections, by Counter."""
        cpus = libbpf.possible_cpus()
        sums = []
        for index in range(COUNTER_SLOTS):
            value = libbpf.lookup(self.fd("counters"), index.to_bytes(4, "little"), 8 * cpus)
            sums.append(sum(memoryview(value or b"").cast("Q")))
        return sums

    def records(self) -> Iterator[ConnRecord]:
        """Yield a record of every enrolled socket.

        Raises:
            NotPermittedError: this user may not read the iterator.
            StateError: it is missing.

        """
        path = self.pin_dir / ITERATOR_PIN
        size = ctypes.sizeof(ConnRecord)
        try:
            with path.open("rb", buffering=0) as stream:
                pending = b""
                while chunk := stream.read(_READ_SIZE):
                    pending += chunk
                    whole = len(pending) - len(pending) % size
                    for start in range(0, whole, size):
                        yield ConnRecord.from_buffer_copy(pending, start)
                    pending = pending[whole:]
        except PermissionError as error:
            raise NotPermittedError(
                f"cannot read '{path}': {reason(error)}", "run as root"
            ) from error
        except OSError as error:
            raise StateError(
                f"cannot read '{path}': {reason(error)}",
                "sockaccel disable, then sockaccel enable",
            ) from error


@dataclass(frozen=True)
class Draining:
    """A disabled datapath whose last sockets are still open."""

    map_id: int
    entries: int


def draining() -> list[Draining]:
    """Return the switched-off datapaths that live sockets still hold.

    Found by id, which needs CAP_SYS_ADMIN: their pins are gone.

    Raises:
        OSError: not permitted.

    """
    found = []
    for number in libbpf.prog_ids():
        try:
            with libbpf.fd(libbpf.prog_by_id(number)) as program:
                info = libbpf.prog_info(program)
                if info.type != ProgType.SK_MSG or info.name != b"sk_msg":
                    continue
                maps = _maps_by_name(libbpf.prog_map_ids(program))
        except FileNotFoundError:  # gone meanwhile
            continue
        if {"sock_ops_map", "config", "conns"} <= maps.keys() and not _is_enabled(maps["config"]):
            map_id = maps["sock_ops_map"]
            try:
                with libbpf.fd(libbpf.map_by_id(map_id)) as descriptor:
                    keys = libbpf.keys(descriptor, ctypes.sizeof(PairKey))
                    found.append(Draining(map_id, len(set(keys))))
            except FileNotFoundError:
                continue
    return found


def _maps_by_name(ids: list[int]) -> dict[str, int]:
    names = {}
    for number in ids:
        with libbpf.fd(libbpf.map_by_id(number)) as descriptor:
            names[libbpf.map_info(descriptor).name.decode()] = number
    return names


def _is_enabled(config_id: int) -> bool:
    try:
        with libbpf.fd(libbpf.map_by_id(config_id)) as descriptor:
            value = libbpf.lookup(descriptor, KEY_ZERO, ctypes.sizeof(Config))
    except FileNotFoundError:
        return False
    return bool(Config.from_buffer_copy(value or bytes(8)).flags & ConfigFlags.ENABLED)
