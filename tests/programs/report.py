"""Shows rows to people, and to programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sockaccel.render.table import render_table
from sockaccel.render.units import bytes_text

from .arena import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .results import Row

SCHEMA = "sockaccel.programs/1"
HEADERS = ("part", "program", "policy", "pass plain", "fail", "known", "redirected", "share", "s")
NUMBERS = range(3, len(HEADERS))


def as_text(rows: Sequence[Row]) -> str:
    """Return a table, and below it whatever differs."""
    lines = [cells(row) for row in rows]
    total = sum((row.traffic for row in rows), Traffic())
    sums = [sum(values) for values in zip(*map(numbers, rows), strict=True)] or [0, 0, 0]
    seconds = sum(row.seconds for row in rows)
    lines.append(("", "all", "", *map(str, sums), *traffic(total), f"{seconds:.0f}"))
    return "\n".join([render_table(HEADERS, lines, NUMBERS), *remarks(rows)])


def cells(row: Row) -> tuple[str, ...]:
    head = (row.part, row.subject, row.policy)
    return (*head, *map(str, numbers(row)), *traffic(row.traffic), f"{row.seconds:.0f}")


def numbers(row: Row) -> tuple[int, int, int]:
    """Return how many checks passed on plain TCP, and how many then failed, by kind."""
    unexplained = len(row.unexplained)
    return row.passed, unexplained, len(row.failures) - unexplained


def traffic(sent: Traffic) -> tuple[str, str]:
    share = f"{sent.share:.1%}" if sent.redirected + sent.tcp else "-"
    return bytes_text(sent.redirected), share


def remarks(rows: Sequence[Row]) -> Iterator[str]:
    """Return a line for each difference and note."""
    for row in rows:
        for failure in row.failures:
            known = failure.known
            kind = f"known, row {known.hazard}: {known.cause}" if known else "FAILS"
            yield f"{row.subject}: {failure.check}: {failure.detail}: {kind}"
        for test in row.flaky:
            yield f"{row.subject}: not steady: {test}"
        for note in row.notes:
            yield f"{row.subject}: {note}"


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return everything."""
    return [{**asdict(row), "share": row.traffic.share} for row in rows]
