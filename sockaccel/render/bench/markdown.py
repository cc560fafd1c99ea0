"""A benchmark's result as Markdown, as GitHub and its job summaries read it. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sockaccel.render.bench.document import Document, Section, Table, document
from sockaccel.render.table import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sockaccel.bench.result import Result


def as_markdown(result: Result) -> str:
    """Return the result as headings, tables and a list of what to know first."""
    return markdown(document(result))


def markdown(shown: Document) -> str:
    """Return a document as Markdown, with a newline at the end."""
    notices = "\n".join(f"- **{each.word}** {_escaped(each.text)}" for each in shown.notices)
    blocks = [
        f"## {_escaped(shown.title)}",
        notices,
        *([f"### {shown.overview.caption}", _table(shown.overview)] if shown.overview else []),
        *(block for section in shown.sections for block in _section(section)),
        "\n".join(f"{_escaped(line)}  " for line in shown.footer).rstrip(),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _section(section: Section) -> list[str]:
    heading = f"### {_escaped(section.name)}: {_escaped(section.title)}"
    return [heading, *map(_table, section.tables)]


def _table(table: Table) -> str:
    marks = ["---" if index < table.names else "---:" for index in range(len(table.headers))]
    return "\n".join(_line(cells) for cells in (table.headers, marks, *_rows(table)))


def _rows(table: Table) -> list[list[str]]:
    return [[_escaped(cell) for cell in row] for row in table.rows]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Return a text that means itself: `~` would strike through, `|` end a cell."""
    return re.sub(r"([\\`*_|~<>\[\]])", r"\\\1", printable(text.replace("\n", " ")))
