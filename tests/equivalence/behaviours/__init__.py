"""The scenarios, by topic, in the order of the report.

Importing a module puts its scenarios into the table.
"""

# ruff: noqa: I001  # the order is that of the report

from equivalence.table import TABLE

from . import (
    stream,
    handshake,
    endings,
    readiness,
    blocking,
    flags,
    options,
    copying,
    sharing,
    network,
    transitions,
)

__all__ = [
    "TABLE",
    "blocking",
    "copying",
    "endings",
    "flags",
    "handshake",
    "network",
    "options",
    "readiness",
    "sharing",
    "stream",
    "transitions",
]
