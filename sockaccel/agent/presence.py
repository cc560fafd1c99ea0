"""Who is the agent of a pin directory, and how it fares: two files under /run/sockaccel.

A lock says that the agent runs and which process it is; the kernel keeps it, so nothing is
left to be wrong when the agent is killed. Beside it lies what the agent last had to say.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sockaccel.datapath.state import instance
from sockaccel.errors import (
    HostError,
    NotPermittedError,
    SockaccelError,
    StateError,
    reason,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

RUNTIME_DIR = Path("/run/sockaccel")
SCHEMA = "sockaccel.agent/1"

# struct flock (fcntl(2)), padded to its alignment.
_FLOCK = struct.Struct("hhqqi0q")


@dataclass(frozen=True)
class DockerState:
    """How the agent and Docker get on. Times are seconds since the epoch."""

    url: str
    connected: bool = False
    since: float = 0.0
    """Since when it has been so."""
    error: str | None = None
    """Why it is not connected."""
    reconnects: int = 0
    last_resync: float | None = None
    resync_s: float | None = None
    """How many seconds the last one took."""


@dataclass(frozen=True)
class Skipped:
    """A container that is not in scope, and why."""

    container: str
    id: str
    why: str


@dataclass(frozen=True)
class AgentState:
    """What the agent tells `status`."""

    started: float = 0.0
    """Seconds since the epoch."""
    docker: DockerState | None = None
    """None: --scope all, which does not ask Docker."""
    decisions: Mapping[str, int] = field(default_factory=dict)
    """How many containers, by the reason why they are in scope or not."""
    skipped: tuple[Skipped, ...] = ()
    trouble: str | None = None
    """Why what is in scope is not what it should be."""
    open_before: int = 0
    """Local connections that were open before their namespace came into scope, since the
    agent started; they stay on TCP."""

    def to_json(self) -> str:
        """Return the form that from_json() reads."""
        return json.dumps({"schema": SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what to_json() wrote.

        Raises:
            ValueError: this is not that.

        """
        try:
            values: dict[str, Any] = json.loads(text)
            if values.pop("schema") != SCHEMA:
                raise ValueError("another schema")
            values["docker"] = DockerState(**values["docker"]) if values["docker"] else None
            values["skipped"] = tuple(Skipped(**each) for each in values["skipped"])
            return cls(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the state of an agent: {error}") from error


@dataclass(frozen=True)
class Agent:
    """An agent that runs."""

    pid: int
    state: AgentState | None
    """None: it has not said anything yet."""


class Presence:
    """The claim to be the agent of a pin directory, from claim() to release()."""

    def __init__(self, pin_dir: Path, runtime_dir: Path = RUNTIME_DIR) -> None:
        self._pin_dir = pin_dir
        self._lock_path, self._state_path = _paths(pin_dir, runtime_dir)
        self._fresh_path = self._state_path.with_suffix(".new")
        self._descriptor = -1

    def claim(self) -> None:
        """Become the agent.

        Raises:
            StateError: another process is; it names which.
            NotPermittedError, HostError: the files cannot be made.

        """
        try:
            self._lock_path.parent.mkdir(mode=0o755, exist_ok=True)
            self._claim()
        except OSError as error:
            message = f"cannot use '{error.filename or self._lock_path}': {reason(error)}"
            if isinstance(error, PermissionError):
                raise NotPermittedError(message, "run as root") from error
            raise HostError(message, f"findmnt --target {self._lock_path.parent}") from error

    def _claim(self) -> None:
        while True:
            # Not to be closed but by release(): closing any descriptor of a file drops the
            # process's lock on it (fcntl_locking(2)).
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _holder(descriptor)
                os.close(descriptor)
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                if holder is None:
                    continue  # it has just ended
                raise StateError(
                    f"cannot start the agent of '{self._pin_dir}': process {holder} is it",
                    f"kill {holder}",
                ) from error
            # The one before may have removed the file after we had opened it.
            if _same_file(descriptor, self._lock_path):
                break
            os.close(descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._state_path.unlink(missing_ok=True)
        self._descriptor = descriptor

    def tell(self, state: AgentState) -> None:
        """Replace what `status` shows, as a whole."""
        # A full or vanished /run must not end the agent; `status` shows an older state then.
        with suppress(OSError):
            self._fresh_path.write_text(state.to_json(), encoding="utf-8")
            self._fresh_path.replace(self._state_path)

    def release(self) -> None:
        """Stop being the agent; nothing is left."""
        if self._descriptor < 0:
            return
        # The directory may have been removed with all that is in it: systemd's RuntimeDirectory=.
        for path in (self._fresh_path, self._state_path, self._lock_path):
            path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1


def find(pin_dir: Path, runtime_dir: Path = RUNTIME_DIR) -> Agent | None:
    """Return the agent of a pin directory that runs now.

    Raises:
        NotPermittedError: this user may not look.

    """
    lock_path, state_path = _paths(pin_dir, runtime_dir)
    try:
        descriptor = os.open(lock_path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise NotPermittedError(
            f"cannot look for the agent in '{lock_path}': {reason(error)}", "run as root"
        ) from error
    try:
        pid = _holder(descriptor)
    finally:
        os.close(descriptor)
    if pid is None:
        return None
    state = None
    with suppress(OSError, ValueError):
        state = AgentState.from_json(state_path.read_text(encoding="utf-8"))
    return Agent(pid, state)


def clear(pin_dir: Path, runtime_dir: Path = RUNTIME_DIR) -> None:
    """Remove what a killed agent has left; not if one runs."""
    lock_path, _ = _paths(pin_dir, runtime_dir)
    if lock_path.exists():
        left = Presence(pin_dir, runtime_dir)
        with suppress(SockaccelError):
            left.claim()
            left.release()


def _holder(descriptor: int) -> int | None:
    """Return the process that holds the lock, 0 for one of another pid namespace."""
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    return None if kind == fcntl.F_UNLCK else pid


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _paths(pin_dir: Path, runtime_dir: Path) -> tuple[Path, Path]:
    name = f"agent-{instance(pin_dir):016x}"
    return runtime_dir / f"{name}.pid", runtime_dir / f"{name}.json"
