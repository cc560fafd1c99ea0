"""What is known of programs, and how one is recognised.

A program is its executable (name, size, modification time: the same in every
container of an image), the beginning of its command line and the directory it runs
in, separately as client and as server. bpf/policy.h finds the same for a process
that calls connect() or listen().
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from sockaccel.datapath.layout import (
    ARGUMENTS_SIZE,
    PROGRAM_NAME_SIZE,
    ProgramKey,
    Reason,
    Side,
    Trait,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

_READS = Trait.RECV
# Asks FIONREAD, or takes a short read for an empty socket.
_READS_AND_TRUSTS_COUNTS = Trait.RECV | Trait.FIONREAD

SHIPPED: dict[str, Trait] = {
    "curl": _READS,
    "memcached": _READS,
    "nginx": _READS_AND_TRUSTS_COUNTS,
    "node": _READS,
    "pgbench": _READS,
    "postgres": _READS,
    "psql": _READS,
    "redis-benchmark": _READS,
    "redis-check-rdb": _READS,  # what Debian's redis-server is a link to
    "redis-server": _READS,
    "wrk": _READS_AND_TRUSTS_COUNTS,
    # These read by splice(); docker-proxy always does, and nobody chose to run it.
    "docker-proxy": Trait.SPLICE | Trait.NEVER,
    "haproxy": Trait.SPLICE,
}
"""By the name of the executable; tests/kernel/test_policy.py watches them and compares."""

_WORD_BITS = 64
_DELETED = " (deleted)"


def name_key(name: str) -> bytes:
    """Return a name as the kernel side keeps it: cut, and padded with zeros."""
    return os.fsencode(name)[: PROGRAM_NAME_SIZE - 1].ljust(PROGRAM_NAME_SIZE, b"\0")


def executable_names(name: str) -> set[str]:
    """Return a name, and that of the executable behind it where it is a link in PATH."""
    found = shutil.which(name)
    return {name, Path(found).resolve().name} if found else {name}


def known(accelerate: Iterable[str] = (), keep_on_tcp: Iterable[str] = ()) -> dict[str, Trait]:
    """Return the traits by name: what is shipped, and the user's word above it."""
    found = dict(SHIPPED)
    for names, trait in ((accelerate, Trait.FORCED), (keep_on_tcp, Trait.REFUSED)):
        for name in names:
            found |= dict.fromkeys(executable_names(name), trait)
    return found


def arguments_hash(command_line: bytes, directory_inode: int) -> int:
    """Return the hash of a command line (/proc/<pid>/cmdline) that bpf/policy.h makes.

    directory_inode: the inode number of the working directory.
    """
    mask = (1 << _WORD_BITS) - 1
    padded = command_line[:ARGUMENTS_SIZE].ljust(ARGUMENTS_SIZE, b"\0")
    value = directory_inode
    for word in memoryview(padded).cast("Q"):
        value = (value ^ word) * 0x100000001B3 & mask
        value ^= value >> 29
    return value


def program_key(pid: int, side: Side) -> ProgramKey:
    """Return the key of the program that a process runs.

    Raises OSError when the process is gone, hidden, or a kernel thread.
    """
    process = Path("/proc", str(pid))
    executable = (process / "exe").readlink()
    status = (process / "exe").stat()
    return ProgramKey(
        name=name_key(executable.name.removesuffix(_DELETED)).rstrip(b"\0"),
        size=status.st_size,
        mtime=status.st_mtime_ns,
        arguments=arguments_hash(
            (process / "cmdline").read_bytes()[: _arguments_length(process)],
            (process / "cwd").stat().st_ino,
        ),
        side=side,
    )


def _arguments_length(process: Path) -> int:
    """Return how long the command line was at the start: a title that was set may be longer.

    arg_start and arg_end are fields 48 and 49 of proc_pid_stat(5).
    """
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[48 - 3]), int(fields[49 - 3])
    return max(0, end - start)


def verdict(traits: Trait, *, fionread: bool) -> Reason:
    """Return why sockets of a program with these traits stay on TCP; NONE when they do not.

    As judge() in bpf/policy.h, for those who show it. fionread: whether FIONREAD is right on
    enrolled sockets of this kernel.
    """
    if traits & Trait.FORCED:
        return Reason.NONE
    for trait, reason in (
        (Trait.REFUSED, Reason.POLICY_USER),
        (Trait.SPLICE, Reason.POLICY_SPLICE),
        (Trait.BLOCKING, Reason.POLICY_BLOCKING),
        (Trait.UNUSUAL, Reason.POLICY_UNUSUAL),
    ):
        if traits & trait:
            return reason
    if traits & Trait.FIONREAD and not fionread:
        return Reason.POLICY_FIONREAD
    return Reason.NONE if traits & Trait.RECV else Reason.POLICY_UNKNOWN
