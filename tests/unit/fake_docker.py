"""As much of a Docker daemon as the agent talks to, and everything that can go wrong with one."""

from __future__ import annotations

import http.server
import json
import socket
import socketserver
import threading
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class FakeDocker(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens from start() on; a context manager that ends it."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), Handler, bind_and_activate=False)
        self.path = path
        self.url = f"unix://{path}"
        self.containers: dict[str, dict[str, Any]] = {}
        self.listed_only: list[str] = []  # gone when they are asked for
        self.broken = False
        self.unreadable: set[str] = set()  # inspecting them fails, they alone
        self.hanging: set[str] = set()  # inspecting them is never answered
        self.dies_while_inspecting = False
        self.answering = threading.Event()
        self.answering.set()
        self.asked: Counter[str] = Counter()
        self._streams: list[Handler] = []
        self._changed = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.die()

    def start(self) -> Self:
        """Listen; again after die()."""
        self.path.unlink(missing_ok=True)
        self.socket.close()
        self.socket = socket.socket(socket.AF_UNIX)
        self.server_bind()
        self.server_activate()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def die(self) -> None:
        """End as a killed daemon does: all connections break, the socket stays behind."""
        self.answering.set()
        if self._thread:
            self.shutdown()
            self._thread.join()
            self._thread = None
        self.server_close()
        with self._changed:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._streams.clear()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._changed:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have gone."""

    def add(self, name: str, pid: int, mode: str = "bridge", **labels: str) -> str:
        """Run a container, without an event; return its id."""
        identifier = f"{len(self.containers):064x}"
        self.containers[identifier] = {
            "Id": identifier,
            "Name": f"/{name}",
            "State": {"Pid": pid, "Paused": False},
            "HostConfig": {"NetworkMode": mode},
            "NetworkSettings": {"Networks": {} if ":" in mode else {mode: {}}},
            "Config": {"Labels": {f"sockaccel.{key}": value for key, value in labels.items()}},
        }
        return identifier

    def remove(self, identifier: str) -> None:
        """End a container, without an event."""
        del self.containers[identifier]

    def event(self, action: str, identifier: str, name: str = "x") -> None:
        """Tell everybody who listens what happened to a container."""
        actor = {"ID": identifier, "Attributes": {"name": name}}
        self.say({"Type": "container", "Action": action, "Actor": actor, "timeNano": 1})

    def network_event(self, action: str, identifier: str) -> None:
        """Tell that a container was connected to a network, or disconnected."""
        actor = {"ID": "e" * 64, "Attributes": {"name": "net", "container": identifier}}
        self.say({"Type": "network", "Action": action, "Actor": actor, "timeNano": 1})

    def say(self, event: Mapping[str, Any]) -> None:
        """Send one line to everybody who listens, if it is of a type that they asked for."""
        with self._changed:
            asked = [stream.wanted.get("type") for stream in self._streams]
        if all(types is None or event.get("Type") in types for types in asked):
            self.send(json.dumps(event).encode() + b"\n")

    def send(self, data: bytes) -> None:
        """Send a chunk to everybody who listens."""
        self._to_streams(b"%x\r\n%b\r\n" % (len(data), data))

    def close_streams(self) -> None:
        """End the events as HTTP does."""
        self._to_streams(b"0\r\n\r\n", last=True)

    def abort_streams(self) -> None:
        """End the events without a word."""
        self._to_streams(b"", last=True)

    def cut_streams(self) -> None:
        """End the events in the middle of a chunk."""
        self._to_streams(b'400\r\n{"Type":"contai', last=True)

    def subscribed(self) -> int:
        """Return how many listen to events now."""
        with self._changed:
            return len(self._streams)

    def _to_streams(self, data: bytes, *, last: bool = False) -> None:
        with self._changed:
            for stream in self._streams:
                with suppress(OSError):
                    stream.wfile.write(data)
            if last:
                for stream in self._streams:
                    with suppress(OSError):
                        stream.connection.shutdown(socket.SHUT_RDWR)
                self._streams.clear()

    def listen(self, handler: Handler) -> None:
        """Serve a connection on which events are told, until it ends."""
        with self._changed:  # who knows that it is subscribed must not miss what is told next
            handler.end_headers()
            self._streams.append(handler)
        while handler.connection.recv(1):
            pass
        with self._changed, suppress(ValueError):
            self._streams.remove(handler)


class Handler(http.server.BaseHTTPRequestHandler):
    server: FakeDocker
    protocol_version = "HTTP/1.1"
    wanted: Mapping[str, list[str]]  # the filters of who listens to events

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        what = url.path.split("/")
        kind = {"json": what[-2], "version": "version", "_ping": "ping"}.get(what[-1], what[-1])
        self.server.asked["inspect" if len(kind) == 64 else kind] += 1
        self.server.answering.wait()
        if self.server.broken:
            self.answer(500, {"message": "boom"})
        elif kind == "version":
            self.answer(200, {"ApiVersion": "1.44", "Version": "26.0.0"})
        elif kind == "ping":
            self.answer(200, "OK")
        elif kind == "containers":
            names = [*self.server.containers, *self.server.listed_only]
            self.answer(200, [{"Id": name} for name in names])
        elif kind == "events":
            self.events(parse_qs(url.query))
        else:
            self.inspect(kind)

    def inspect(self, identifier: str) -> None:
        detail = self.server.containers.get(identifier)
        if self.server.dies_while_inspecting:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
            self.close_connection = True
        elif identifier in self.server.hanging:
            self.close_connection = True
            self.connection.recv(1)  # until the client has had enough
        elif identifier in self.server.unreadable:
            self.answer(500, {"message": "this one is broken"})
        elif detail:
            self.answer(200, detail)
        else:
            self.answer(404, {"message": "no such container"})

    def events(self, query: dict[str, list[str]]) -> None:
        assert query["since"][0].isdecimal()
        self.wanted = json.loads(query["filters"][0])
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.close_connection = True
        self.server.listen(self)

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
