"""Plain-text tables for people: columns two blanks apart, no frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

GAP = "  "


def render_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    align_right: Container[int] = (),
) -> str:
    """Return the lines of a table, without a newline at the end.

    align_right holds the indices of the columns that are flush right (numbers).
    Characters that a terminal would act on are shown as '?': a cell may hold a
    process name, which the process chose. A row that does not have as many
    cells as there are headers is a bug of the caller: ValueError.
    """
    lines = [[printable(cell) for cell in row] for row in (headers, *rows)]
    for line in lines:
        if len(line) != len(headers):
            raise ValueError(f"{len(line)} cells in a table of {len(headers)} columns: {line}")
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        GAP.join(
            cell.rjust(width) if index in align_right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def printable(text: str) -> str:
    """Return a text with '?' for what a terminal would act on, and what XML cannot hold."""
    return "".join(char if char.isprintable() else "?" for char in text)
