"""What recv() and its kin do on an enrolled socket, compared with plain TCP.

Each scenario runs twice in a throw-away namespace: in a cgroup that nothing of
ours is attached to, and in one whose connections are redirected. It says in
words what happened to what it did; equal words mean that a program cannot tell.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sockaccel.datapath.loopback import ANSWER_S, connection, received_by_tcp, settled
from sockaccel.errors import DatapathError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sockaccel.datapath.sandbox import Sandbox
    from sockaccel.datapath.state import Datapath

    Happened = dict[str, str]
    Scenario = Callable[[socket.socket, socket.socket], Happened]

TIMEOUT_S = 5.0

_IPPROTO_MPTCP = 262
_SO_ZEROCOPY = 60
_MSG_ZEROCOPY = 0x4000000
_SPLICE_F_NONBLOCK = 2
_MESSAGE = b"sockaccel"
_LATER_S = 0.05  # until the other end does its part; by then this one waits
_SIGNALS_S = 0.01
_GOES_ON = "goes on"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Comparison:
    """What happened on plain TCP, and on an accelerated connection."""

    tcp: Happened
    accelerated: Happened

    @property
    def same(self) -> bool:
        """Whether a program cannot tell."""
        return self.tcp == self.accelerated

    def __str__(self) -> str:
        if self.same:
            return "as on TCP: " + ", ".join(f"{did} {it}" for did, it in self.tcp.items())
        return ", ".join(
            f"{did} {it} (TCP: {self.tcp[did]})"
            for did, it in self.accelerated.items()
            if it != self.tcp[did]
        )


def compare(scenario: Scenario, plain: Sandbox, accelerated: Sandbox) -> Comparison:
    """Run a scenario without and with acceleration.

    Raises:
        RedirectedByOthersError: there is no plain TCP here to compare with.
        DatapathError: the connection is not redirected, or it hangs.
        SockaccelError: as Sandbox.run() does.

    """
    return Comparison(
        plain.run(lambda: _play(scenario, redirected=False), TIMEOUT_S),
        accelerated.run(lambda: _play(scenario, redirected=True), TIMEOUT_S),
    )


def mptcp_entries(datapath: Datapath, accelerated: Sandbox) -> int | None:
    """Return how many sockets of an MPTCP connection are enrolled; None without MPTCP here."""
    return accelerated.run(lambda: _mptcp_entries(datapath), TIMEOUT_S)


class RedirectedByOthersError(DatapathError):
    """What should show how TCP behaves is redirected too."""


def _play(scenario: Scenario, *, redirected: bool) -> Happened:
    with connection() as (client, server):
        # Both ways, so that each end has found the other.
        for writer, reader in ((client, server), (server, client)):
            before = received_by_tcp(reader)
            writer.sendall(_MESSAGE)
            reader.recv(len(_MESSAGE))
            by_tcp = received_by_tcp(reader) != before
            if by_tcp and redirected:
                raise DatapathError("cannot try it: the connection is not redirected")
            if not by_tcp and not redirected:
                raise RedirectedByOthersError(
                    "cannot compare with TCP: what is enabled redirects every connection here"
                )
        return scenario(client, server)


def splice(client: socket.socket, server: socket.socket) -> Happened:
    """Move bytes from a socket into a pipe, as proxies do (Go's io.Copy, HAProxy)."""
    client.sendall(_MESSAGE)
    _wait_readable(server)
    reader, writer = os.pipe()
    try:
        moved = os.splice(server.fileno(), writer, len(_MESSAGE), flags=_SPLICE_F_NONBLOCK)
        happened = f"moves {moved} of {len(_MESSAGE)} bytes"
    except OSError as error:
        happened = _name(error)
    finally:
        os.close(reader)
        os.close(writer)
    return {"splice() from a socket": happened}


def interrupted_recv(client: socket.socket, server: socket.socket) -> Happened:
    """Wait in a blocking recv() while a signal with SA_RESTART comes, then the peer's reset."""
    server.settimeout(None)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, _SIGNALS_S, _SIGNALS_S)
    after_signal = _later(lambda: client.sendall(_MESSAGE), lambda: _recv(server))
    signal.setitimer(signal.ITIMER_REAL, 0)
    if after_signal != _GOES_ON:
        server.recv(len(_MESSAGE))
    return {
        "recv() after a signal": after_signal,
        "recv() after a reset": _later(client.close, lambda: _recv(server)),
    }


def recv_options(client: socket.socket, server: socket.socket) -> Happened:
    """Use what few programs use: MSG_WAITALL, MSG_TRUNC without a buffer, SO_RCVLOWAT, MSG_OOB."""
    half = len(_MESSAGE) // 2
    server.settimeout(None)
    client.sendall(_MESSAGE[:half])
    waited = _later(
        lambda: client.sendall(_MESSAGE[half:]),
        lambda: str(len(server.recv(len(_MESSAGE), socket.MSG_WAITALL))),
    )
    if int(waited) < len(_MESSAGE):
        server.recv(len(_MESSAGE))
    client.sendall(_MESSAGE)
    _wait_readable(server)
    thrown = _libc.recv(server.fileno(), None, len(_MESSAGE), socket.MSG_TRUNC)
    number = ctypes.get_errno()
    if thrown < 0:
        server.recv(len(_MESSAGE))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(_MESSAGE) + 1)
    client.sendall(_MESSAGE)
    early = bool(select.select([server], [], [], _LATER_S)[0])
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    server.recv(len(_MESSAGE))
    client.send(b"!", socket.MSG_OOB)
    client.sendall(_MESSAGE)
    server.settimeout(ANSWER_S)
    data = b""
    while not data.endswith(_MESSAGE):
        data += server.recv(len(_MESSAGE))
    return {
        "MSG_WAITALL": f"waits for {waited} of {len(_MESSAGE)} bytes",
        "MSG_TRUNC": _name(OSError(number, "")) if thrown < 0 else f"skips {thrown} bytes",
        "SO_RCVLOWAT": "is ignored" if early else "is kept",
        "MSG_OOB": "arrives in band" if b"!" in data else "stays out of band",
    }


def close_unread(client: socket.socket, server: socket.socket) -> Happened:
    """Close an end that has not read everything; write after the own shutdown."""
    client.sendall(_MESSAGE)
    _wait_readable(server)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
    server.close()
    at_writer = _recv(client)
    with contextlib.suppress(OSError):  # the reset has come
        client.shutdown(socket.SHUT_WR)
    try:
        client.send(_MESSAGE)
        sent = "succeeds"
    except OSError as error:
        sent = _name(error)
    return {"recv() after the peer closed unread": at_writer, "send() after shutdown()": sent}


def zerocopy(client: socket.socket, server: socket.socket) -> Happened:
    """Send with MSG_ZEROCOPY and wait for the kernel to give the buffer back."""
    client.setsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY, 1)
    sent = client.send(bytes(1 << 14), _MSG_ZEROCOPY)
    while sent > 0:
        sent -= len(server.recv(sent))
    client.setblocking(False)

    def completions() -> int:
        try:
            return len(client.recvmsg(1, 256, socket.MSG_ERRQUEUE)[1])
        except BlockingIOError:
            return 0

    completed = settled(completions, bool, ANSWER_S)
    return {"MSG_ZEROCOPY": "completes" if completed else "never completes"}


def _recv(reader: socket.socket) -> str:
    try:
        return _GOES_ON if reader.recv(len(_MESSAGE)) else "sees the end"
    except OSError as error:
        return _name(error)


def _name(error: OSError) -> str:
    return f"fails with {errno.errorcode.get(error.errno or 0, str(error))}"


def _wait_readable(reader: socket.socket) -> None:
    select.select([reader], [], [], ANSWER_S)


def _later(act: Callable[[], object], wait: Callable[[], str]) -> str:
    """Return what `wait` returns while another thread calls `act` a moment later."""
    timer = threading.Timer(_LATER_S, act)
    timer.start()
    try:
        return wait()
    finally:
        timer.join()


def _mptcp_entries(datapath: Datapath) -> int | None:
    try:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_MPTCP)
    except OSError:
        return None
    with listener, socket.socket(socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_MPTCP) as client:
        before = len(datapath.entries())
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.settimeout(ANSWER_S)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            client.sendall(_MESSAGE)
            if server.recv(len(_MESSAGE)) != _MESSAGE:
                raise DatapathError("cannot use MPTCP: the bytes did not arrive")
            return len(datapath.entries()) - before
