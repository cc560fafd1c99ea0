"""wrk: the command, and what its report says.

wrk is a closed loop: right for capacity, while its latencies at saturation are
those of a queue that wrk itself keeps full. Its exit code says next to nothing
(0 when every response was a 503), so the errors are read from the report.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sockaccel.bench import files
from sockaccel.bench.process import Child, find_tool, run_load
from sockaccel.errors import BenchError, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SCHEMA = "sockaccel.wrk/1"
SCRIPT = "wrk_report.lua"
ERROR_CLASSES = ("connect", "read", "write", "status", "timeout")


@dataclass(frozen=True)
class WrkReport:
    """One run of wrk."""

    requests: int
    bytes: int
    duration_s: float
    errors: dict[str, int]
    # Latencies: [microseconds, count] for every value that occurred, ascending.
    histogram: list[tuple[float, int]] = field(default_factory=list)

    @property
    def requests_per_s(self) -> float:
        """Responses per second of the run."""
        return self.requests / self.duration_s

    @property
    def failed(self) -> int:
        """Requests that were not answered, or with a status of 400 and above."""
        return sum(self.errors.values())


@dataclass(frozen=True)
class WrkLoad:
    """What wrk is asked to do."""

    url: str
    seconds: int
    connections: int
    threads: int

    def argv(self, program: str, script: Path) -> list[str]:
        """Return the command."""
        return [
            program,
            f"-t{self.threads}",
            f"-c{self.connections}",
            f"-d{self.seconds}s",
            "-s",
            str(script),
            self.url,
        ]


def parse_report(text: str) -> WrkReport:
    """Return the report that benchmarks/wrk_report.lua wrote."""
    try:
        data: Any = json.loads(text)
        if data["schema"] != SCHEMA:
            raise BenchError(f"cannot read wrk's report: schema '{data['schema']}'")
        report = WrkReport(
            requests=int(data["requests"]),
            bytes=int(data["bytes"]),
            duration_s=int(data["duration_us"]) / 1e6,
            errors={name: int(data["errors"][name]) for name in ERROR_CLASSES},
            histogram=[(float(value), int(count)) for value, count in data["latency_us"]],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"cannot read wrk's report: {error!r} in {text[:200]!r}") from error
    if report.duration_s <= 0:
        raise BenchError("cannot use wrk's report: it says that no time has passed")
    return report


def report_command(load: WrkLoad, report_path: Path) -> list[str]:
    """Return the command that runs wrk and leaves its report in a file.

    Whatever runs it (a container) has to see the file's directory; nothing else is used.
    """
    report_path.unlink(missing_ok=True)
    script = report_path.with_name(SCRIPT)
    shutil.copyfile(files.find(SCRIPT), script)
    # By env and not in Child's environment, which ends where a container begins.
    return ["env", f"WRK_REPORT={report_path}", *load.argv(find_tool("wrk"), script)]


def read_report(report_path: Path) -> WrkReport:
    """Return the report that wrk left in a file."""
    try:
        return parse_report(report_path.read_text())
    except OSError as error:
        raise BenchError(f"cannot read wrk's report: {reason(error)}") from error


def run_wrk(
    load: WrkLoad,
    report_path: Path,
    wrap: Callable[[Sequence[str]], Sequence[str]] = list,
) -> WrkReport:
    """Run wrk to its end and return its report."""
    argv = wrap(report_command(load, report_path))
    run_load(lambda: Child(argv), f"'{load.url}'", load.seconds)
    return read_report(report_path)
