"""Programs for containers: a server that answers what it is sent, and a client that checks it.

Both wait in epoll alone, as most servers and clients do.
"""

from __future__ import annotations

import asyncio
import sys
from random import Random

PORT = 7000
PIECE = 10_000


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionResetError:
        pass  # its container was removed
    finally:
        writer.close()


async def serve() -> None:
    async with await asyncio.start_server(answer, "0.0.0.0", PORT) as server:
        await server.serve_forever()


async def check(address: str, pieces: int) -> None:
    """Send so many pieces, and fail at the first that comes back otherwise."""
    reader, writer = await asyncio.open_connection(address, PORT)
    numbers = Random(address)
    for number in range(pieces):
        piece = numbers.randbytes(PIECE)
        writer.write(piece)
        if await reader.readexactly(PIECE) != piece:
            sys.exit(f"piece {number} came back changed")
    writer.write_eof()
    if await reader.read():
        sys.exit("more came back than was sent")
    writer.close()


if __name__ == "__main__":
    asyncio.run(serve() if sys.argv[1] == "serve" else check(sys.argv[2], int(sys.argv[3])))
