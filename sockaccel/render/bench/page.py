"""A benchmark's result as one HTML page that needs nothing else: no script, no request. Pure."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from sockaccel.render.bench.document import Document, Notice, Section, Table, document, scenarios
from sockaccel.render.bench.markup import escaped
from sockaccel.render.bench.plots import Figure, figures_of_case, figures_of_scenario
from sockaccel.render.bench.style import CSS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sockaccel.bench.result import CaseResult, Result

# The browser itself refuses whatever would leave the page.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
VERDICTS = ("better", "WORSE")


def as_html(result: Result) -> str:
    """Return the page: failures first, tables, and a chart for what tables hide."""
    shown = document(result)
    return "\n".join([*_head(shown.title), *_body(shown, result), "</body>", "</html>", ""])


def _head(title: str) -> list[str]:
    return [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escaped(title)}</title>",
        '<link rel="icon" href="data:,">',
        f"<style>\n{CSS}</style>",
        "</head>",
        "<body>",
    ]


def _body(shown: Document, result: Result) -> Iterator[str]:
    yield f"<header><h1>{escaped(shown.title)}</h1></header>\n<main>"
    if shown.notices:
        yield f'<ul class="notices">{"".join(map(_notice, shown.notices))}</ul>'
    if shown.overview:
        yield f"<section><h2>overview</h2>{_table(shown.overview)}</section>"
    names = map("figure-{}".format, count(1))
    for section, cases in zip(shown.sections, scenarios(result).values(), strict=True):
        yield from _section(section, _figures(cases, names))
    yield "</main>\n<footer>"
    yield from (f"<p>{escaped(line)}</p>" for line in shown.footer)
    yield "</footer>"


def _notice(notice: Notice) -> str:
    kind = "warning" if notice.word == "WARNING" else "bad"
    return f'<li class="{kind}"><strong>{escaped(notice.word)}</strong>{escaped(notice.text)}</li>'


def _section(section: Section, rows: Iterable[Iterable[Figure]]) -> Iterator[str]:
    yield "<section>"
    yield f"<h2>{escaped(section.name)} <small>{escaped(section.title)}</small></h2>"
    yield from map(_table, section.tables)
    for figures in rows:
        yield '<div class="figures">'
        yield from map(_figure, figures)
        yield "</div>"
    yield "</section>"


def _figures(cases: list[CaseResult], names: Iterator[str]) -> Iterator[Iterable[Figure]]:
    """Yield the figures that belong beside each other."""
    yield figures_of_scenario(cases, next(names))
    for case in cases:
        if case.valid:
            yield figures_of_case(case, next(names))


def _figure(figure: Figure) -> str:
    return (
        f"<figure>\n<figcaption>{escaped(figure.caption)}</figcaption>\n{figure.svg}\n"
        f"<details><summary>Data</summary>{_table(figure.table)}</details>\n</figure>"
    )


def _table(table: Table) -> str:
    """Return a table that scrolls by itself where the screen is narrow."""
    head = "".join(
        f'<th scope="col"{_class(index, table)}>{escaped(cell)}</th>'
        for index, cell in enumerate(table.headers)
    )
    rows = "\n".join(_rows(table))
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(table.caption)}">'
        f"<table><caption>{escaped(table.caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _rows(table: Table) -> Iterator[str]:
    """Yield the rows; where the next case begins, there is a line."""
    before = ""
    for row in table.rows:
        first = ' class="first"' if table.names > 1 and row[0] != before else ""
        yield f"<tr{first}>{_cells(row, table)}</tr>"
        before = row[0]


def _cells(row: Iterable[str], table: Table) -> str:
    return "".join(
        f'<th scope="row"{_class(index, table)}>{escaped(cell)}</th>'
        if index < table.names
        else f"<td{_class(index, table, cell)}>{escaped(cell)}</td>"
        for index, cell in enumerate(row)
    )


def _class(index: int, table: Table, cell: str = "") -> str:
    if index < table.names:
        return ' class="name"'
    return f' class="{cell}"' if cell in VERDICTS else ""
