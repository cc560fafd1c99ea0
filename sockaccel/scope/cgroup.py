"""Where the sock_ops program is attached: a directory of cgroup v2."""

from __future__ import annotations

import errno
import time
from pathlib import Path

from sockaccel.errors import HostError, InputError, NotPermittedError, reason
from sockaccel.scope.mountinfo import mounts


def default_cgroup() -> Path:
    """Return the root of the cgroup v2 hierarchy; on hybrid hosts /sys/fs/cgroup/unified.

    Raises HostError when it is not mounted. A mount of only a part of it does not count:
    what is attached there would miss the rest of the host.
    """
    for mount in mounts("cgroup2"):
        if mount.root == "/":
            return Path(mount.point)
    raise HostError(
        "cannot find the root of cgroup v2: it is not mounted",
        "boot with systemd.unified_cgroup_hierarchy=1, or: "
        "mkdir -p /run/cgroup2 && mount -t cgroup2 none /run/cgroup2",
    )


def check_cgroup(path: str | Path) -> Path:
    """Return `path` without symbolic links if it is a directory of cgroup v2.

    Raises InputError when it is not, NotPermittedError when it cannot be looked at,
    HostError when the host has no cgroup v2 at all.
    """
    root = default_cgroup()
    hint = f"find {root} -type d"
    try:
        real = Path(path).resolve(strict=True)
        device = real.stat().st_dev
        if not real.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "")
    except PermissionError as error:
        raise NotPermittedError(
            f"cannot use cgroup '{path}': {reason(error)}", "run as root"
        ) from error
    except OSError as error:
        raise InputError(f"cannot use cgroup '{path}': {reason(error)}", hint) from error
    except (ValueError, RuntimeError) as error:  # a NUL in the name; a loop of links
        raise InputError(f"cannot use cgroup '{path}': {error}", hint) from error
    # All mounts of cgroup v2 are one file system, hence one device.
    if device not in {mount.device for mount in mounts("cgroup2")}:
        raise InputError(f"cannot use cgroup '{path}': it is not a directory of cgroup v2", hint)
    return real


def remove_cgroup(path: Path, timeout_s: float) -> None:
    """Remove a cgroup whose processes have ended; one may still be in it for a moment.

    Raises OSError when it cannot be removed in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            path.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return
