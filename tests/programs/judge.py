"""Judges a program by its own tests: what passes on plain TCP has to pass accelerated.

A test that differs is run again, three times on plain TCP and three times accelerated, so
that one which fails now and then everywhere is not taken for a difference.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

from .arena import PLAIN, Traffic, arena
from .known import KNOWN
from .results import Failure, Row, explain, no_longer_failing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel.harness import Host

    from .arena import Arena

RERUNS = 3
FACTOR, SLACK_S = 3, 5.0
MAX_STALLS = 12  # of one suite in one run; each costs its time-out


@dataclass(frozen=True)
class Outcome:
    """How one test ended: pass, fail, skip or stall."""

    result: str
    detail: str = ""
    seconds: float = 0.0

    def differs(self, plain: Outcome) -> bool:
        """Whether it is worse than on plain TCP: it did not pass, or took much longer."""
        return self.result != "pass" or self.seconds > max(
            FACTOR * plain.seconds, plain.seconds + SLACK_S
        )


MISSING = Outcome("fail", "it was not run")


class Suite(Protocol):
    """The tests of one program."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    def start(self, arena: Arena, host: Host, directory: Path) -> None:
        """Start what the tests need beside themselves."""

    def run(
        self,
        arena: Arena,
        host: Host,
        directory: Path,
        only: Sequence[str],
        skip: Sequence[str],
        timeout: float,
    ) -> tuple[dict[str, Outcome], str | None]:
        """Run all tests, or only some; return outcomes, and the test that did not end."""


@dataclass
class Run:
    """What one run of a suite gave."""

    outcomes: dict[str, Outcome]
    traffic: Traffic
    seconds: float


def run_suite(
    suite: Suite,
    stage: Arena,
    host: Host,
    *,
    only: Sequence[str] = (),
    timeout: float,
) -> Run:
    """Run a suite; where a test stalls, note it and go on without it."""
    before, begin = stage.traffic(), time.monotonic()
    outcomes: dict[str, Outcome] = {}
    stalled: list[str] = []
    while True:
        with TemporaryDirectory(prefix="sockaccel-programs-") as name:
            directory = Path(name)
            directory.chmod(0o755)
            suite.start(stage, host, directory)
            found, unfinished = suite.run(stage, host, directory, only, stalled, timeout)
        outcomes |= found
        if unfinished is None:
            break
        outcomes[unfinished] = Outcome("stall", "it did not end")
        stalled.append(unfinished)
        if len(stalled) >= MAX_STALLS or set(only) == set(stalled):
            break
    return Run(outcomes, stage.traffic() - before, time.monotonic() - begin)


def plain_runs(suites: Sequence[Suite], timeout: float) -> dict[str, Run]:
    """Run suites on plain TCP."""
    with arena(PLAIN) as stage:
        host = stage.lab.host()
        runs = {suite.name: run_suite(suite, stage, host, timeout=timeout) for suite in suites}
    for name, run in runs.items():
        if not any(outcome.result == "pass" for outcome in run.outcomes.values()):
            raise RuntimeError(f"no test of {name} passes on plain TCP")
    return runs


def judge(part: str, suites: Sequence[Suite], policy: str, timeout: float) -> list[Row]:
    """Run suites on plain TCP, then with a policy, and compare."""
    plain = plain_runs(suites, timeout)
    rows = []
    with arena(policy) as stage:
        host = stage.lab.host()
        stage.start()
        for suite in suites:
            limit = min(timeout, 3 * plain[suite.name].seconds + 120)
            run = run_suite(suite, stage, host, timeout=limit)
            rows.append(compare(part, suite, policy, plain[suite.name], run, stage, host))
    return rows


def compare(
    part: str, suite: Suite, policy: str, plain: Run, run: Run, stage: Arena, host: Host
) -> Row:
    """Return the row of one suite; what differs is run again."""
    passed = {test: outcome for test, outcome in plain.outcomes.items() if outcome.result == "pass"}
    differs = {
        test: outcome
        for test, before in sorted(passed.items())
        if (outcome := run.outcomes.get(test, MISSING)).differs(before)
    }
    row = Row(part, suite.name, policy, len(passed), traffic=run.traffic, seconds=run.seconds)
    if differs:
        plain_bad, bad = rerun(suite, {test: passed[test] for test in differs}, stage, host)
        for test, outcome in differs.items():
            what = outcome.detail if outcome.result != "pass" else f"took {outcome.seconds:.1f} s"
            times = f"{bad[test]} of {RERUNS} again, {plain_bad[test]} of {RERUNS} on plain TCP"
            failure = Failure(test, f"{outcome.result}: {what} ({times})")
            if bad[test] and not plain_bad[test]:
                row.failures.append(explain(suite.name, policy, failure, KNOWN))
            else:
                row.flaky.append(f"{failure.check}: {failure.detail}")
    row.notes += no_longer_failing(suite.name, policy, passed, row.failures, KNOWN)
    return row


def rerun(
    suite: Suite, tests: dict[str, Outcome], stage: Arena, host: Host
) -> tuple[dict[str, int], dict[str, int]]:
    """Return how often each test was worse than before again: on plain TCP, accelerated."""
    counts = []
    with arena(PLAIN) as other:
        for where, place in ((other, other.lab.host()), (stage, host)):
            failed = dict.fromkeys(tests, 0)
            for _ in range(RERUNS):
                outcomes = run_suite(suite, where, place, only=list(tests), timeout=300).outcomes
                for test, before in tests.items():
                    # One that was not run (behind too many stalls) did not pass either.
                    failed[test] += outcomes.get(test, MISSING).differs(before)
            counts.append(failed)
    return counts[0], counts[1]
