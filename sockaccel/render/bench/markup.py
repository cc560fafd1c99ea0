"""Texts as HTML and SVG hold them. Pure."""

from __future__ import annotations

from html import escape

from sockaccel.render.table import printable


def escaped(text: str) -> str:
    """Return a text that means itself, also in an attribute, without control characters."""
    return escape(printable(text))
