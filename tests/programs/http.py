"""HTTP/1 by hand, both ends: every byte of every body is checked where it arrives.

Bodies are pieces of one endless stream (kernel.harness.Stream), so that a wrong byte also
tells where the byte that stands there belongs: lost, repeated, out of order, or foreign.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import struct
from typing import TYPE_CHECKING

from kernel.harness import Stream

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Iterator

STREAM = Stream(1)
KIB = 1 << 10
CHUNKS = (1, 17, 1000, 16 * KIB, 100_003)  # sizes of chunks and of pieces, in turn
WEBSOCKET_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def pieces(total: int, sizes: tuple[int, ...] = CHUNKS) -> Iterator[bytes]:
    """Return the first ``total`` bytes of the stream in pieces of these sizes."""
    stream, sent, turn = STREAM, 0, 0
    while sent < total:
        data = stream.at(sent, min(sizes[turn % len(sizes)], total - sent))
        yield data
        sent += len(data)
        turn += 1


class Checked:
    """Takes a body piece by piece and fails at its first wrong byte."""

    def __init__(self) -> None:
        self.length = 0

    def take(self, data: bytes) -> None:
        STREAM.check(self.length, data)
        self.length += len(data)


# --- The server -----------------------------------------------------------------------------


async def _body(reader: asyncio.StreamReader, fields: dict[str, str]) -> AsyncIterator[bytes]:
    """Return the pieces of a request's body."""
    if fields.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return
    left = int(fields.get("content-length", "0"))
    while left:
        data = await reader.read(min(left, 256 * KIB))
        if not data:
            raise ConnectionError("the body ends too early")
        left -= len(data)
        yield data


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, body: object
) -> bool:
    """Answer one request; return whether the connection stays open."""
    _, kind, *rest = path.split("/")
    total = int(rest[0]) if rest else 0
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
    if method == "POST":
        text = json.dumps(body).encode()
        writer.write(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
    elif kind in ("bytes", "static"):
        writer.write(f"{head}Content-Length: {total}\r\n\r\n".encode())
        for data in pieces(total, (64 * KIB,)):
            writer.write(data)
            await writer.drain()
    elif kind == "chunked":
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for data in pieces(total):
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    else:  # until the end of the connection
        writer.write(f"{head}Connection: close\r\n\r\n".encode())
        for data in pieces(total):
            writer.write(data)
            await writer.drain()
    await writer.drain()
    return method == "POST" or kind in ("bytes", "static", "chunked")


async def _handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        stays = True
        while stays and (line := await reader.readline()):
            method, path, version = line.decode().split()
            fields = {}
            while (line := await reader.readline()).strip():
                name, _, value = line.decode().strip().partition(":")
                fields[name.lower()] = value.strip()
            if "upgrade" in fields:
                await _websocket_server(reader, writer, fields["sec-websocket-key"])
                break
            # Read to its end even when a byte is wrong: the answer tells.
            check, wrong, length = Checked(), None, 0
            async for data in _body(reader, fields):
                length += len(data)
                if wrong is None:
                    try:
                        check.take(data)
                    except AssertionError as error:
                        wrong = str(error)
            stays = await _answer(reader, writer, method, path, {"length": length, "wrong": wrong})
            stays &= version == "HTTP/1.1" and fields.get("connection") != "close"
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # clients that go away are part of the game
    finally:
        writer.close()


def serve(listener: socket.socket) -> None:
    """Serve for ever on a listening socket."""

    async def main() -> None:
        listener.setblocking(False)
        server = await asyncio.start_server(_handle, sock=listener, limit=1 << 20)
        await server.serve_forever()

    asyncio.run(main())


# --- WebSocket (RFC 6455), frames of one piece ---------------------------------------------


def frame(data: bytes, mask: bytes = b"") -> bytes:
    """Return a binary frame; with a mask, as a client sends it."""
    flag, size = (0x80 if mask else 0), len(data)
    if size < 126:
        head = bytes((0x82, flag | size))
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x82, flag | 126, size)
    else:
        head = struct.pack("!BBQ", 0x82, flag | 127, size)
    return head + mask + (masked(data, mask) if mask else data)


def masked(data: bytes, mask: bytes) -> bytes:
    """Mask a payload, or take its mask off."""
    pad = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(pad, "big")).to_bytes(len(data), "big")


async def _websocket_server(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str
) -> None:
    """Echo binary frames until the client goes."""
    accept = base64.b64encode(hashlib.sha1(key.encode() + WEBSOCKET_MAGIC).digest()).decode()
    writer.write(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )
    while True:
        _, second = await reader.readexactly(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await reader.readexactly(8))
        mask = await reader.readexactly(4)
        writer.write(frame(masked(await reader.readexactly(size), mask)))
        await writer.drain()


# --- The client -----------------------------------------------------------------------------


class Client:
    """One connection of a client that checks what it gets. Times out, never hangs."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    def _more(self) -> None:
        data = self.sock.recv(256 * KIB)
        if not data:
            raise EOFError("the connection ended too early")
        self._buffer += data

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def request(self, method: str, path: str, *fields: str, version: str = "1.1") -> None:
        """Send the head of a request."""
        lines = [f"{method} {path} HTTP/{version}", "Host: lab", *fields, "", ""]
        self.sock.sendall("\r\n".join(lines).encode())

    def head(self, status: str = "200") -> dict[str, str]:
        """Return the fields of the answer."""
        first = self._line().decode()
        fields = {}
        while line := self._line():
            name, _, value = line.decode().partition(":")
            fields[name.lower()] = value.strip()
        if first.split()[1] != status:
            raise AssertionError(f"answer: {first}")
        return fields

    def body(self, fields: dict[str, str], *, between: Callable[[int], None] | None = None) -> int:
        """Check the body of an answer; return its length. ``between`` may take its time."""
        checked = Checked()

        def take(data: bytes) -> None:
            checked.take(data)
            if between:
                between(checked.length)

        if fields.get("transfer-encoding") == "chunked":
            while size := int(self._line(), 16):
                take(self._take(size))
                self._take(2)
            self._take(2)
            return checked.length
        if "content-length" in fields:
            left = int(fields["content-length"])
            while left:
                if not self._buffer:
                    self._more()
                data = self._take(min(left, len(self._buffer)))
                left -= len(data)
                take(data)
            return checked.length
        while True:
            take(self._take(len(self._buffer)))
            try:
                self._more()
            except EOFError:
                return checked.length

    def get(self, path: str, total: int, **options: str) -> None:
        """Fetch a body and check that it is whole."""
        self.request("GET", path, **options)
        got = self.body(self.head())
        if got != total:
            raise AssertionError(f"{got} of {total} bytes, the rest is missing")

    def confirm_upload(self, total: int) -> None:
        """Check that the server got an upload whole."""
        fields = self.head()
        said = json.loads(self._take(int(fields["content-length"])))
        if said != {"length": total, "wrong": None}:
            raise AssertionError(f"upload of {total} bytes: the server got {said}")

    def upgrade(self) -> None:
        """Become a WebSocket."""
        key = base64.b64encode(os.urandom(16)).decode()
        self.request(
            "GET", "/websocket", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}",
        )  # fmt: skip
        self.head("101")

    def receive_frame(self) -> bytes:
        """Return the payload of the next frame."""
        _, size = self._take(2)
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
        return self._take(size)
