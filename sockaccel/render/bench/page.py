"""A benchmark's result as one HTML page that needs nothing else. Pure."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from sockaccel.render.bench.document import Document, Section, Table, document

if TYPE_CHECKING:
    from sockaccel.bench.result import Result


def as_html(result: Result) -> str:
    """Return the page."""
    shown = document(result)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f"<title>{escape(shown.title)}</title></head><body>",
            *_body(shown),
            "</body></html>\n",
        ]
    )


def _body(shown: Document) -> list[str]:
    notices = [
        f"<p><strong>{escape(each.word)}</strong> {escape(each.text)}</p>" for each in shown.notices
    ]
    footer = [f"<p>{escape(line)}</p>" for line in shown.footer]
    sections = [line for section in shown.sections for line in _section(section)]
    return [f"<h1>{escape(shown.title)}</h1>", *notices, *sections, *footer]


def _section(section: Section) -> list[str]:
    return [f"<h2>{escape(section.name)}</h2>", *map(_table, section.tables)]


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.headers)
    rows = (
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
