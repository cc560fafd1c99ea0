"""What is mounted, as the kernel tells it: /proc/self/mountinfo, see proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of this process's mount namespace.

    device: st_dev of the files below, `root`: what of the file system is mounted
    (a path, or ``net:[inode]`` for a namespace), `point`: where.
    """

    device: int
    root: str
    point: str
    fstype: str


def parse(text: str) -> list[Mount]:
    """Return the mounts that the text of a mountinfo file lists, in its order."""
    # Not splitlines(): only the newline is escaped in names, form feeds and the like are not.
    return [_mount(line) for line in text.split("\n") if line]


def mounts(fstype: str) -> list[Mount]:
    """Return the mounts of one type of file system, the oldest first."""
    text = Path("/proc/self/mountinfo").read_text("utf-8", errors="surrogateescape")
    return [mount for mount in parse(text) if mount.fstype == fstype]


def _mount(line: str) -> Mount:
    # 31 23 0:28 /root /point rw,relatime [optional fields] - fstype source options
    before, _, after = line.partition(" - ")
    _, _, device, root, point, *_ = before.split(" ")
    major, minor = map(int, device.split(":"))
    return Mount(
        os.makedev(major, minor), _unescape(root), _unescape(point), after.split(" ", 1)[0]
    )


def _unescape(name: str) -> str:
    """Undo the kernel's octal escapes of space, tab, newline and backslash."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), name)
