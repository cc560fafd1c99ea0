"""PostgreSQL, loaded by its own pgbench with SELECTs alone."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sockaccel.bench.process import last_line, run_checked
from sockaccel.bench.result import Latency, Load, Metric
from sockaccel.bench.workloads.base import (
    Outcome,
    Place,
    Tool,
    compact,
    latency_metrics,
    latency_values,
    rate_metric,
)
from sockaccel.errors import BenchError, HostError

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT = 5432
START_TIMEOUT_S = 20.0
USER = "postgres"  # who owns the database: Debian's package makes it, and root may not
# Where Debian has the programs that it does not put into PATH.
_VERSIONS = Path("/usr/lib/postgresql")
# Of one transaction: the query's text and its frame, and the four messages of the answer.
_TRANSACTION_BYTES = len("SELECT abalance FROM pgbench_accounts WHERE aid = 1;") + 6 + 66


@dataclass(frozen=True)
class ServerTool(Tool):
    """A program of the server's own directory."""

    def find(self) -> str:
        """Return the path of the newest one; HostError, whose hint installs it, without one."""
        found = sorted(_VERSIONS.glob(f"*/bin/{self.name}"), key=_version)
        return str(found[-1]) if found else super().find()


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.parts[-3])]


@dataclass
class Postgres:
    """PostgreSQL with the tables of pgbench, read only, so that it need not be safe."""

    tools: ClassVar[tuple[Tool, ...]] = (
        ServerTool("postgres", "postgresql"),
        ServerTool("initdb", "postgresql"),
        Tool("pgbench", "postgresql"),
        Tool("setpriv", "util-linux"),
    )
    unix: ClassVar[bool] = True
    drops_root: ClassVar[bool] = True

    scale: int = 1  # of 100,000 accounts
    clients: int = 1  # how many it must take at once

    def start(self, at: Place, behind: Sequence[Place]) -> None:
        """Start it; the first time, make its database."""
        assert not behind
        data = at.directory / "data"
        new = not data.exists()
        if new:
            self._make(at, data)
        argv = [*_as_user(), self.tools[0].find(), "-D", str(data), "-c", f"port={PORT}"]
        argv += ["-c", f"unix_socket_directories={at.directory}", "-c", "fsync=off"]
        # 100 is its default, and it keeps some for itself.
        argv += ["-c", f"max_connections={max(100, self.clients + 10)}"]
        argv += ["-c", f"listen_addresses={'' if at.socket else at.address}"]
        child = at.start(argv)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _ready(data, child.pid):
            if not child.running():
                done = child.wait(1.0)
                said = last_line(done.stderr, done.returncode)
                raise BenchError(f"cannot start postgres: {said}")
            if time.monotonic() > deadline:
                raise BenchError(f"cannot start postgres: not ready after {START_TIMEOUT_S:g} s")
            time.sleep(0.02)
        if new:
            run_checked([*_pgbench(), "-h", str(at.directory), "-i", "-q", "-s", f"{self.scale}"])

    def _make(self, at: Place, data: Path) -> None:
        try:
            shutil.chown(at.directory, USER, USER)
        except LookupError as error:
            raise HostError(
                f"cannot run postgres as user '{USER}': there is none", "apt-get install postgresql"
            ) from error
        at.directory.chmod(0o755)
        initdb = [*_as_user(), self.tools[1].find(), "-D", str(data), "--auth=trust"]
        run_checked([*initdb, "--no-sync", "--encoding=UTF8", "--locale=C"])
        with (data / "pg_hba.conf").open("a") as access:
            access.write("host all all samenet trust\n")


@dataclass
class PgBench:
    """pgbench --select-only, a closed loop."""

    tools: ClassVar[tuple[Tool, ...]] = (Tool("pgbench", "postgresql"),)
    unix: ClassVar[bool] = True
    unknown: ClassVar[tuple[str, ...]] = ()
    streams: ClassVar[bool] = False

    clients: int
    threads: int = 1

    @property
    def metrics(self) -> list[Metric]:
        """Transactions per second, and their latencies when clients never wait."""
        return [rate_metric("req_s", "transactions/s"), *latency_metrics(Load.SATURATION)]

    def prepare(self, at: Place, server: Place) -> None:
        """Nothing: the tables are made with the database."""

    def load(self, at: Place, server: Place, seconds: float) -> Outcome:
        """Let pgbench load it; pgbench knows whole seconds alone."""
        whole = max(1, round(seconds))
        for old in at.directory.glob("pgbench_log.*"):
            old.unlink()
        argv = [*_pgbench(), "-h", str(server.directory) if server.socket else server.address]
        argv += ["-S", "-n", "-T", str(whole), "-c", str(self.clients), "-j", str(self.threads)]
        argv += ["--log", "--log-prefix", str(at.directory / "pgbench_log")]
        said = at.load(argv, "postgres with pgbench", whole)
        transactions, failed, rate = parse_pgbench(said)
        latency = Latency(Load.SATURATION, read_logs(at.directory))
        return Outcome(
            requests=transactions,
            seconds=transactions / rate,
            payload_bytes=transactions * _TRANSACTION_BYTES,
            packets=2 * transactions,
            metrics={"req_s": rate, **latency_values(latency)},
            argv=argv,
            errors={"failed": failed},
            latency=replace(latency, histogram=compact(latency.histogram)),
        )


def parse_pgbench(text: str) -> tuple[int, int, float]:
    """Return transactions, failed ones, and their rate, of what pgbench says at its end."""
    found = [
        re.search(pattern, text, re.MULTILINE)
        for pattern in (
            r"^number of transactions actually processed: (\d+)",
            r"^number of failed transactions: (\d+)",
            r"^tps = ([\d.]+) \(without initial connection time\)$",
        )
    ]
    processed, failed, rate = (each.group(1) if each else None for each in found)
    if processed is None or rate is None or not float(rate) > 0:
        raise BenchError(f"cannot read what pgbench said: {text[-200:]!r}")
    # Before PostgreSQL 15 a failed transaction ended its client, and with it pgbench.
    return int(processed), int(failed or 0), float(rate)


def read_logs(directory: Path) -> list[tuple[float, int]]:
    """Return the histogram of the latencies in pgbench's logs: pgbench(1), per-transaction log."""
    counts: Counter[int] = Counter()
    for path in directory.glob("pgbench_log.*"):
        with path.open() as lines:
            counts.update(int(line.split(maxsplit=3)[2]) for line in lines)
    if not counts:
        raise BenchError("cannot read pgbench's log: it is empty")
    return [(float(value), count) for value, count in sorted(counts.items())]


def _pgbench() -> list[str]:
    # The database is that of the superuser, whom initdb calls as his user.
    return [PgBench.tools[0].find(), USER, "-U", USER, "-p", str(PORT)]


def _as_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]


def _ready(data: Path, pid: int) -> bool:
    """Return whether this server says in its pid file that it accepts connections.

    One that was killed has left its own.
    """
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) > 7 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"
