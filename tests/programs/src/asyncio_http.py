"""As http.go and http.js, with asyncio: a server, or a client told on its standard input.

asyncio_http.py serve|client ADDRESS:PORT
"""

import asyncio
import sys

BODY = bytes(i % 251 for i in range(16384))
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
REQUEST = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n"


async def handle(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER + BODY)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def serve(host, port):
    server = await asyncio.start_server(handle, host, port)
    await server.serve_forever()


async def fetch(host, port, requests):
    reader, writer = await asyncio.open_connection(host, port)
    for _ in range(requests):
        writer.write(REQUEST)
        answer = await reader.readexactly(len(ANSWER) + len(BODY))
        if answer != ANSWER + BODY:
            raise ValueError("a wrong answer")
    writer.close()
    await writer.wait_closed()
    return requests * len(BODY)


async def client(host, port):
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        connections, requests = map(int, line.split())
        try:
            async with asyncio.timeout(120):
                each = [fetch(host, port, requests) for _ in range(connections)]
                print("ok", sum(await asyncio.gather(*each)), flush=True)
        except Exception as error:
            print("error", repr(error), flush=True)


if __name__ == "__main__":
    near, _, service = sys.argv[2].partition(":")
    asyncio.run((serve if sys.argv[1] == "serve" else client)(near, int(service)))
