"""Byte streams."""

from __future__ import annotations

import os
import socket
import struct
import threading
from random import Random

from equivalence.stage import LIMIT_S, Stage, outcome
from equivalence.table import BLOCKING, EVERY_FAMILY, IPV4, scenario

MIB = 1 << 20


def pattern(size: int, seed: int = 7) -> bytes:
    """Return bytes that repeat after a prime number only, so that no piece fits elsewhere."""
    block = Random(seed).randbytes(min(size, 1_000_003))
    return (block * (size // len(block) + 1))[:size] if size else b""


def transfer(s: Stage, sender: socket.socket, receiver: socket.socket, data: bytes) -> str:
    """Send while another thread reads; return whether all arrived."""
    reader = s.thread(s.read, receiver, len(data))
    sent = s.write(sender, data)
    got = reader.result()
    if got == data and sent == len(data):
        return "whole"
    return f"sent {sent}, got {len(got) if isinstance(got, bytes) else got[1]}"


@scenario("Messages to and fro", rows="6", families=EVERY_FAMILY)
def messages(s: Stage) -> None:
    client, server = s.connect()
    for number in range(23):
        for sender, receiver in ((client, server), (server, client)):
            word = b"message %d" % number
            assert s.send(sender, word) == len(word)
            got = s.read(receiver, len(word))
            if got != word:
                s.note(f"message {number}", got)
    s.note("nothing is left", s.recv(server, 1, within=0.1))


@scenario("Single writes of 1 byte to 1 MB arrive whole")
def sizes(s: Stage) -> None:
    client, server = s.pair()
    for size in (1, 2, 1023, 1024, 1025, 4096, 65_535, 65_536, 65_537, 300_000, MIB):
        s.note(f"{size} bytes", transfer(s, client, server, pattern(size)))
        s.note(f"{size} bytes back", transfer(s, server, client, pattern(size)))


@scenario("A single write of 64 MB arrives whole", families=IPV4)
def huge(s: Stage) -> None:
    client, server = s.pair()
    s.note("64 MB", transfer(s, client, server, pattern(64 * MIB)))


@scenario("Both directions at once on one connection", rows="2 2b 3", families=IPV4)
def both_directions(s: Stage) -> None:
    client, server = s.pair()
    data = {client: pattern(8 * MIB, 1), server: pattern(8 * MIB, 2)}

    def read(sock: socket.socket, want: bytes) -> str:
        # A read that wakes too early is a behaviour of its own ("Blocking calls").
        got = bytearray()
        while len(got) < len(want):
            part = s.recv(sock, 1 << 18)
            if part == "EAGAIN":
                continue
            if isinstance(part, str) or not part:
                return f"{part!r} after {len(got)} bytes"
            got += part
        return "whole" if got == want else "not what was sent"

    readers = [s.thread(read, client, data[server]), s.thread(read, server, data[client])]
    writers = [s.thread(s.write, sock, data[sock]) for sock in (client, server)]
    s.note("sent", [writer.result() for writer in writers])
    s.note("arrived", [reader.result() for reader in readers])


@scenario("sendmsg() of 1024 pieces, recvmsg() into 1024 pieces")
def pieces(s: Stage) -> None:
    client, server = s.pair()
    parts = [bytes([number % 251]) * (1 + number % 7) for number in range(1024)]
    total = sum(map(len, parts))
    s.note("sendmsg", outcome(client.sendmsg, parts))
    s.note("all is there", s.arrived(server, total))
    buffers = [bytearray(1 + number % 5) for number in range(1024)]
    room = sum(map(len, buffers))
    s.note("recvmsg", outcome(server.recvmsg_into, buffers)[0])
    s.note("first pieces", b"".join(map(bytes, buffers)) == b"".join(parts)[:room])
    s.note("the rest", s.read(server, total - room) == b"".join(parts)[room:])
    s.note("1025 pieces", outcome(client.sendmsg, [b"x"] * 1025))


@scenario("read(), write(), readv() and writev()")
def plain_calls(s: Stage) -> None:
    client, server = s.pair()
    s.note("write", outcome(os.write, client.fileno(), b"written"))
    s.note("writev", outcome(os.writev, client.fileno(), [b" in", b" pieces"]))
    s.note("all is there", s.arrived(server, 17))
    s.note("read", outcome(os.read, server.fileno(), 9))
    buffers = [bytearray(2), bytearray(20)]
    s.note("readv", outcome(os.readv, server.fileno(), buffers))
    s.note("pieces", [bytes(buffers[0]), bytes(buffers[1][:6])])


@scenario("Calls with a length of 0")
def empty(s: Stage) -> None:
    client, server = s.pair()
    s.note("send", outcome(client.send, b""))
    s.note("nothing arrives", s.events(server, within=0.05))
    s.note("recv of 0, nothing there", outcome(server.recv, 0, socket.MSG_DONTWAIT))
    client.send(b"word")
    s.note("it is there", s.arrived(server, 4))
    s.note("recv of 0", outcome(server.recv, 0, socket.MSG_DONTWAIT))
    s.note("recv", s.recv(server, 100))


@scenario("Many small writes, read at once and read in small steps")
def small_writes(s: Stage) -> None:
    client, server = s.pair()
    data = pattern(3000)
    for offset in range(0, 3000, 3):
        assert s.send(client, data[offset : offset + 3]) == 3
    s.note("all is there", s.arrived(server, 1500))
    s.note("one large read", s.read(server, 1500) == data[:1500])
    s.note("small reads", s.read(server, 1500, chunk=7) == data[1500:])


@scenario("The order survives a reader that falls behind and catches up", rows="2 3 22")
def changing_paths(s: Stage) -> None:
    client, server = s.pair()
    data = pattern(6 * MIB)
    written = read = 0
    good = True
    while read < len(data):
        for size in (5, 70_000, 1024, 333, 300_000):
            taken = outcome(client.send, data[written : written + size], socket.MSG_DONTWAIT)
            written += taken if isinstance(taken, int) else 0
        for size in (10, 40_000, 1, 150_000):
            part = s.recv(server, size) if read < written else b""
            good = good and data[read : read + len(part)] == part
            read += len(part)
            if not good:
                s.note("wrong at", read)
                return
    s.note("in order", good)


def record(thread: int, number: int, size: int) -> bytes:
    return struct.pack("=II", thread, number) + bytes([thread * 16 + number % 16]) * (size - 8)


@scenario(
    "Records of four threads that write to one socket stay whole and in turn",
    rows="2",
    modes=(BLOCKING,),
    families=IPV4,
)
def several_writers(s: Stage) -> None:
    # What all write together has room in the buffers: a send() that must wait is cut by TCP, too.
    client, server = s.pair()
    size, count, rounds, threads = 3000, 6, 40, 4
    turn = threading.Barrier(threads + 1)

    def work(thread: int) -> str:
        for number in range(rounds * count):
            if number % count == 0:
                turn.wait(LIMIT_S)
            if (sent := outcome(client.send, record(thread, number, size))) != size:
                return f"{sent} at {number}"
        return "all"

    writers = [s.thread(work, thread) for thread in range(threads)]
    seen = [0] * threads
    for _ in range(rounds):
        turn.wait(LIMIT_S)
        for _ in range(threads * count):
            got = s.read(server, size)
            thread = got[0] if isinstance(got, bytes) else threads
            if thread >= threads or got != record(thread, seen[thread], size):
                s.note("instead of a record in turn", got)
                turn.abort()
                return
            seen[thread] += 1
    s.note("written", [writer.result() for writer in writers])
    s.note("read in turn", seen)


@scenario("Three threads that read from one socket get every byte once", families=IPV4)
def several_readers(s: Stage) -> None:
    client, server = s.pair()
    total, parts, lock = 3 * MIB, [0] * 256, threading.Lock()
    got = 0

    def read() -> str:
        nonlocal got
        while True:
            part = s.recv(server, 8192)
            if part == "EAGAIN":
                continue
            if isinstance(part, str) or not part:
                return part or "EOF"
            with lock:
                got += len(part)
                for value in set(part):
                    parts[value] += part.count(value)

    readers = [s.thread(read) for _ in range(3)]
    data = b"".join(bytes([n % 4]) * 1024 for n in range(total // 1024))
    s.note("written", s.write(client, data))
    client.shutdown(socket.SHUT_WR)
    s.note("readers end with", [reader.result() for reader in readers])
    s.note("bytes", got)
    s.note("of each kind", parts[:4])
