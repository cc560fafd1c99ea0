"""Packets with data of their own that TCP has sent in a network namespace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sockaccel.errors import BenchError
from sockaccel.scope.netns import in_netns

if TYPE_CHECKING:
    from collections.abc import Iterable

COUNTER = "TcpExt", "TCPOrigDataSent"  # without what was sent again
# Of the thread that asks: /proc/net is that of the process's first one.
_NETSTAT = Path("/proc/thread-self/net/netstat")


def data_packets(namespaces: Iterable[Path]) -> int:
    """Return how many there have been so far, added up over namespaces.

    Redirected messages are in none: they never become packets.
    """
    return sum(parse_netstat(in_netns(path, _NETSTAT.read_text)) for path in namespaces)


def parse_netstat(text: str) -> int:
    """Return the counter in the text of /proc/net/netstat: lines of names, each before its values.

    Raises:
        BenchError: it is not there.

    """
    group, name = COUNTER
    lines = [line.split() for line in text.splitlines()]
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if names[0] == values[0] == f"{group}:" and name in names:
            return int(values[names.index(name)])
    raise BenchError(f"cannot count the packets of a run: no {name} in /proc/net/netstat")
