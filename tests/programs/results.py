"""What a comparison found."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from .arena import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Known:
    """A failure that is expected under `--policy all`, and why."""

    subject: str  # of a row, a pattern
    check: str  # a pattern
    symptom: str  # a pattern: what else goes wrong there is not known
    hazard: str  # row of the table of hazards
    cause: str

    def concerns(self, subject: str, check: str) -> bool:
        """Whether this check is expected to fail."""
        return fnmatchcase(subject, self.subject) and fnmatchcase(check, self.check)

    def explains(self, subject: str, failure: Failure) -> bool:
        """Whether it failed as expected."""
        return self.concerns(subject, failure.check) and fnmatchcase(failure.detail, self.symptom)


@dataclass(frozen=True)
class Failure:
    """Something that is right on plain TCP and wrong accelerated."""

    check: str
    detail: str
    known: Known | None = None


@dataclass
class Row:
    """One program, judged under one policy."""

    part: str
    subject: str
    policy: str
    passed: int  # checks that pass on plain TCP
    failures: list[Failure] = field(default_factory=list)
    # Checks that failed once, but then not again, or failed on plain TCP too.
    flaky: list[str] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def unexplained(self) -> list[Failure]:
        return [failure for failure in self.failures if failure.known is None]


def explain(subject: str, policy: str, failure: Failure, table: Iterable[Known]) -> Failure:
    """Return the failure with its known cause. Under `safe` no cause is accepted."""
    if policy != "all":
        return failure
    for known in table:
        if known.explains(subject, failure):
            return Failure(failure.check, failure.detail, known)
    return failure


def no_longer_failing(
    subject: str,
    policy: str,
    checks: Iterable[str],
    failures: Iterable[Failure],
    table: list[Known],
) -> list[str]:
    """Return what the table expects to fail, was run, and did not fail."""
    if policy != "all":
        return []
    used = {failure.known for failure in failures}
    ran = list(checks)
    return [
        f"known failure no longer fails: {known.check} (row {known.hazard})"
        for known in table
        if known not in used and any(known.concerns(subject, check) for check in ran)
    ]
