"""Ways around the copy: sendfile, splice, MSG_ZEROCOPY and io_uring."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import select
import socket
import tempfile
from typing import TYPE_CHECKING

from equivalence import uring
from equivalence.stage import LIMIT_S, NEVER_S, TIMED_OUT, Stage, outcome
from equivalence.table import IPV4, NON_BLOCKING, Known, scenario

from .endings import RESET
from .stream import pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x4000000
SPLICE_F_NONBLOCK, SPLICE_F_MORE = 2, 4
MIB = 1 << 20
SPLICE = "splice() from a socket in a sockmap sees no bytes"

_libc = ctypes.CDLL(None, use_errno=True)


def splice(source: int, target: int, count: int, flags: int = 0) -> int | str:
    result = _libc.splice(source, None, target, None, ctypes.c_size_t(count), flags)
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]


@contextlib.contextmanager
def pipe(size: int = MIB) -> Iterator[tuple[int, int]]:
    """Return both ends of a pipe with room for ``size`` bytes."""
    reader, writer = os.pipe()
    try:
        _libc.fcntl(writer, 1031, size)  # F_SETPIPE_SZ
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


@scenario("sendfile() delivers the file, from offset and in parts")
def sendfile(s: Stage) -> None:
    client, server = s.pair()
    data = pattern(3 * MIB + 1)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        reader = s.thread(s.read, server, len(data))
        offset = 0
        while offset < len(data):
            sent = s.call(
                client,
                select.POLLOUT,
                lambda: os.sendfile(client.fileno(), file.fileno(), offset, 500_001),  # noqa: B023
            )
            if isinstance(sent, str):
                s.note("sendfile", sent)
                break
            offset += sent
        s.note("arrived", reader.result() == data)
        s.note("past the end", outcome(os.sendfile, client.fileno(), file.fileno(), offset, 10))


@scenario("splice() from a pipe into a socket")
def splice_in(s: Stage) -> None:
    client, server = s.pair()
    data = pattern(MIB)
    with pipe() as (reader, writer):
        for start in range(0, MIB, 65_536):
            os.write(writer, data[start : start + 65_536])
            flags = SPLICE_F_MORE if start % 131_072 == 0 else 0
            left = 65_536
            while left:
                moved = splice(reader, client.fileno(), left, flags)
                if isinstance(moved, str):
                    s.note("splice", [start, moved])
                    return
                left -= moved
            got = s.read(server, 65_536)
            if got != data[start : start + 65_536]:
                s.note(f"wrong at {start}", got)
                return
    s.note("arrived", True)


@scenario(
    "splice() from a socket into a pipe",
    rows="9",
    known=Known(
        "9",
        SPLICE,
        {"splice": "EAGAIN", "piped": "nothing", "still in the socket": "moved by splice"},
    ),
)
def splice_out(s: Stage) -> None:
    client, server = s.pair()
    s.send(client, b"moved by splice")
    s.arrived(server, 15)
    with pipe() as (reader, writer):
        # A splice() that sees nothing waits for as long as it may.
        s.ready(server, NEVER_S)
        moved = splice(server.fileno(), writer, 100, SPLICE_F_NONBLOCK)
        s.note("splice", moved)
        s.note("piped", os.read(reader, 100) if isinstance(moved, int) else "nothing")
    s.note("still in the socket", outcome(server.recv, 100, socket.MSG_DONTWAIT))


@scenario(
    "A proxy that splices, as io.Copy of Go does, moves a request and its answer",
    rows="9",
    modes=(NON_BLOCKING,),
    families=IPV4,
    known=Known("9", SPLICE, {"request": ["", TIMED_OUT], "answer": ["", TIMED_OUT]}),
)
def splicing_proxy(s: Stage) -> None:
    client, front = s.pair()
    back, server = s.pair()

    def move(source: socket.socket, target: socket.socket, count: int) -> None:
        with pipe() as (reader, writer):
            while count:
                if s.events(source, within=0.5) == "none":
                    return
                moved = splice(source.fileno(), writer, 65_536, SPLICE_F_NONBLOCK)
                if moved == "EAGAIN":
                    return  # readable, and yet nothing: it would turn for ever
                assert isinstance(moved, int)
                count -= moved
                while moved:
                    moved -= splice(reader, target.fileno(), moved)  # type: ignore[operator]

    s.send(client, b"request")
    move(front, back, 7)
    s.note("request", s.read(server, 7, within=NEVER_S))
    s.send(server, b"the answer")
    move(back, front, 10)
    s.note("answer", s.read(client, 10, within=NEVER_S))


@scenario("tee() and splice(): a pipe into two sockets", families=IPV4)
def tee(s: Stage) -> None:
    client, server = s.pair()
    other, other_server = s.pair()
    with pipe() as (reader, writer), pipe() as (second_reader, second_writer):
        os.write(writer, b"to both")
        s.note("tee", _libc.tee(reader, second_writer, 100, 0))
        s.note("first", splice(reader, client.fileno(), 100))
        s.note("second", splice(second_reader, other.fileno(), 100))
    s.note("arrived", [s.read(server, 7), s.read(other_server, 7)])


# Never redirected; but sk_msg's own send() is what the socket has.
NUMBERED_BY_PIECES = "the kernel hands the message to TCP in pieces, and numbers those"


def completion(s: Stage, sock: socket.socket) -> object:
    """Return the range of sends that the error queue says are complete."""
    if "ERR" not in s.events(sock, 0, 2 * NEVER_S):
        return "none"
    answer = outcome(sock.recvmsg, 100, 200, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
    if isinstance(answer, str):
        return answer
    extended = answer[1][0][2]  # struct sock_extended_err
    return [int.from_bytes(extended[at : at + 4], "little") for at in (8, 12)]


@scenario(
    "MSG_ZEROCOPY: the bytes arrive and the completion comes",
    rows="13",
    known=Known("13", NUMBERED_BY_PIECES, {"completion": [0, 1]}),
)
def zerocopy(s: Stage) -> None:
    client, server = s.pair()
    s.note("set", outcome(client.setsockopt, socket.SOL_SOCKET, SO_ZEROCOPY, 1))
    data = pattern(50_000)
    s.note("sent", s.send(client, data, MSG_ZEROCOPY))
    s.note("arrived", s.read(server, len(data)) == data)
    s.note("completion", completion(s, client))
    s.talk(client, server)


def with_ring(function: Callable[[Stage, uring.Ring], None]) -> Callable[[Stage], None]:
    """Call a scenario with a ring, in a thread that ends with it.

    The kernel finishes the work of a ring in the thread that made it, as by a
    signal, which would disturb the scenarios that follow (row 10).
    """

    def work(s: Stage) -> None:
        with uring.Ring() as io:
            function(s, io)

    @functools.wraps(function)
    def run(s: Stage) -> None:
        s.thread(work, s).result()

    return run


def named(answer: tuple[int, int] | None) -> int | str:
    if answer is None:
        return TIMED_OUT
    return answer[0] if answer[0] >= 0 else errno.errorcode[-answer[0]]


@scenario("io_uring: SEND and RECV")
@with_ring
def uring_send_recv(s: Stage, io: uring.Ring) -> None:
    client, server = s.pair()
    room = ctypes.create_string_buffer(100)
    for number in range(5):
        word = b"by io_uring %d" % number
        text = ctypes.create_string_buffer(word)
        io.submit(uring.SEND, client.fileno(), ctypes.addressof(text), len(word))
        s.note(f"send {number}", named(io.wait(LIMIT_S)))
        io.submit(uring.RECV, server.fileno(), ctypes.addressof(room), 100)
        s.note(f"recv {number}", named(io.wait(LIMIT_S)))
        s.note(f"bytes {number}", room.raw[: len(word)])


@scenario("io_uring: READ and WRITE", families=IPV4)
@with_ring
def uring_read_write(s: Stage, io: uring.Ring) -> None:
    client, server = s.pair()
    text, room = ctypes.create_string_buffer(b"written"), ctypes.create_string_buffer(100)
    io.submit(uring.WRITE, client.fileno(), ctypes.addressof(text), 7)
    s.note("write", named(io.wait(LIMIT_S)))
    io.submit(uring.READ, server.fileno(), ctypes.addressof(room), 100)
    s.note("read", named(io.wait(LIMIT_S)))
    s.note("bytes", room.raw[:7])


@scenario("io_uring: a RECV that waits ends when data arrives", rows="10")
@with_ring
def uring_waits(s: Stage, io: uring.Ring) -> None:
    client, server = s.pair()
    room = ctypes.create_string_buffer(100)
    io.submit(uring.RECV, server.fileno(), ctypes.addressof(room), 100)
    s.note("before", named(io.wait(0.1)))
    s.send(client, b"data")
    s.note("after", named(io.wait(LIMIT_S)) if s.notes["before"] == TIMED_OUT else "too late")


@scenario("io_uring: a RECV that waits ends when the peer resets", rows="10", families=IPV4)
@with_ring
def uring_reset(s: Stage, io: uring.Ring) -> None:
    client, server = s.pair()
    room = ctypes.create_string_buffer(100)
    io.submit(uring.RECV, server.fileno(), ctypes.addressof(room), 100)
    s.note("before", named(io.wait(0.1)))
    client.setsockopt(*RESET)
    s.lab.close_one(client)
    s.note("after", named(io.wait(LIMIT_S)) if s.notes["before"] == TIMED_OUT else "too late")


@scenario("io_uring: POLL_ADD announces data", families=IPV4)
@with_ring
def uring_poll(s: Stage, io: uring.Ring) -> None:
    client, server = s.pair()
    io.submit(uring.POLL_ADD, server.fileno(), 0, 0, select.POLLIN)
    s.note("before", named(io.wait(0.05)))
    s.send(client, b"data")
    s.note("after", named(io.wait(LIMIT_S)))


@scenario(
    "io_uring: SEND_ZC",
    rows="13",
    families=IPV4,
    known=Known(
        "13",
        "the kernel takes SOCK_SUPPORT_ZC from a connected socket that enters a sockmap",
        {"client sends": "ENOTSUP", "client's peer reads": "EAGAIN"},
    ),
)
@with_ring
def uring_zero_copy(s: Stage, io: uring.Ring) -> None:
    client, server = s.pair()
    for who, sender, receiver in (("client", client, server), ("server", server, client)):
        text = ctypes.create_string_buffer(b"without a copy")
        io.submit(uring.SEND_ZC, sender.fileno(), ctypes.addressof(text), 14)
        s.note(f"{who} sends", named(io.wait(LIMIT_S)))
        s.events(receiver, within=NEVER_S)
        s.note(f"{who}'s peer reads", outcome(receiver.recv, 100, socket.MSG_DONTWAIT))
        answer = io.wait(NEVER_S)
        s.note(f"{who} is notified", bool(answer and answer[1] & uring.CQE_NOTIFICATION))
