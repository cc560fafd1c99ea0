"""What a scenario acts on: connected sockets, calls that cannot hang, and its notes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import select
import socket
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel.harness import IPV4_B, IPV6_B

from sockaccel.datapath import libbpf
from sockaccel.datapath.state import Datapath

from .counting import counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kernel.harness import Host, Lab, Task

    from sockaccel.inspect.status import Counters

    from .table import Variant

LIMIT_S = 4.0
"""After which a call that should have ended is a stall, and an observation."""
NEVER_S = 0.25
"""For which a call that should not end is watched."""
TICKS_S = 0.02
"""By which the kernel may round a timeout down, at 100 ticks a second."""
TIMED_OUT = "timed out"
WARM_UP = b"warm-up"

TARGETS = {  # family: address to listen on, address to connect to
    "IPv4": (IPV4_B, IPV4_B),
    "IPv6": (IPV6_B, IPV6_B),
    "v4-mapped": ("0.0.0.0", f"::ffff:{IPV4_B}"),
    "dual-stack": ("::", IPV4_B),
    "loopback IPv4": ("127.0.0.1", "127.0.0.1"),
    "loopback IPv6": ("::1", "::1"),
}


def errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno, str(error.errno)) if error.errno else TIMED_OUT


def outcome(call: Callable[..., Any], *args: Any) -> Any:
    """Return what a call returns, or the name of its error."""
    try:
        return call(*args)
    except OSError as error:
        return errno_name(error)


def shown(value: Any) -> Any:
    """Return a value as plain data: short bytes as text, long ones by length and digest."""
    if isinstance(value, bytes | bytearray):
        if len(value) <= 40:
            return value.decode("latin-1")
        return f"{len(value)} bytes {hashlib.sha256(value).hexdigest()[:8]}"
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    return value


def about(seconds: float, expected: float) -> str:
    """Return a duration, coarsely enough for a machine that is busy with other things."""
    if seconds < expected / 2:
        return "at once"
    return f"after about {expected:g} s" if seconds < 4 * expected + 1 else "far too late"


def timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("ll", whole, int((seconds - whole) * 1e6))


def milliseconds(seconds: float) -> int:
    return max(0, int(seconds * 1000))


FUTEX = {"x86_64": "202", "aarch64": "98"}[os.uname().machine]


def asleep(task: str) -> bool:
    """Return whether a task, named as under /proc, waits in a system call."""
    call = Path("/proc", task, "syscall").read_text().split()[0]
    return call not in ("running", FUTEX)


class Background(threading.Thread):
    """A function running in another thread, and its result."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._function = function
        self._args = args
        self._value: Any = None
        self._error: BaseException | None = None
        self.took = 0.0
        self.start()

    def run(self) -> None:
        start = time.monotonic()
        try:
            self._value = self._function(*self._args)
        except BaseException as error:
            self._error = error
        self.took = time.monotonic() - start

    def result(self, timeout: float = 30) -> Any:
        self.join(timeout)
        assert not self.is_alive(), f"{self._function} did not end within {timeout} s"
        if self._error:
            raise self._error
        return self._value


class Stage:
    """One run of one scenario."""

    def __init__(self, lab: Lab, variant: Variant) -> None:
        self.lab = lab
        self.variant = variant
        self.blocking = variant.mode == "blocking"
        self.notes: dict[str, Any] = {}
        self.final: Counters | None = None
        """Set by a scenario after which there is nothing left to count."""
        self._tasks: list[Task] = []
        self._threads: list[Background] = []
        self._clean_ups = contextlib.ExitStack()
        self.left, self.right, self.other_left, self.other_right = lab.hosts[:4]
        self.client_host = self.left
        self.server_host = self.left if "loopback" in variant.family else self.right
        self.address, self.target = TARGETS[variant.family]

    # Notes

    def note(self, name: str, value: Any) -> Any:
        """Record an observation; return it as it was given."""
        assert name not in self.notes, f"{name!r} is noted twice"
        self.notes[name] = shown(value)
        return value

    # Connections

    def listen(self, *options: tuple[int, int, int], host: Host | None = None) -> socket.socket:
        return (host or self.server_host).listen(self.address, options=list(options))

    def ready(self, sock: socket.socket, limit: float | None = LIMIT_S) -> socket.socket:
        """Make a socket blocking or not, as the variant says.

        A blocking one keeps a limit in the kernel (SO_RCVTIMEO, SO_SNDTIMEO), so
        that a stall ends; None takes it away.
        """
        sock.settimeout(None if self.blocking else 0)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, timeval(limit or 0))
        return sock

    def connect(
        self,
        listener: socket.socket | None = None,
        *options: tuple[int, int, int],
        source: tuple[str, int] | None = None,
    ) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a new connection over which nothing has been sent."""
        listener = listener or self.listen()
        to = (self.target, listener.getsockname()[1])
        ends = self.lab.connect(
            self.client_host, listener, to, options=list(options), source=source
        )
        client, server = (self.ready(sock) for sock in ends)
        return client, server

    def accept(self, listener: socket.socket) -> socket.socket:
        return self.ready(self.lab.accept(listener))

    def pair(
        self, listener: socket.socket | None = None, *options: tuple[int, int, int]
    ) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a connection over which both have sent.

        Without Nagle's algorithm: what a second write must wait for is timing.
        """
        client, server = self.connect(listener, *options)
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.talk(client, server)
        return client, server

    def talk(self, client: socket.socket, server: socket.socket, word: bytes = WARM_UP) -> None:
        """Send a word to and fro; fail unless it arrives."""
        for sender, receiver in ((client, server), (server, client)):
            assert self.send(sender, word) == len(word)
            got = self.read(receiver, len(word))
            assert got == word, f"{word!r} was sent, {got!r} arrived"

    def unconnected(self) -> socket.socket:
        """Return a socket of the client's that is not connected; its connect() may wait."""
        return self.client_host.socket(socket.AF_INET6 if ":" in self.target else socket.AF_INET)

    def destination(self, listener: socket.socket) -> tuple[str, int]:
        """Return the address under which clients reach this listener."""
        return self.target, listener.getsockname()[1]

    # Calls that end

    def call(
        self, sock: socket.socket, event: int, call: Callable[[], Any], within: float = LIMIT_S
    ) -> Any:
        """Make a call that may wait; return its value, its error or that it timed out."""
        if self.blocking:
            option = socket.SO_RCVTIMEO if event == select.POLLIN else socket.SO_SNDTIMEO
            sock.setsockopt(socket.SOL_SOCKET, option, timeval(within))
            start = time.monotonic()
            result = outcome(call)
            if result == "EAGAIN" and time.monotonic() - start > 0.9 * within - TICKS_S:
                return TIMED_OUT
            return result
        deadline = time.monotonic() + within
        while True:
            if self.events(sock, event, deadline - time.monotonic()) == "none":
                return TIMED_OUT
            # Readiness is a hint: a caller that finds nothing asks again.
            if (result := outcome(call)) != "EAGAIN" or time.monotonic() > deadline:
                return result

    def recv(
        self, sock: socket.socket, count: int, flags: int = 0, *, within: float = LIMIT_S
    ) -> Any:
        """Return what one recv() brings, once there is something."""
        return self.call(sock, select.POLLIN, lambda: sock.recv(count, flags), within)

    def send(
        self, sock: socket.socket, data: bytes, flags: int = 0, *, within: float = LIMIT_S
    ) -> Any:
        """Return what one send() takes, once there is room."""
        return self.call(sock, select.POLLOUT, lambda: sock.send(data, flags), within)

    def read(
        self, sock: socket.socket, count: int, *, chunk: int = 1 << 18, within: float = LIMIT_S
    ) -> Any:
        """Return ``count`` bytes, or what came and what came instead of the rest."""
        data = bytearray()
        while len(data) < count:
            part = self.recv(sock, min(count - len(data), chunk), within=within)
            if isinstance(part, str) or not part:
                return [bytes(data), part if isinstance(part, str) else "EOF"]
            data += part
        return bytes(data)

    def read_to_end(self, sock: socket.socket) -> list[Any]:
        """Return all bytes that come, and what came after the last."""
        data = bytearray()
        while True:
            part = self.recv(sock, 1 << 18)
            if isinstance(part, str):
                return [bytes(data), part]
            if not part:
                return [bytes(data), "EOF"]
            data += part

    def write(self, sock: socket.socket, data: bytes, *, within: float = LIMIT_S) -> Any:
        """Send all; return how much, or how much and the error."""
        view, sent = memoryview(data), 0
        while sent < len(data):
            taken = self.send(sock, view[sent:], within=within)  # type: ignore[arg-type]
            if isinstance(taken, str):
                return [sent, taken]
            sent += taken
        return sent

    def fill(self, sock: socket.socket, size: int = 16_384) -> tuple[int, str]:
        """Write without waiting until no more is taken for 0.1 s; return bytes and error."""
        data, sent, refused = bytes(size), 0, 0.0
        while True:
            taken = outcome(sock.send, data, socket.MSG_DONTWAIT)
            if isinstance(taken, int):
                sent += taken
                refused = 0.0
            elif taken != "EAGAIN" or (refused and time.monotonic() - refused > 0.1):
                return sent, taken
            else:
                refused = refused or time.monotonic()
                time.sleep(0.005)

    def events(
        self, sock: socket.socket, mask: int = select.POLLIN, within: float = LIMIT_S
    ) -> str:
        """Return the names of the events that poll() reports."""
        poll = select.poll()
        poll.register(sock, mask)
        return poll_names(poll.poll(milliseconds(within)))

    def until(self, condition: Callable[[], Any], within: float = LIMIT_S) -> bool:
        """Wait until the condition holds; return whether it did."""
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def arrived(self, sock: socket.socket, count: int) -> bool:
        """Wait until that many bytes can be read, by a peek that changes nothing."""
        return self.until(
            lambda: len(outcome(sock.recv, count, socket.MSG_PEEK | socket.MSG_DONTWAIT)) >= count
        )

    # Acceleration itself, in a laboratory of the scenario's own

    def switch_off(self) -> None:
        """Run `sockaccel disable` where it was enabled."""
        if self.lab.accelerated:
            self.final = counters(self.lab)
            self.lab.disable()

    def out_of_scope(self) -> None:
        """Take every namespace out of scope, as `enable` does with those that are gone."""
        if not self.lab.accelerated:
            return
        self.final = counters(self.lab)
        with Datapath(self.lab.pin_dir) as datapath:
            for cookie in datapath.namespaces():
                libbpf.delete(datapath.fd("scope"), cookie.to_bytes(8, "little"))
            config = datapath.config
            config.scope_epoch += 1
            datapath.config = config

    # Others at work

    def thread(self, function: Callable[..., Any], *args: Any) -> Background:
        self._threads.append(Background(function, *args))
        return self._threads[-1]

    def process(self, function: Callable[..., Any], *args: Any) -> Task:
        """Run a function on existing sockets in a child process."""
        self._tasks.append(self.lab.spawn(function, *args))
        return self._tasks[-1]

    @contextlib.contextmanager
    def asleep_in_call(self, thread: Background) -> Iterator[None]:
        """Wait until a thread sleeps in the kernel, other than for Python's own lock."""
        assert self.until(lambda: asleep(f"self/task/{thread.native_id}")), "it does not wait"
        time.sleep(0.02)
        assert thread.is_alive(), "the call ended before anything happened"
        yield

    # The end

    def on_end(self, call: Callable[[], Any]) -> None:
        """Undo something when the run is over."""
        self._clean_ups.callback(call)

    def close(self) -> None:
        for task in self._tasks:
            task.kill()
        self._clean_ups.close()
        self.lab.close_sockets()
        for thread in self._threads:
            thread.join(2 * LIMIT_S)


_EVENTS = {
    select.POLLIN: "IN",
    select.POLLPRI: "PRI",
    select.POLLOUT: "OUT",
    select.POLLRDHUP: "RDHUP",
    select.POLLERR: "ERR",
    select.POLLHUP: "HUP",
    select.POLLNVAL: "NVAL",
}


def poll_names(answer: list[tuple[int, int]]) -> str:
    """Return the events of the first descriptor, as text; epoll's have the same numbers."""
    if not answer:
        return "none"
    return "|".join(name for bit, name in _EVENTS.items() if answer[0][1] & bit)
