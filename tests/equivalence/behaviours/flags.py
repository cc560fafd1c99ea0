"""Flags of send() and recv(), and what comes beside the bytes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import time

from equivalence.stage import NEVER_S, Stage, outcome
from equivalence.table import BLOCKING, IPV4, NON_BLOCKING, Known, scenario

PEEK, WAITALL, TRUNC, DONTWAIT, OOB = (
    socket.MSG_PEEK,
    socket.MSG_WAITALL,
    socket.MSG_TRUNC,
    socket.MSG_DONTWAIT,
    socket.MSG_OOB,
)
TCP_INQ = 36
SO_PEEK_OFF = 42
SO_TIMESTAMPNS = 35
TIMESTAMP = (socket.SOL_SOCKET, SO_TIMESTAMPNS)
WORD = b"0123456789abcdef"
RECV = "recv() of a socket in a sockmap does not know it"


def delivered(s: Stage) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection with WORD waiting at the server."""
    client, server = s.pair()
    s.send(client, WORD)
    s.arrived(server, len(WORD))
    return client, server


@scenario("MSG_PEEK leaves the bytes, whole and in part")
def peek(s: Stage) -> None:
    client, server = delivered(s)
    s.note("peek", s.recv(server, 100, PEEK))
    s.note("peek at part", s.recv(server, 3, PEEK))
    s.note("recv of part", s.recv(server, 4))
    s.send(client, b"and more")
    s.arrived(server, 20)
    s.note("peek over two writes", s.recv(server, 100, PEEK))
    s.note("peek again", s.recv(server, 14, PEEK))
    s.note("recv", s.recv(server, 100))
    s.note("nothing left", s.recv(server, 100, PEEK | DONTWAIT, within=0.1))


@scenario("MSG_PEEK waits for the first byte")
def peek_waits(s: Stage) -> None:
    client, server = s.pair()
    thread = s.thread(s.recv, server, 100, PEEK)
    with s.asleep_in_call(thread):
        s.send(client, WORD)
    s.note("peek", thread.result())
    s.note("recv", s.recv(server, 100))


@scenario(
    "SO_PEEK_OFF moves the place of the next peek",
    rows="11",
    known=Known("11", RECV, {"peeks": ["0123", "0123"], "peek after recv": "6789"}),
)
def peek_offset(s: Stage) -> None:
    _, server = delivered(s)
    s.note("set", outcome(server.setsockopt, socket.SOL_SOCKET, SO_PEEK_OFF, 0))
    s.note("peeks", [s.recv(server, 4, PEEK), s.recv(server, 4, PEEK)])
    s.note("recv", s.recv(server, 6))
    s.note("peek after recv", s.recv(server, 4, PEEK))


@scenario(
    "MSG_WAITALL waits for all that was asked for",
    rows="11",
    modes=(BLOCKING,),
    known=Known("11", RECV, {"returns after half": True, "recv": "12345"}),
)
def waitall(s: Stage) -> None:
    client, server = s.pair()
    thread = s.thread(s.recv, server, 10, WAITALL)
    with s.asleep_in_call(thread):
        s.send(client, b"12345")
    thread.join(NEVER_S)
    s.note("returns after half", not thread.is_alive())
    s.send(client, b"67890")
    s.note("recv", thread.result())


@scenario("MSG_WAITALL ends with what there is when the peer closes", modes=(BLOCKING,))
def waitall_at_the_end(s: Stage) -> None:
    client, server = s.pair()
    s.send(client, b"12345")
    s.lab.close_one(client)
    s.note("recv", s.recv(server, 10, WAITALL))
    s.note("recv again", s.recv(server, 10, WAITALL))


@scenario("MSG_WAITALL with MSG_DONTWAIT takes what there is")
def waitall_dontwait(s: Stage) -> None:
    _, server = delivered(s)
    s.note("recv", outcome(server.recv, 100, WAITALL | DONTWAIT))
    s.note("recv again", outcome(server.recv, 100, WAITALL | DONTWAIT))


@scenario("MSG_DONTWAIT returns at once")
def dontwait(s: Stage) -> None:
    client, server = s.pair()
    s.note("nothing there", outcome(server.recv, 10, DONTWAIT))
    s.send(client, WORD)
    s.arrived(server, len(WORD))
    s.note("something there", outcome(server.recv, 100, DONTWAIT))
    s.note("nothing again", outcome(server.recv, 10, DONTWAIT))
    s.note("full", s.fill(client)[1])


def recv_into_nothing(sock: socket.socket, count: int, flags: int) -> int | str:
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.recv(sock.fileno(), None, ctypes.c_size_t(count), flags)
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]


@scenario(
    "MSG_TRUNC throws bytes away",
    rows="11",
    known=Known(
        "11",
        RECV,
        {
            "into no buffer": "EFAULT",
            "the buffer": "0123",
            "the rest": "456789abcdef",
        },
    ),
)
def truncate(s: Stage) -> None:
    _, server = delivered(s)
    s.note("into no buffer", recv_into_nothing(server, 4, TRUNC))
    buffer = bytearray(b"....")
    s.note("into a buffer", outcome(server.recv_into, buffer, 4, TRUNC))
    s.note("the buffer", buffer)
    s.note("the rest", s.recv(server, 100))


@scenario(
    "MSG_OOB: one urgent byte beside the stream",
    rows="11",
    known=Known(
        "11",
        "a redirected message has no urgent byte",
        {
            "before": "EAGAIN",
            "polls": "IN",
            "in band": "in!",
            "out of band": "EAGAIN",
            "out of band again": "EAGAIN",
        },
    ),
)
def urgent(s: Stage) -> None:
    client, server = s.pair()
    s.note("before", outcome(server.recv, 1, OOB | DONTWAIT))
    s.send(client, b"in")
    s.note("sent", outcome(client.send, b"!", OOB))
    s.events(server, select.POLLPRI, NEVER_S)
    s.note("polls", s.events(server, select.POLLIN | select.POLLPRI))
    s.note("in band", s.recv(server, 10))
    s.note("out of band", outcome(server.recv, 1, OOB | DONTWAIT))
    s.note("out of band again", outcome(server.recv, 1, OOB | DONTWAIT))
    s.send(client, b"band")
    s.note("in band again", s.recv(server, 10))


@scenario(
    "SO_OOBINLINE: the urgent byte is in the stream",
    rows="11",
    known=Known(
        "11",
        "a redirected message has no urgent byte",
        {"up to the mark": "in!", "the mark": "timed out", "with MSG_OOB": "EAGAIN"},
    ),
)
def urgent_inline(s: Stage) -> None:
    client, server = s.pair()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    s.send(client, b"in")
    s.note("sent", outcome(client.send, b"!", OOB))
    s.events(server, select.POLLPRI, NEVER_S)
    s.note("up to the mark", s.recv(server, 10))
    s.note("the mark", s.recv(server, 10, within=0.1))
    s.note("with MSG_OOB", outcome(server.recv, 1, OOB | DONTWAIT))


@scenario("MSG_MORE: what was held back goes with the next write")
def more(s: Stage) -> None:
    client, server = s.pair()
    s.note("sent", [outcome(client.send, b"head", socket.MSG_MORE), outcome(client.send, b"tail")])
    s.arrived(server, 8)
    s.note("arrived", s.recv(server, 100))


@scenario("MSG_MORE: the last write goes out by itself in the end")
def more_alone(s: Stage) -> None:
    client, server = s.pair()
    s.note("sent", outcome(client.send, b"head", socket.MSG_MORE))
    s.note("arrived", s.recv(server, 100))


@scenario("recvmsg() with room for control messages, and MSG_ERRQUEUE")
def control(s: Stage) -> None:
    _, server = delivered(s)
    s.note("recvmsg", outcome(server.recvmsg, 100, 100))
    s.note("error queue", outcome(server.recvmsg, 100, 100, socket.MSG_ERRQUEUE | DONTWAIT))


@scenario(
    "TCP_INQ: recvmsg() tells how much is left",
    rows="11",
    known=Known("11", RECV, {"left": []}),
)
def inq(s: Stage) -> None:
    _, server = delivered(s)
    s.note("set", outcome(server.setsockopt, socket.IPPROTO_TCP, TCP_INQ, 1))
    data, ancillary, flags, _ = server.recvmsg(6, 100)
    s.note("recvmsg", [data, flags])
    s.note("left", [struct.unpack("i", item[2])[0] for item in ancillary])


@scenario(
    "SO_TIMESTAMPNS: recvmsg() tells when it arrived",
    rows="11",
    families=IPV4,
    known=Known("11", RECV, {"a control message comes": False}),
)
def timestamp(s: Stage) -> None:
    client, server = s.pair()
    s.note("set", outcome(server.setsockopt, *TIMESTAMP, 1))

    def stamped() -> list[int]:
        s.send(client, WORD)
        s.arrived(server, len(WORD))
        return [item[1] for item in server.recvmsg(100, 100)[1]]

    # The kernel starts to take the time a moment after the first socket has asked for it.
    s.note("a control message comes", s.until(stamped, 0.5))


class MessageVector(ctypes.Structure):
    """struct mmsghdr with one buffer."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("length", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


class Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def several(call: str, sock: socket.socket, buffers: list[object], *rest: object) -> object:
    """Call sendmmsg() or recvmmsg(), a message for each buffer; return the lengths."""
    vectors = [Vector(ctypes.addressof(buffer), ctypes.sizeof(buffer)) for buffer in buffers]  # type: ignore[arg-type]
    messages = (MessageVector * len(vectors))()
    for message, vector in zip(messages, vectors, strict=True):
        message.vectors = ctypes.addressof(vector)
        message.vector_count = 1
    libc = ctypes.CDLL(None, use_errno=True)
    count = getattr(libc, call)(sock.fileno(), messages, len(messages), *rest)
    if count < 0:
        return errno.errorcode[ctypes.get_errno()]
    return [message.length for message in messages[:count]]


@scenario("sendmmsg() and recvmmsg()")
def many_messages(s: Stage) -> None:
    client, server = s.pair()
    texts = [ctypes.create_string_buffer(text, 5) for text in (b"first", b"secnd", b"third")]
    s.note("sendmmsg", several("sendmmsg", client, texts, 0))
    s.arrived(server, 15)
    rooms = [ctypes.create_string_buffer(6) for _ in range(4)]
    s.note("recvmmsg", several("recvmmsg", server, rooms, DONTWAIT, None))
    s.note("read", [room.raw.rstrip(b"\0") for room in rooms])


def send_repeatedly(sock: socket.socket, count: int) -> None:
    for _ in range(count):
        time.sleep(0.05)
        sock.send(b"x")


def wait_for_signals(sock: socket.socket, count: int, ready: socket.socket) -> int:
    """Return how many bytes SIGIO announced."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
    fcntl.fcntl(sock, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sock, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    ready.send(b"x")
    seen = 0
    # Several bytes may share a signal, and other signals may come: readiness is a hint.
    while seen < count and signal.sigtimedwait([signal.SIGIO], 2):
        part = outcome(sock.recv, 10)
        seen += len(part) if isinstance(part, bytes) else 0
    return seen


@scenario("O_ASYNC: SIGIO announces what arrives", modes=(NON_BLOCKING,))
def sigio(s: Stage) -> None:
    client, server = s.pair()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        waiter = s.process(wait_for_signals, server, 3, theirs)
        ours.recv(1)
    s.process(send_repeatedly, client, 3)
    s.note("announced bytes", waiter.result())
