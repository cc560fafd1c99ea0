"""CPython's own network tests, with Debian's python3 and its libpython3.11-testsuite."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from .judge import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kernel.harness import Host

    from .arena import Arena

PYTHON = "/usr/bin/python3"
MODULES = (
    "test_socket",
    "test_asyncio",
    "test_ssl",
    "test_httplib",
    "test_httpservers",
    "test_ftplib",
    "test_smtplib",
    "test_asyncore",
    "test_asynchat",
    "test_socketserver",
    "test_select",
    "test_poll",
    "test_epoll",
    "test_selectors",
    "test_xmlrpc",
    "test_urllib2_localnet",
)
QUICK_MODULES = ("test_asynchat", "test_socketserver", "test_httplib", "test_epoll")
# Machines that offer vsock but nobody to talk to make these wait for ever.
NEVER = ("*VSOCK*",)
LOOPBACK_NETWORK = ("test_socketserver",)


@dataclass(frozen=True)
class Module:
    """One module of CPython's tests."""

    name: str

    def start(self, arena: Arena, host: Host, directory: Path) -> None:
        """They need nothing."""

    def run(
        self,
        arena: Arena,
        host: Host,
        directory: Path,
        only: Sequence[str],
        skip: Sequence[str],
        timeout: float,
    ) -> tuple[dict[str, Outcome], str | None]:
        report, log = directory / "report.xml", directory / "log"
        argv = [PYTHON, "-m", "test", "-v", "--junit-xml", str(report)]
        argv += [word for pattern in (*NEVER, *skip) for word in ("-i", pattern)]
        argv += [word for test in only for word in ("-m", test)]
        # The namespace reaches nobody else; where the resource "network" means loopback, grant it.
        argv += ["-u", "network"] if self.name in LOOPBACK_NETWORK else []
        arena.run(host, [*argv, self.name], log, timeout=timeout, cwd=directory)
        said = log.read_text(errors="replace")
        if report.exists():
            # A test of which only a subtest failed has no name in the report.
            failed = {test: Outcome("fail", "a subtest failed") for test in failed_in_log(said)}
            return failed | read_report(report.read_text()), None
        return {}, last_started(said)


def read_report(text: str) -> dict[str, Outcome]:
    """Return the outcome of each test in a JUnit report of `python3 -m test`."""
    outcomes: dict[str, Outcome] = {}
    for case in ElementTree.fromstring(text).iter("testcase"):
        if (name := case.get("name")) is None:
            continue
        bad = next((child for child in case if child.tag in ("failure", "error")), None)
        if bad is not None:
            lines = (bad.text or bad.get("message") or "").strip().splitlines()
            outcomes[name] = Outcome("fail", lines[-1] if lines else bad.tag)
        elif name not in outcomes:
            skipped = case.find("skipped") is not None or case.get("result") == "skipped"
            seconds = float(case.get("time", "0"))
            outcomes[name] = Outcome("skip" if skipped else "pass", seconds=seconds)
    return outcomes


def failed_in_log(log: str) -> list[str]:
    """Return the tests that the summary of a run calls failed."""
    return re.findall(r"^(?:FAIL|ERROR): \w+ \((test\.[\w.]+)\)", log, re.MULTILINE)


def last_started(log: str) -> str | None:
    """Return the test that a run with -v which did not end was at."""
    tests = re.findall(r"^\w+ \((test\.[\w.]+)\)", log, re.MULTILINE)
    return tests[-1] if tests else None
