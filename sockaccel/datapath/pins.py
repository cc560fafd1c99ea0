"""The pin directory: where it may be, what it holds, and who may change it.

A directory appears under its name only when everything in it is in place: it is
built as ``<name>_staging`` and renamed. The link that attaches sock_ops comes
last, so a loader killed at any step leaves nothing that acts.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sockaccel.datapath import compiler
from sockaccel.errors import (
    HostError,
    InputError,
    NotPermittedError,
    SockaccelError,
    StateError,
    reason,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_PIN_DIR = Path("/sys/fs/bpf/sockaccel")
LINK = "sock_ops_link"
READER_LINK = "reader_link"
REQUIRED = frozenset({*compiler.MAPS, *compiler.PROGRAMS, compiler.ITERATOR_PIN, LINK})
NAMES = REQUIRED | {compiler.READER, READER_LINK}

_NAME_MAX = 255
_BPF_FS_MAGIC = 0xCAFE4A11  # include/uapi/linux/magic.h


def _file_system_magic(path: Path) -> int:
    buffer = ctypes.create_string_buffer(256)  # struct statfs begins with long f_type
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(path), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int(ctypes.c_long.from_buffer(buffer).value)


def check(pin_dir: Path) -> None:
    """Check that a pin directory can be made and removed there.

    Raises:
        InputError: it is not below a bpffs, its parent is missing, or its name is not usable.
        HostError: no bpffs is mounted at the usual place.
        NotPermittedError: this user may not look.

    """
    parent = pin_dir.parent
    try:
        check_name(pin_dir)
        on_bpffs = _file_system_magic(parent) & 0xFFFFFFFF == _BPF_FS_MAGIC
        if pin_dir.exists():
            on_bpffs = on_bpffs and _file_system_magic(pin_dir) & 0xFFFFFFFF == _BPF_FS_MAGIC
    except OSError as error:
        raise unusable(pin_dir, error) from error
    if on_bpffs:
        return
    if parent == DEFAULT_PIN_DIR.parent:
        raise HostError(
            f"cannot use pin directory '{pin_dir}': no bpffs is mounted at '{parent}' "
            "here (`ip netns exec` hides it)",
            f"mount -t bpf bpf {parent}",
        )
    raise InputError(
        f"cannot use pin directory '{pin_dir}': it is not on a bpffs",
        f"--pin-dir {DEFAULT_PIN_DIR}",
    )


def check_visible(pin_dir: Path) -> None:
    """Check that what is pinned in the usual place can be seen from here.

    Raises:
        HostError: it cannot: no bpffs is mounted there, or not in this mount namespace.

    """
    if pin_dir.parent == DEFAULT_PIN_DIR.parent and pin_dir.parent.exists():
        check(pin_dir)


def check_name(pin_dir: Path) -> None:
    """Check what can be said of a pin directory without looking.

    Raises:
        InputError: its name is not usable, or it is a symbolic link.

    """
    if not pin_dir.is_absolute():
        fault = "it is not an absolute path"
    elif not pin_dir.name:
        fault = "it has no name"
    elif "." in pin_dir.name:
        fault = "its name has a dot, which the kernel refuses"
    elif len(os.fsencode(staging(pin_dir).name)) > _NAME_MAX:
        fault = "its name is too long"
    elif pin_dir.is_symlink():
        fault = "it is a symbolic link"
    else:
        return
    raise InputError(
        f"cannot use pin directory '{pin_dir}': {fault}", f"--pin-dir {DEFAULT_PIN_DIR}"
    )


def unusable(pin_dir: Path, error: OSError) -> SockaccelError:
    """Return the error for a directory that the system does not let us look into."""
    if isinstance(error, PermissionError):
        return NotPermittedError(
            f"cannot look into pin directory '{pin_dir}': {reason(error)}", "run as root"
        )
    return InputError(
        f"cannot use pin directory '{pin_dir}': {reason(error)}", f"--pin-dir {DEFAULT_PIN_DIR}"
    )


def foreign_entries(pin_dir: Path) -> list[str]:
    """Return the names in a directory that sockaccel never pins; empty when it is missing."""
    try:
        names = os.listdir(pin_dir)
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        return [pin_dir.name]
    return sorted(set(names) - NAMES)


def refuse_foreign(pin_dir: Path) -> None:
    """Refuse a directory that holds something else.

    Raises:
        StateError: it does.

    """
    if foreign := foreign_entries(pin_dir):
        raise StateError(
            f"cannot use pin directory '{pin_dir}': it holds '{foreign[0]}', which is not "
            "sockaccel's",
            "choose another directory with --pin-dir",
        )


def command(pin_dir: Path, name: str) -> str:
    """Return the command line that does something to this pin directory, for hints."""
    where = "" if pin_dir == DEFAULT_PIN_DIR else f"--pin-dir {pin_dir} "
    return f"sockaccel {where}{name}"


def staging(pin_dir: Path) -> Path:
    """Return where a pin directory is built."""
    return pin_dir.with_name(pin_dir.name + "_staging")


def remove(directory: Path) -> None:
    """Unpin what sockaccel pinned there and remove the directory; missing is fine."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    # The link first: what is left after a kill in between must not act.
    for name in sorted(names, key=lambda name: name != LINK):
        if name in NAMES:
            (directory / name).unlink(missing_ok=True)
    directory.rmdir()


@contextmanager
def locked(pin_dir: Path) -> Iterator[int]:
    """Hold the right to change the pin directory; yields the descriptor that holds it."""
    with _locked(pin_dir.parent, fcntl.LOCK_EX) as descriptor:
        yield descriptor


@contextmanager
def scope_locked(pin_dir: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the right to change who is in scope of what is pinned there.

    Apart from locked(), which a compiler holds for seconds, that of another pin directory even.
    Who needs both takes this one second.

    Raises:
        BlockingIOError: somebody else holds it, and this one does not want to wait.
        FileNotFoundError: nothing is pinned there.

    """
    with _locked(pin_dir, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)):
        yield


@contextmanager
def _locked(directory: Path, operation: int) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, operation)
        yield descriptor
    finally:
        os.close(descriptor)
