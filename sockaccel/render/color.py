"""The words of a table that a person looks for first, in colour.

click takes the colour out again where stdout is no terminal, or NO_COLOR or --color say so.
"""

from __future__ import annotations

import re

import click

from sockaccel.render.table import GAP

_COLORS = {
    "PASS": "green",
    "WARN": "yellow",
    "FAIL": "red",
    "better": "green",
    "WORSE": "red",
    "WARNING": "yellow",
    "INVALID": "red",
}
# A cell of its own: in prose these words mean what they mean.
_CELL = re.compile(rf"(?m)(?:^|(?<={GAP}))(?:{'|'.join(_COLORS)})(?={GAP}|$)")


def colored(text: str) -> str:
    """Return the text of a table with its verdicts in colour."""
    return _CELL.sub(lambda cell: click.style(cell[0], fg=_COLORS[cell[0]], bold=True), text)
