"""A cgroup for the processes of a measurement, so that a program can be attached to them alone."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sockaccel.errors import BenchError, HostError, reason
from sockaccel.scope.cgroup import default_cgroup, remove_cgroup
from sockaccel.signals import hold

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

REMOVE_TIMEOUT_S = 2.0


class Cgroup:
    """A directory below a cgroup, by default the root of cgroup v2; gone when the block ends."""

    def __init__(self, name: str, parent: Path | None = None) -> None:
        self.path = (parent or default_cgroup()) / name
        self._made = False

    def __enter__(self) -> Self:
        with hold():
            try:
                self.path.mkdir()
            except OSError as error:
                raise HostError(f"cannot make cgroup '{self.path}': {reason(error)}") from error
            self._made = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with hold():
            if self._made:
                self._remove()
                self._made = False

    def join(self) -> None:
        """Move the calling process into it."""
        _join(self.path)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have the calling process in it while the block runs: its children are born there."""
        own = cgroup_of("self")
        with hold():
            self.join()
            try:
                yield
            finally:
                _join(own)

    def _remove(self) -> None:
        try:
            remove_cgroup(self.path, REMOVE_TIMEOUT_S)
        except OSError as error:
            raise BenchError(
                f"cannot remove cgroup '{self.path}': {reason(error)}", f"rmdir {self.path}"
            ) from error


def cgroup_of(pid: int | str) -> Path:
    """Return the directory of the cgroup that a process is in: cgroups(7), /proc/<pid>/cgroup."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return default_cgroup() / line.removeprefix("0::").removeprefix("/")
    raise HostError(f"cannot find the cgroup of process '{pid}': it is in none of cgroup v2")


def _join(path: Path) -> None:
    try:
        (path / "cgroup.procs").write_text("0")
    except OSError as error:
        raise BenchError(f"cannot enter cgroup '{path}': {reason(error)}") from error
