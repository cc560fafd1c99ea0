"""A benchmark's result for the terminal. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sockaccel.render.bench.document import Document, Notice, Section, Table, document
from sockaccel.render.table import printable, render_table

if TYPE_CHECKING:
    from sockaccel.bench.result import Result


def as_text(result: Result) -> str:
    """Return the result as tables of plain text, failures first."""
    return text(document(result))


def text(shown: Document) -> str:
    """Return a document as plain text, without a newline at the end."""
    notices = "\n".join(map(_notice, shown.notices))
    # At the end, where a terminal stops.
    overview = f"{shown.overview.caption}\n{_table(shown.overview)}" if shown.overview else ""
    sections = map(_section, shown.sections)
    footer = "\n".join(map(printable, shown.footer))
    blocks = [printable(shown.title), notices, *sections, overview, footer]
    return "\n\n".join(block for block in blocks if block)


def _notice(notice: Notice) -> str:
    return f"{notice.word}  {printable(notice.text)}"


def _section(section: Section) -> str:
    heading = printable(f"{section.name}: {section.title}")
    return f"{heading}\n" + "\n\n".join(map(_table, section.tables))


def _table(table: Table) -> str:
    return render_table(table.headers, table.rows, range(table.names, len(table.headers) - 1))
