"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    """How bad it is."""

    PASS = "PASS"
    WARN = "WARN"
    """It works, but not for everybody, or not as one may expect."""
    FAIL = "FAIL"
    """It does not work."""


class Outcome(NamedTuple):
    """A verdict, what it rests on, and one line to type."""

    verdict: Verdict
    evidence: str
    hint: str | None = None


@dataclass(frozen=True)
class Finding:
    """The outcome of a check."""

    name: str
    verdict: Verdict
    evidence: str
    hint: str | None = None


def passed(evidence: str) -> Outcome:
    """Return the outcome of a check that found nothing to do."""
    return Outcome(Verdict.PASS, evidence)


def warned(evidence: str, hint: str) -> Outcome:
    """Return the outcome of a check that found something to know."""
    return Outcome(Verdict.WARN, evidence, hint)


def failed(evidence: str, hint: str | None = None) -> Outcome:
    """Return the outcome of a check that found something that must be mended."""
    return Outcome(Verdict.FAIL, evidence, hint)
