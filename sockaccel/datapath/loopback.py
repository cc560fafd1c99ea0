"""Two ends of a loopback connection, and what the kernel tells of them. Runs in a sandbox."""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import struct
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ANSWER_S = 0.5
"""What has not arrived by then does not arrive."""

_SETTLE_S = 0.01
_BYTES_RECEIVED = 128  # offset of tcpi_bytes_received in struct tcp_info
_SO_MEMINFO = 55


@contextlib.contextmanager
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield both ends; closed by a reset, so that no TIME_WAIT stays."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=ANSWER_S)
        with client, listener.accept()[0] as server:
            for end in (client, server):
                end.settimeout(ANSWER_S)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            yield client, server


def settled(
    read: Callable[[], int], wanted: Callable[[int], bool], within_s: float = _SETTLE_S
) -> int:
    """Return a number once it is as wanted, or what it is after a while.

    A softirq on another processor may be a moment late.
    """
    deadline = time.monotonic() + within_s
    while not wanted(value := read()) and time.monotonic() < deadline:
        time.sleep(0.0002)
    return value


def received_by_tcp(reader: socket.socket) -> int:
    """Return how many bytes TCP itself has received."""
    info = reader.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
    received: int = struct.unpack_from("=Q", info, _BYTES_RECEIVED)[0]
    return received


def memory(reader: socket.socket) -> int:
    """Return sk_rmem_alloc: what the unread bytes are charged with."""
    allocated: int = struct.unpack("=I", reader.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4))[0]
    return allocated


def fionread(reader: socket.socket, wanted: int) -> int:
    """Return what FIONREAD says, given time to become what is wanted."""

    def ask() -> int:
        value = array.array("i", [0])
        fcntl.ioctl(reader, termios.FIONREAD, value)
        return value[0]

    return settled(ask, lambda value: value == wanted)


def rx_queue(reader: socket.socket) -> int:
    """Return rcv_nxt - copied_seq, 0 where that is negative; -1 without such a socket."""
    ports = f"{reader.getsockname()[1]:04X}", f"{reader.getpeername()[1]:04X}"
    for line in Path("/proc/thread-self/net/tcp").read_text(encoding="ascii").splitlines():
        fields = line.split()
        if (fields[1][-4:], fields[2][-4:]) == ports:
            return int(fields[4].partition(":")[2], 16)
    return -1
