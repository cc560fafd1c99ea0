"""JSON on stdout: one object, with its schema."""

from __future__ import annotations

import json
from typing import Any

import click


def print_json(schema: str, *, compact: bool = False, **fields: Any) -> None:
    """Print an object that carries its schema; compact means one line, for streams."""
    text = json.dumps({"schema": schema, **fields}, indent=None if compact else 2)
    click.echo(text)
