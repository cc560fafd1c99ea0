"""The scenarios, by topic. Importing a module puts its scenarios into the table."""

from equivalence.table import TABLE

from . import (
    endings,
    stream,
)

__all__ = ["TABLE", "endings", "stream"]
