from __future__ import annotations

import errno
import os
import socket
import struct
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from sockaccel.inspect import sockdiag
from sockaccel.inspect.sockdiag import ESTABLISHED, LISTEN, TcpSocket, tcp_sockets
from sockaccel.scope import netlink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Answer = Callable[..., list[bytes]]

TIME_WAIT = 6


def cookie(end: socket.socket) -> int:
    value: int = struct.unpack("=Q", end.getsockopt(socket.SOL_SOCKET, 57, 8))[0]  # SO_COOKIE
    return value


@contextmanager
def connection(
    bind: str = "127.0.0.1", connect: str | None = None
) -> Iterator[tuple[socket.socket, socket.socket, socket.socket]]:
    """Return client, server and listener of a loopback connection."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with ExitStack() as stack:
        listener = stack.enter_context(
            socket.create_server((bind, 0), family=family, dualstack_ipv6=bind == "::")
        )
        target = (connect or bind, listener.getsockname()[1])
        client = stack.enter_context(socket.create_connection(target))
        server = stack.enter_context(listener.accept()[0])
        yield client, server, listener


def by_cookie(*states: int) -> dict[int, TcpSocket]:
    return {found.cookie: found for found in tcp_sockets(states or (ESTABLISHED,))}


@pytest.mark.parametrize(
    ("bind", "connect"),
    [("127.0.0.1", None), ("::1", None), ("::", "127.0.0.1")],
    ids=["IPv4", "IPv6", "v4-mapped"],
)
def test_both_ends_are_found_as_the_sockets_describe_themselves(
    bind: str, connect: str | None
) -> None:
    with connection(bind, connect) as (client, server, _):
        found = by_cookie()
        for end in (client, server):
            entry = found[cookie(end)]
            assert entry.local == end.getsockname()[:2]
            assert entry.remote == end.getpeername()[:2]
            assert entry.family == end.family
            assert entry.inode == os.fstat(end.fileno()).st_ino
            assert entry.uid == os.getuid()
            assert entry.state == ESTABLISHED
        ends = {cookie(client), cookie(server)}
    assert not ends & set(by_cookie())


def test_only_the_wanted_states_are_listed() -> None:
    with connection() as (client, server, listener):
        listening, established, both = (
            by_cookie(LISTEN),
            by_cookie(ESTABLISHED),
            by_cookie(LISTEN, ESTABLISHED),
        )
        assert cookie(listener) in listening
        assert cookie(client) not in listening
        assert cookie(listener) not in established
        assert {cookie(client), cookie(server), cookie(listener)} <= set(both)
        assert listening[cookie(listener)].remote == ("0.0.0.0", 0)
        assert listening[cookie(listener)].state == LISTEN


def test_a_socket_that_nobody_holds_has_no_inode() -> None:
    with connection() as (client, server, _):
        port = client.getsockname()[1]
        client.close()
        server.recv(1)
        server.close()
        (closed,) = [found for found in tcp_sockets((TIME_WAIT,)) if found.local[1] == port]
    assert closed.inode == 0


def test_a_dump_of_many_messages_is_complete_and_quick() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1500))
        ends = []
        for _ in range(400):
            ends.append(stack.enter_context(socket.create_connection(listener.getsockname())))
            ends.append(stack.enter_context(listener.accept()[0]))
        start = time.perf_counter()
        found = by_cookie()
        assert time.perf_counter() - start < 0.5
        assert {cookie(end) for end in ends} <= set(found)


def test_a_kernel_that_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockdiag, "_SOCK_DIAG_BY_FAMILY", 9999)
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        tcp_sockets()


class Kernel:
    """Stands for a netlink socket; answers with what it was given."""

    def __init__(self, *datagrams: bytes) -> None:
        self.datagrams = list(datagrams)

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connect(self, _: object) -> None:
        pass

    def send(self, data: bytes) -> int:
        return len(data)

    def recv_into(self, buffer: memoryview) -> int:
        data = self.datagrams.pop(0)
        buffer[: len(data)] = data
        return len(data)


def message(kind: int, payload: bytes) -> bytes:
    length = 16 + len(payload)
    return struct.pack("=IHHII", length, kind, 2, 1, 0) + payload + b"\0" * (-length % 4)


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    def answering(*datagrams: bytes) -> list[bytes]:
        monkeypatch.setattr(socket, "socket", lambda *_: Kernel(*datagrams))
        return [bytes(payload) for payload in netlink.dump(0, 1, b"")]

    return answering


def test_records_are_cut_at_their_padding_and_joined_over_datagrams(answer: Answer) -> None:
    done = message(3, struct.pack("=i", 0))
    assert answer(message(20, b"12345") + message(20, b"6789"), message(20, b"0"), done) == [
        b"12345",
        b"6789",
        b"0",
    ]


@pytest.mark.parametrize("kind", [2, 3], ids=["error", "done with an error"])
def test_an_error_half_way_is_raised(answer: Answer, kind: int) -> None:
    with pytest.raises(PermissionError):
        answer(message(20, b"1") + message(kind, struct.pack("=i", -errno.EACCES)))


@pytest.mark.parametrize("length", [0, 15, 17, 4000])
def test_a_broken_length_is_an_error_not_a_loop(answer: Answer, length: int) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EBADMSG)):
        answer(struct.pack("=IHHII", length, 20, 2, 1, 0))
