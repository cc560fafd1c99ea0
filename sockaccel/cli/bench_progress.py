"""What a person sees on stderr while a benchmark runs."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import click

from sockaccel.render.table import printable
from sockaccel.render.units import value_text

if TYPE_CHECKING:
    from sockaccel.bench.runner import Progress

_ERASE = "\r\033[K"


class ProgressLine:
    """One line that changes on a terminal; elsewhere, a line for each run."""

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._done = 0
        self._live = sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        """Show a run that begins or has ended."""
        ended = progress.value is not None or bool(progress.problems)
        self._done += ended
        line = self._text(progress)
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"{_ERASE}{line[:width]}", err=True, nl=False)
        elif ended:
            click.echo(line, err=True)
        for problem in progress.problems:
            self.clear()
            click.echo(printable(f"INVALID  {progress.case}: {problem}"), err=True)

    def clear(self) -> None:
        """Leave the line to whoever prints next."""
        if self._live:
            click.echo(_ERASE, err=True, nl=False)

    def _text(self, progress: Progress) -> str:
        which = f"pair {progress.round}/{progress.rounds}" if progress.round else "warm-up"
        where = f"[{self._done}/{self._runs}] {progress.case}, {which}, {progress.arm.label}"
        if progress.value is None:
            return where
        return f"{where}: {value_text(progress.value)} {progress.metric.title}"
