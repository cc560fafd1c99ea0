"""A throw-away cgroup, and children that run in it in a network namespace of their own.

What a child makes (sockets, the namespace) ends with it; a child that does not
answer is killed. The cgroup goes when the block ends, and what a killed
process has left goes with the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import pickle
import select
import signal
import socket
import struct
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from sockaccel.errors import DatapathError, HostError, NotPermittedError, SockaccelError, reason
from sockaccel.scope.cgroup import remove_cgroup

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_PREFIX = "sockaccel_trial_"
_REMOVE_S = 2.0
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_CHUNK = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class Sandbox:
    """A cgroup below `cgroup_mount`, gone when the block ends."""

    def __init__(self, cgroup_mount: Path) -> None:
        self._mount = cgroup_mount
        self.cgroup = cgroup_mount

    def __enter__(self) -> Self:
        for left in self._mount.glob(f"{_PREFIX}*_*"):
            owner = left.name.removeprefix(_PREFIX).partition("_")[0]
            if not Path("/proc", owner).exists():
                with contextlib.suppress(OSError):
                    left.rmdir()
        try:
            made = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}_", dir=self._mount)
        except OSError as error:
            raise _unusable(self._mount, error) from error
        self.cgroup = Path(made)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            remove_cgroup(self.cgroup, _REMOVE_S)
        except OSError as error:
            raise DatapathError(
                f"cannot remove cgroup '{self.cgroup}': {reason(error)}", f"rmdir {self.cgroup}"
            ) from error

    def run(self, function: Callable[[], T], timeout_s: float) -> T:
        """Return what `function` returns in a child in the cgroup, with nothing but loopback.

        Raises:
            HostError, NotPermittedError: the cgroup or a namespace cannot be had.
            Exception: as in_child() does.

        """

        def enter_and_call() -> T:
            self._enter()
            return function()

        return in_child(enter_and_call, timeout_s)

    def _enter(self) -> None:
        try:
            (self.cgroup / "cgroup.procs").write_text("0", encoding="ascii")
        except OSError as error:
            raise _unusable(self.cgroup, error) from error
        if _libc.unshare(_CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            text = f"cannot make a network namespace: {reason(OSError(number, ''))}"
            if number == errno.EPERM:
                raise NotPermittedError(text, "run as root")
            raise HostError(text, "sysctl user.max_net_namespaces")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            # struct ifreq: a name of 16 bytes and a union of 24
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("=16sh22x", b"lo", _IFF_UP))


def in_child(function: Callable[[], T], timeout_s: float) -> T:
    """Return what `function` returns in a forked child, which is killed if that takes too long.

    Raises:
        DatapathError: the child did not answer in time, or died.
        Exception: what `function` raises.

    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Of forks beside threads: the child takes no lock that one of ours could hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        _answer(function, writer)
    os.close(writer)
    try:
        answer = _read_all(reader, time.monotonic() + timeout_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(reader)
    if answer is None:
        raise DatapathError(
            f"cannot get an answer from the kernel: none within {timeout_s:g} s (ETIMEDOUT)",
            "try again on a quieter machine, with --debug",
        )
    if not answer:
        raise DatapathError(
            f"cannot get an answer from the kernel: the child that asked ended with "
            f"{os.waitstatus_to_exitcode(status)}",
            "look for the reason in `dmesg`",
        )
    good, value = pickle.loads(answer)
    if not good:
        raise value
    result: T = value
    return result


def _answer(function: Callable[[], object], writer: int) -> None:
    """Run in the child, which ends here whatever happens."""
    code = 1
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            answer = pickle.dumps((True, function()))
        except Exception as error:
            error.add_note(traceback.format_exc())
            answer = pickle.dumps((False, error))
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(answer)
        code = 0
    finally:
        os._exit(code)


def _unusable(cgroup: Path, error: OSError) -> SockaccelError:
    text = f"cannot use cgroup '{cgroup}': {reason(error)}"
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotPermittedError(text, "run as root")
    return HostError(text, f"mount | grep {cgroup.parent}")


def _read_all(pipe: int, deadline: float) -> bytes | None:
    """Return what comes until the end, None when that does not come in time."""
    data = bytearray()
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return None
        part = os.read(pipe, _CHUNK)
        if not part:
            return bytes(data)
        data += part
