"""The calls of libbpf that sockaccel makes. Everything but loading goes through here.

Errors are OSError with the kernel's errno; file descriptors are plain integers
that the caller closes (see `fd`).
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import contextmanager
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from sockaccel.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


_T = TypeVar("_T", bound=ctypes.Structure)
_QUERY_EFFECTIVE = 1  # BPF_F_QUERY_EFFECTIVE


class AttachType(IntEnum):
    """enum bpf_attach_type (include/uapi/linux/bpf.h)."""

    CGROUP_SOCK_OPS = 3
    SK_SKB_STREAM_VERDICT = 5
    SK_MSG_VERDICT = 7
    TRACE_RAW_TP = 23
    TRACE_ITER = 28


class ProgType(IntEnum):
    """enum bpf_prog_type (include/uapi/linux/bpf.h)."""

    SOCK_OPS = 13
    SK_SKB = 14
    SK_MSG = 16
    TRACING = 26


class ProgInfo(ctypes.Structure):
    """The head of struct bpf_prog_info."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
        ("jited_prog_insns", ctypes.c_uint64),
        ("xlated_prog_insns", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
    )


class MapInfo(ctypes.Structure):
    """The head of struct bpf_map_info."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    )


class LinkInfo(ctypes.Structure):
    """The head of struct bpf_link_info, as far as a cgroup link fills it."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("cgroup_id", ctypes.c_uint64),
        ("attach_type", ctypes.c_uint32),
        ("pad2", ctypes.c_uint32),
    )


class _LinkCreateOpts(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("flags", ctypes.c_uint32),
        ("iter_info", ctypes.c_void_p),
        ("iter_info_len", ctypes.c_uint32),
        ("target_btf_id", ctypes.c_uint32),
    )


class _ProgLoadOpts(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_int),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
    )


@cache
def shared_library() -> ctypes.CDLL:
    """Return libbpf.

    Raises:
        HostError: it is not installed.

    """
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise HostError(f"cannot use libbpf: {error}", "apt-get install libbpf1") from error
    # Messages of its own would end up in our stderr; errno says what matters.
    lib.libbpf_set_print(None)
    return lib


def _check(result: int, what: str | os.PathLike[str] | None = None) -> int:
    if result < 0:
        number = -result if result != -1 else ctypes.get_errno()
        raise OSError(number, os.strerror(number), *([os.fspath(what)] if what else []))
    return result


@contextmanager
def fd(number: int) -> Iterator[int]:
    """Close a file descriptor at the end."""
    try:
        yield number
    finally:
        os.close(number)


def open_pin(path: Path) -> int:
    """Return a descriptor of a pinned program, map or link."""
    return _check(shared_library().bpf_obj_get(os.fsencode(path)), path)


def pin(descriptor: int, path: Path) -> None:
    """Pin a program, map or link."""
    _check(shared_library().bpf_obj_pin(descriptor, os.fsencode(path)), path)


def lookup(map_fd: int, key: bytes, value_size: int) -> bytes | None:
    """Return the value of a key, None without one."""
    value = ctypes.create_string_buffer(value_size)
    try:
        _check(shared_library().bpf_map_lookup_elem(map_fd, key, value))
    except FileNotFoundError:
        return None
    return value.raw


def update(map_fd: int, key: bytes, value: bytes) -> None:
    """Set the value of a key."""
    _check(shared_library().bpf_map_update_elem(map_fd, key, value, ctypes.c_uint64(0)))


def delete(map_fd: int, key: bytes) -> None:
    """Remove a key; one that is not there is no error."""
    try:
        _check(shared_library().bpf_map_delete_elem(map_fd, key))
    except FileNotFoundError:
        return


def possible_cpus() -> int:
    """Return how many values an element of a per-CPU map has."""
    return _check(shared_library().libbpf_num_possible_cpus())


def keys(map_fd: int, key_size: int) -> Iterator[bytes]:
    """Yield the keys of a map. One that is removed meanwhile may start the walk again."""
    key = None
    while True:
        following = ctypes.create_string_buffer(key_size)
        try:
            _check(shared_library().bpf_map_get_next_key(map_fd, key, following))
        except FileNotFoundError:
            return
        key = following.raw
        yield key


def attach(prog_fd: int, target_fd: int, kind: AttachType) -> None:
    """Attach a program to a map of sockets."""
    _check(shared_library().bpf_prog_attach(prog_fd, target_fd, int(kind), 0))


def detach(prog_fd: int, target_fd: int, kind: AttachType) -> bool:
    """Detach a program from a map of sockets; say if it was attached."""
    try:
        _check(shared_library().bpf_prog_detach2(prog_fd, target_fd, int(kind)))
    except FileNotFoundError:
        return False
    return True


def link_cgroup(prog_fd: int, cgroup_fd: int, kind: AttachType) -> int:
    """Attach a program to a cgroup by a link, beside those of others; return the link."""
    return _check(shared_library().bpf_link_create(prog_fd, cgroup_fd, int(kind), None))


def link_iterator(prog_fd: int, map_fd: int) -> int:
    """Return a link that makes an iterator over a map readable as a file once pinned."""
    info = (ctypes.c_uint32 * 4)(map_fd)
    options = _LinkCreateOpts(
        sz=ctypes.sizeof(_LinkCreateOpts),
        iter_info=ctypes.addressof(info),
        iter_info_len=ctypes.sizeof(info),
    )
    return _check(
        shared_library().bpf_link_create(
            prog_fd, 0, int(AttachType.TRACE_ITER), ctypes.byref(options)
        )
    )


def load_tracepoint(name: str, instructions: bytes, tracepoint_type: int) -> int:
    """Load a program for a raw tracepoint (its id: see KernelTypes.tracepoint); return it."""
    options = _ProgLoadOpts(
        sz=ctypes.sizeof(_ProgLoadOpts),
        expected_attach_type=int(AttachType.TRACE_RAW_TP),
        attach_btf_id=tracepoint_type,
    )
    return _check(
        shared_library().bpf_prog_load(
            int(ProgType.TRACING),
            name.encode(),
            b"GPL",
            instructions,
            ctypes.c_size_t(len(instructions) // 8),
            ctypes.byref(options),
        )
    )


def link_tracepoint(prog_fd: int) -> int:
    """Attach a program to the raw tracepoint that it was loaded for; return the link."""
    return _check(shared_library().bpf_raw_tracepoint_open(None, prog_fd))


def detach_link(link_fd: int) -> None:
    """Detach what a link holds; the link stays as an empty shell until closed."""
    _check(shared_library().bpf_link_detach(link_fd))


def attached_programs(target_fd: int, kind: AttachType, *, effective: bool = False) -> list[int]:
    """Return the ids of the programs attached to a cgroup or a map of sockets.

    effective: of those, too, that a cgroup has from the ones above it.
    """
    ids = (ctypes.c_uint32 * 64)()
    count = ctypes.c_uint32(64)
    _check(
        shared_library().bpf_prog_query(
            target_fd,
            int(kind),
            _QUERY_EFFECTIVE if effective else 0,
            None,
            ctypes.byref(ids),
            ctypes.byref(count),
        )
    )
    return list(ids[: count.value])


def attach_flags(cgroup_fd: int, kind: AttachType) -> int:
    """Return how the programs of a cgroup were attached: BPF_F_ALLOW_…, 0 for exclusively."""
    flags = ctypes.c_uint32(0)
    count = ctypes.c_uint32(0)
    _check(
        shared_library().bpf_prog_query(
            cgroup_fd, int(kind), 0, ctypes.byref(flags), None, ctypes.byref(count)
        )
    )
    return flags.value


def _info(descriptor: int, info: _T) -> _T:
    size = ctypes.c_uint32(ctypes.sizeof(info))
    _check(
        shared_library().bpf_obj_get_info_by_fd(descriptor, ctypes.byref(info), ctypes.byref(size))
    )
    return info


def prog_info(descriptor: int) -> ProgInfo:
    """Return what the kernel says of a program."""
    return _info(descriptor, ProgInfo())


def prog_map_ids(descriptor: int) -> list[int]:
    """Return the ids of the maps that a program uses."""
    ids = (ctypes.c_uint32 * 64)()
    info = _info(descriptor, ProgInfo(nr_map_ids=64, map_ids=ctypes.addressof(ids)))
    return list(ids[: info.nr_map_ids])


def map_info(descriptor: int) -> MapInfo:
    """Return what the kernel says of a map."""
    return _info(descriptor, MapInfo())


def link_info(descriptor: int) -> LinkInfo:
    """Return what the kernel says of a link."""
    return _info(descriptor, LinkInfo())


def prog_by_id(number: int) -> int:
    """Return a descriptor of a program by id. Needs CAP_SYS_ADMIN."""
    return _check(shared_library().bpf_prog_get_fd_by_id(number))


def map_by_id(number: int) -> int:
    """Return a descriptor of a map by id. Needs CAP_SYS_ADMIN."""
    return _check(shared_library().bpf_map_get_fd_by_id(number))


def prog_ids() -> Iterator[int]:
    """Yield the ids of all programs of the host. Needs CAP_SYS_ADMIN."""
    return _ids(shared_library().bpf_prog_get_next_id)


def map_ids() -> Iterator[int]:
    """Yield the ids of all maps of the host. Needs CAP_SYS_ADMIN."""
    return _ids(shared_library().bpf_map_get_next_id)


def _ids(following: Callable[..., int]) -> Iterator[int]:
    number = ctypes.c_uint32(0)
    while True:
        try:
            _check(following(number, ctypes.byref(number)))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        yield number.value
