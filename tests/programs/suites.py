"""Programs from PyPI and their own tests, in a virtual environment of this package's own."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kernel.harness import wait_until

from .build import SOURCES, cache
from .judge import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel.harness import Host

    from .arena import Arena

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
RECORDER = SOURCES / "recorder.py"
# Their wheels do not hold their tests, their source distributions do.
WITH_TESTS = ("aiohttp", "redis", "uvloop")


def environment() -> Path:
    """Return the directory of these requirements: another list, another directory."""
    key = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    return cache() / f"programs-{key}"


def prepare() -> Path:
    """Make the virtual environment and unpack the sources, once; return the directory."""
    home = environment()
    if (home / "complete").exists():
        return home
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    subprocess.run(["/usr/bin/python3", "-m", "venv", home / "venv"], check=True)
    pip = [str(home / "venv/bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    pins = REQUIREMENTS.read_text().split()
    subprocess.run([*pip, "install", "--requirement", REQUIREMENTS], check=True)
    wanted = [pin for pin in pins if pin.split("==")[0] in WITH_TESTS]
    # Not ":all:", which would build the tools that build them from source as well.
    no_wheels = ["--no-deps", "--no-binary", ",".join(WITH_TESTS)]
    subprocess.run([*pip, "download", *no_wheels, "--dest", home / "sdist", *wanted], check=True)
    for name in WITH_TESTS:
        (archive,) = (home / "sdist").glob(f"{name}-*.tar.gz")
        shutil.unpack_archive(archive, home / "sdist")
        (top,) = (path for path in (home / "sdist").glob(f"{name}-*") if path.is_dir())
        # Only the tests: the sources beside them would be imported instead of the wheel.
        shutil.copytree(top / "tests", home / name / "tests")
    (home / "complete").touch()
    return home


@dataclass(frozen=True)
class Program:
    """One program's tests, run by recorder.py."""

    name: str
    runner: str  # unittest or pytest
    arguments: tuple[str, ...]
    server: tuple[str, ...] = ()  # a server that the tests expect, and its port
    port: int = 0
    home: Path = field(default_factory=environment)

    def start(self, arena: Arena, host: Host, directory: Path) -> None:
        """Start the server, unless it runs already."""
        if self.server and not self._listening(host):
            arena.background(host, self.server, directory / "server.log", cwd=Path("/"))
            wait_until(lambda: self._listening(host), what=f"{self.server[0]} listens")

    def _listening(self, host: Host) -> bool:
        return f":{self.port} " in host.execute("ss", "-tlnH")

    def run(
        self,
        arena: Arena,
        host: Host,
        directory: Path,
        only: Sequence[str],
        skip: Sequence[str],
        timeout: float,
    ) -> tuple[dict[str, Outcome], str | None]:
        """Run the tests from a copy, which they may write to."""
        choice, report = directory / "choice.json", directory / "report"
        choice.write_text(json.dumps({"only": list(only), "skip": list(skip)}))
        work = directory / "work"
        shutil.copytree(self.home / self.name, work) if self.runner == "pytest" else work.mkdir()
        python = self.home / "venv/bin/python"
        argv: list[str | Path] = [python, RECORDER, self.runner, report, choice, *self.arguments]
        arena.run(host, argv, directory / "log", timeout=timeout, cwd=work)
        if not report.exists():
            raise RuntimeError(
                f"{self.name}'s tests did not run: {(directory / 'log').read_text()}"
            )
        return read_report(report.read_text())


def read_report(text: str) -> tuple[dict[str, Outcome], str | None]:
    """Return the outcomes that recorder.py wrote, and the test that did not end."""
    outcomes: dict[str, Outcome] = {}
    running = None
    for line in text.splitlines():
        entry = json.loads(line)
        if entry["result"] == "start":
            running = entry["test"]
            continue
        running = None
        # Parametrised classes may give several tests one name: one failure is a failure.
        if outcomes.get(entry["test"], Outcome("pass")).result != "fail":
            outcomes[entry["test"]] = Outcome(entry["result"], entry["detail"], entry["seconds"])
    return outcomes, running


PYTEST = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "default")
REDIS = ("redis-server", "--bind", "127.0.0.1", "--save", "", "--port", "6379")
PROGRAMS = (
    Program(
        "tornado",
        "unittest",
        (
            *(
                f"tornado.test.{module}_test"
                for module in (
                    "http1connection",
                    "httpclient",
                    "httpserver",
                    "iostream",
                    "netutil",
                    "simple_httpclient",
                    "tcpclient",
                    "tcpserver",
                    "web",
                    "websocket",
                    "wsgi",
                )
            ),
        ),
    ),
    Program(
        "twisted",
        "unittest",
        (
            "twisted.internet.test.test_tcp",
            "twisted.internet.test.test_endpoints",
            "twisted.internet.test.test_tls",
            "twisted.test.test_tcp",
            "twisted.test.test_ssl",
            "twisted.test.test_ftp",
            "twisted.test.test_amp",
            "twisted.test.test_policies",
            "twisted.web.test.test_webclient",
            "twisted.web.test.test_http",
            "twisted.web.test.test_agent",
            "twisted.protocols.test.test_tls",
        ),
    ),
    Program(
        "aiohttp",
        "pytest",
        (
            *PYTEST,
            *(
                f"tests/test_{module}.py"
                for module in (
                    "client_functional",
                    "client_ws_functional",
                    "web_functional",
                    "web_sendfile_functional",
                    "web_websocket_functional",
                )
            ),
        ),
    ),
    Program(
        "uvloop",
        "pytest",
        (*PYTEST, "tests/test_tcp.py", "tests/test_sockets.py", "tests/test_aiohttp.py"),
    ),
    Program(
        "redis",
        "pytest",
        (
            *PYTEST,
            *("-k", "not cluster and not sentinel"),
            *(
                f"tests/test_{module}.py"
                for module in (
                    "commands",
                    "connection",
                    "connection_pool",
                    "lock",
                    "monitor",
                    "multiprocessing",
                    "pipeline",
                    "pubsub",
                    "scripting",
                )
            ),
        ),
        server=REDIS,
        port=6379,
    ),
)
QUICK_PROGRAMS = ("tornado",)
