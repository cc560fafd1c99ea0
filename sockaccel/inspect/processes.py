"""Which process holds a socket: /proc/<pid>/fd, see proc_pid_fd(5)."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


@dataclass(frozen=True, slots=True)
class Owner:
    """A process."""

    pid: int
    name: str


def owners(inodes: set[int]) -> dict[int, Owner]:
    """Return who holds each socket, by the inode of the socket.

    A socket that several processes hold belongs to the one with the lowest pid. Sockets that
    nobody holds, or only processes that this one may not look into, are missing in the result.
    """
    sought = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, Owner] = {}
    # pathlib would cost more than the system calls do, and there are tens of thousands of them.
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        if not sought:
            break
        held = {link for link in _links(pid) if link in sought}
        if held:
            try:
                owner = Owner(pid, psutil.Process(pid).name())
            except psutil.Error:
                continue  # gone meanwhile
            found.update({sought.pop(link): owner for link in held})
    return found


def any_program(names: Collection[str]) -> bool:
    """Return whether an executable of one of these names is in PATH, or runs."""
    if any(shutil.which(name) for name in names):
        return True
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):
                if os.path.basename(os.readlink(f"/proc/{name}/exe")) in names:  # noqa: PTH115, PTH119
                    return True
    return False


def _links(pid: int) -> Iterator[str]:
    """Yield what the open files of a process are; nothing for one that is gone or hidden."""
    try:
        directory = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for name in os.listdir(directory):
            try:
                yield os.readlink(name, dir_fd=directory)
            except OSError:
                continue  # closed meanwhile
    except OSError:
        return
    finally:
        os.close(directory)
