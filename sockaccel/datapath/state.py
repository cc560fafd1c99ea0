"""Reads the kernel side through its pins. Needs neither BCC nor the agent."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sockaccel.datapath import libbpf, pins
from sockaccel.datapath.compiler import ITERATOR_PIN, PROGRAMS, READER
from sockaccel.datapath.layout import (
    COUNTER_SLOTS,
    OPTIONS_SIZE,
    Config,
    ConfigFlags,
    ConnRecord,
    PairKey,
    ProgramKey,
)
from sockaccel.datapath.layout import Program as LearnedProgram
from sockaccel.datapath.libbpf import AttachType, ProgType
from sockaccel.datapath.options import Options
from sockaccel.errors import NotPermittedError, StateError, reason

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

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
        self.close()

    def close(self) -> None:
        """Close what was opened."""
        self._stack.close()

    @classmethod
    def open(cls, pin_dir: Path) -> Self | None:
        """Open what is pinned, None when nothing is.

        Raises:
            NotPermittedError: this user may not look.
            StateError: the directory holds something else.

        """
        try:
            pins.check_name(pin_dir)
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
                    pins.command(self.pin_dir, "disable"),
                ) from error
            self._stack.callback(os.close, descriptor)
            self._fds[name] = descriptor
        return self._fds[name]

    @property
    def config(self) -> Config:
        """The switches of the datapath."""
        return _config(self.fd("config"))

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
                pins.command(self.pin_dir, "disable"),
            ) from error

    @property
    def complete(self) -> bool:
        """Whether everything is pinned that should be."""
        return all(self.has(name) for name in pins.REQUIRED)

    @property
    def attached(self) -> bool:
        """Whether sock_ops is attached to the cgroup that is under the path it was given."""
        if not self.has(pins.LINK):
            return False
        try:
            # The id of a cgroup is its inode (kernel/cgroup: cgroup_id()).
            present = Path(self.options.cgroup).stat().st_ino
        except OSError:
            return False
        return bool(libbpf.link_info(self.fd(pins.LINK)).cgroup_id == present)

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
        if self.has(pins.READER_LINK):  # --policy all asks nobody
            number = libbpf.prog_info(self.fd(READER)).id
            found.append(Program("tracing", READER, number, pinned=True, attached=True))
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
        return _cookies(self.fd("scope"))

    def learned(self) -> list[tuple[ProgramKey, LearnedProgram]]:
        """Return what was learned of programs, the most watched first."""
        found = []
        for key in dict.fromkeys(libbpf.keys(self.fd("programs"), ctypes.sizeof(ProgramKey))):
            size = ctypes.sizeof(LearnedProgram)
            if value := libbpf.lookup(self.fd("programs"), key, size):
                program = LearnedProgram.from_buffer_copy(value)
                found.append((ProgramKey.from_buffer_copy(key), program))
        return sorted(found, key=lambda each: -each[1].connections)

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
                pins.command(self.pin_dir, "disable"),
            ) from error


@dataclass(frozen=True)
class Loaded:
    """A datapath in the kernel, pinned or not."""

    map_id: int
    config_id: int
    entries: int
    redirecting: bool
    """Whether its flag is still set."""


def instance(pin_dir: Path) -> int:
    """Return the number that tells the datapaths of one pin directory from those of others."""
    return int.from_bytes(sha256(os.fsencode(pin_dir)).digest()[:8], "little")


def loaded(pin_dir: Path) -> list[Loaded]:
    """Return the datapaths of a pin directory, those included whose pins are gone.

    Live sockets hold them. Found by id, which needs CAP_SYS_ADMIN.

    Raises:
        OSError: not permitted.

    """
    wanted = instance(pin_dir)
    found = {}
    for number in libbpf.prog_ids():
        try:
            with libbpf.fd(libbpf.prog_by_id(number)) as program:
                info = libbpf.prog_info(program)
                if info.type != ProgType.SK_MSG or info.name != b"sk_msg":
                    continue
                maps = _maps_by_name(libbpf.prog_map_ids(program))
            if {"sock_ops_map", "config", "conns"} <= maps.keys():
                each = _loaded(maps["sock_ops_map"], maps["config"], wanted)
                if each:
                    found[each.map_id] = each
        except FileNotFoundError:  # gone meanwhile
            continue
    return list(found.values())


def is_on_for(cgroup: Path, cookies: Collection[int]) -> bool:
    """Say whether any datapath, wherever it is pinned, is on for a cgroup and some namespaces.

    Raises:
        OSError: not permitted, or no such cgroup.

    """
    with libbpf.fd(os.open(cgroup, os.O_RDONLY)) as directory:
        numbers = libbpf.attached_programs(directory, AttachType.CGROUP_SOCK_OPS, effective=True)
    for number in numbers:
        with suppress(FileNotFoundError), libbpf.fd(libbpf.prog_by_id(number)) as program:
            maps = _maps_by_name(libbpf.prog_map_ids(program))
            if {"config", "scope", "handshakes"} <= maps.keys() and _covers(maps, cookies):
                return True
    return False


def _covers(maps: dict[str, int], cookies: Collection[int]) -> bool:
    with libbpf.fd(libbpf.map_by_id(maps["config"])) as descriptor:
        flags = _config(descriptor).flags
    if not flags & ConfigFlags.ENABLED:
        return False
    if flags & ConfigFlags.SCOPE_ALL:
        return True
    with libbpf.fd(libbpf.map_by_id(maps["scope"])) as descriptor:
        return not set(cookies).isdisjoint(_cookies(descriptor))


def draining(pin_dir: Path) -> list[Loaded]:
    """Return the datapaths of a pin directory whose pins are gone, held by live sockets.

    Raises:
        OSError: not permitted.

    """
    pinned = None
    with suppress(OSError), libbpf.fd(libbpf.open_pin(pin_dir / "sock_ops_map")) as sockets:
        pinned = libbpf.map_info(sockets).id
    return [each for each in loaded(pin_dir) if each.map_id != pinned]


def switch_off(pin_dir: Path) -> None:
    """Clear the flag of every datapath of a pin directory: all messages take TCP from now on."""
    for each in loaded(pin_dir):
        with suppress(FileNotFoundError), libbpf.fd(libbpf.map_by_id(each.config_id)) as config_map:
            config = _config(config_map)
            config.flags &= ~ConfigFlags.ENABLED
            libbpf.update(config_map, KEY_ZERO, bytes(config))


def _loaded(map_id: int, config_id: int, wanted: int) -> Loaded | None:
    with libbpf.fd(libbpf.map_by_id(config_id)) as descriptor:
        config = _config(descriptor)
    if config.instance != wanted:
        return None
    with libbpf.fd(libbpf.map_by_id(map_id)) as descriptor:
        keys = set(libbpf.keys(descriptor, ctypes.sizeof(PairKey)))
    return Loaded(map_id, config_id, len(keys), bool(config.flags & ConfigFlags.ENABLED))


def _cookies(scope_fd: int) -> list[int]:
    return [int.from_bytes(key, "little") for key in libbpf.keys(scope_fd, 8)]


def _config(map_fd: int) -> Config:
    size = ctypes.sizeof(Config)
    return Config.from_buffer_copy(libbpf.lookup(map_fd, KEY_ZERO, size) or bytes(size))


def _maps_by_name(ids: list[int]) -> dict[str, int]:
    names = {}
    for number in ids:
        with libbpf.fd(libbpf.map_by_id(number)) as descriptor:
            names[libbpf.map_info(descriptor).name.decode()] = number
    return names
