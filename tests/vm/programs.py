"""The programs of the scenarios: each a process of its own, as users run them.

python programs.py echo ADDRESS PORT                    sends back what it receives
python programs.py splice-proxy ADDRESS PORT UPSTREAM   passes on by splice(), both ways
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

PIECE = 1 << 16


def echo(near: socket.socket) -> None:
    while data := near.recv(PIECE):
        near.sendall(data)
    near.close()


def splice_all(source: socket.socket, sink: socket.socket) -> None:
    """Move bytes from one socket to another through a pipe, without reading them."""
    reader, writer = os.pipe()
    with contextlib.suppress(ConnectionError):
        while count := os.splice(source.fileno(), writer, PIECE):
            while count:
                count -= os.splice(reader, sink.fileno(), count)
        sink.shutdown(socket.SHUT_WR)
    os.close(reader)
    os.close(writer)


def proxy(near: socket.socket, upstream: tuple[str, int]) -> None:
    far = socket.create_connection(upstream)
    threading.Thread(target=splice_all, args=(far, near), daemon=True).start()
    splice_all(near, far)


def main() -> None:
    kind, address, port, *rest = sys.argv[1:]
    listener = socket.create_server((address, int(port)))
    while True:
        near, _ = listener.accept()
        arguments = (near, (rest[0], int(port))) if kind == "splice-proxy" else (near,)
        serve = proxy if kind == "splice-proxy" else echo
        threading.Thread(target=serve, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main()
