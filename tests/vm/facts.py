"""What the running kernel does with sockets in a sockmap: the facts that make its class.

.venv/bin/python tests/vm/facts.py    prints one JSON object

Measured on real connections of the accelerated laboratory with `--policy all`. Bytes go by TCP
after `disable`: the sockets stay in the map, and the sk_skb program stays on them.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import struct
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from kernel import harness
from kernel.harness import Lab, removed

from sockaccel.datapath import libbpf
from sockaccel.datapath.btf import KernelTypes

if TYPE_CHECKING:
    import socket

TRACEPOINTS = ("sock_recv_length", "tcp_rcv_space_adjust")
# r6 = the first argument, a struct sock; r0 = its first two bytes; r0 = 0; exit.
READ_A_SOCKET = struct.pack("<QQQQ", 0x0000_0000_0000_1679, 0x0000_0000_0000_6069, 0xB7, 0x95)


def typed_tracepoint(name: str) -> str:
    """Load and attach a tp_btf program that reads the tracepoint's socket; say how it went."""
    number = KernelTypes().tracepoint(name)
    if number is None:
        return "no such tracepoint"
    done = "loaded"
    try:
        with libbpf.fd(libbpf.load_tracepoint("facts", READ_A_SOCKET, number)) as program:
            done = "attached"
            os.close(libbpf.link_tracepoint(program))
    except OSError as error:
        return f"not {done} ({errno.errorcode[error.errno or 0]})"
    return "attaches"


def readable(sock: socket.socket) -> int:
    """Return what FIONREAD says."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]


def unread_by_tcp(host: harness.Host, sock: socket.socket) -> int:
    """Return rcv_nxt - copied_seq, which ``ss`` shows as Recv-Q."""
    port = sock.getsockname()[1]
    line = host.execute("ss", "-tnH", "state", "established", "sport", "=", f":{port}")
    return int(line.split()[0])


def stream_facts() -> dict[str, object]:
    """Return what holds for redirected bytes and bytes that came by TCP, in one queue."""
    with removed(Lab("accelerated")) as lab:
        host = lab.host()
        listener = host.listen()
        lab.enable()
        client, server = lab.connect(host, listener)
        client.sendall(b"r" * 110)
        redirected = lab.sent(client)[0] == 110
        fionread = readable(server)
        harness.receive(server, 100)
        lab.disable()
        client.sendall(b"t" * 77)
        time.sleep(0.5)  # until TCP has delivered
        both, queued = readable(server), unread_by_tcp(host, server)
        first = server.recv(4096)
        listener.close()
        return {
            "redirected": redirected,
            "fionread_redirected": fionread == 110,
            "fionread_tcp": both - (10 if fionread == 110 else 0) == 77,
            "one_queue": first == b"r" * 10 + b"t" * 77,
            "copied_seq": queued == 77 and unread_by_tcp(host, server) == 0,
        }


def kernel_class(facts: dict[str, object]) -> str:
    """Return K0, K1 or K2 (see docs/kernels.md); K1 and K2 differ only without sk_skb."""
    if not facts["fionread_redirected"]:
        return "K0"
    return "K1/K2" if facts["fionread_tcp"] and facts["one_queue"] else "unknown"


def main() -> None:
    facts = stream_facts()
    facts |= {name: typed_tracepoint(name) for name in TRACEPOINTS}
    print(json.dumps({"kernel": platform.release(), "class": kernel_class(facts)} | facts))


if __name__ == "__main__":
    main()
