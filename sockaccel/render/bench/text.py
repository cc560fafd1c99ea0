"""A benchmark's result for the terminal. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sockaccel.render.bench.document import Document, Notice, Section, document
from sockaccel.render.table import render_table

if TYPE_CHECKING:
    from sockaccel.bench.result import Result


def as_text(result: Result) -> str:
    """Return the result as tables of plain text, failures first."""
    return text(document(result))


def text(shown: Document) -> str:
    """Return a document as plain text, without a newline at the end."""
    notices = "\n".join(map(_notice, shown.notices))
    blocks = [shown.title, notices, *map(_section, shown.sections), "\n".join(shown.footer)]
    return "\n\n".join(block for block in blocks if block)


def _notice(notice: Notice) -> str:
    return f"{notice.word}  {notice.text}"


def _section(section: Section) -> str:
    tables = [
        render_table(table.headers, table.rows, range(table.names, len(table.headers) - 1))
        for table in section.tables
    ]
    return f"{section.name}: {section.title}\n" + "\n\n".join(tables)
