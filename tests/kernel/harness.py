"""A laboratory for one test: namespaces, a cgroup, sockets in them, and the command line.

The sockets of a scenario are made by a small process that lives in the wanted
namespace and cgroup and hands them over, so that a scenario reads from top to
bottom in one place. The kernel remembers both at creation; who uses a socket
later makes no difference. Where two ends must run at the same time they run in
processes of their own (`Lab.spawn`).
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import pickle
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

from sockaccel.datapath.compiler import ITERATOR, MAPS, PROGRAMS, READER
from sockaccel.datapath.layout import Config, ConfigFlags
from sockaccel.datapath.state import Datapath

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
SO_COOKIE = 57
SO_NETNS_COOKIE = 71
TCP_INFO_BYTES_ACKED = 120  # offset in struct tcp_info

BPFFS = Path("/sys/fs/bpf")
NETNS = Path("/run/netns")
IPV4_A, IPV4_B = "10.77.1.1", "10.77.1.2"
IPV6_A, IPV6_B = "fd00:77:1::1", "fd00:77:1::2"
SOCKET_TIMEOUT_S = 10
CHILD_TIMEOUT_S = 30

# What the kernel calls our programs and maps; names end after 15 characters there.
OUR_NAMES = {name[:15] for name in (*MAPS, *PROGRAMS, READER, ITERATOR)}

_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


# --- What the machine must have -------------------------------------------------------------


def cgroup2_mounts() -> list[Path]:
    """Return where cgroup v2 is mounted, the first mount first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        if source.split()[0] == "cgroup2":
            found.append(Path(mount.split()[4]))
    return found


def missing() -> list[str]:
    """Return what this machine lacks to run the tests of the kernel."""
    mounts = Path("/proc/mounts").read_text()
    lacking = {
        "root": os.geteuid() != 0,
        "a mounted cgroup v2": not cgroup2_mounts(),
        f"bpffs on {BPFFS}": f" {BPFFS} bpf " not in mounts,
        "BCC (python3-bpfcc)": subprocess.run(
            [sys.executable, "-c", "from bcc import BPF"], capture_output=True, check=False
        ).returncode
        != 0,
    }
    tools = ["ip", "ss", "nft", "iptables", "bpftool", "nginx", "nsenter", "setpriv", "unshare"]
    tools += ["curl", "memcached", "node", "redis-server", "wrk"]
    lacking |= {tool: shutil.which(tool) is None for tool in tools}
    return [name for name, lacks in lacking.items() if lacks]


def clear_what_killed_runs_left() -> None:
    """Remove pins, namespaces and cgroups of test processes that no longer exist."""

    def orphans(directory: Path, pattern: str) -> Iterator[Path]:
        for path in list(directory.iterdir()):
            owner = re.match(pattern + r"(\d+)_", path.name)
            if owner and not Path("/proc", owner[1]).exists():
                yield path

    for pins in orphans(BPFFS, "sockaccel_test_"):
        shutil.rmtree(pins)
    for namespace in orphans(NETNS, "sat") if NETNS.exists() else ():
        run("ip", "netns", "del", namespace.name)
    for cgroup in orphans(cgroup2_mounts()[0], "sat"):
        with contextlib.suppress(OSError):  # a process of that run still lives in it
            cgroup.rmdir()


def raise_descriptor_limit() -> None:
    """Allow as many descriptors as the hard limit does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# --- Small tools ----------------------------------------------------------------------------


def run(*argv: str | Path, stdin: str | None = None, timeout: float = 20) -> str:
    """Run a command that must succeed and return what it prints."""
    done = subprocess.run(
        [str(word) for word in argv],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{argv} -> {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def wait_until(condition: Callable[[], Any], seconds: float = 5, what: str = "") -> Any:
    """Poll until the condition holds, and return its value."""
    deadline = time.monotonic() + seconds
    pause = 0.002
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    return value


def cookie(sock: socket.socket) -> int:
    """Return the socket's cookie, the number that ``ss -e`` prints after ``sk:``."""
    return struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]


def bytes_acked(sock: socket.socket) -> int:
    """Return how many bytes TCP itself carried and saw acknowledged (SYN included)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    return struct.unpack_from("=Q", info, TCP_INFO_BYTES_ACKED)[0]


def receive(sock: socket.socket, count: int) -> bytes:
    """Return exactly ``count`` bytes, or fewer when the stream ends."""
    data = bytearray()
    while len(data) < count:
        if not (part := sock.recv(min(count - len(data), 1 << 20))):
            break
        data += part
    return bytes(data)


def nothing_to_read(sock: socket.socket) -> bool:
    """Return whether nothing at all waits to be read, the end of the stream included."""
    with patience(sock, 0):
        try:
            sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False


@contextlib.contextmanager
def patience(sock: socket.socket, seconds: float | None) -> Iterator[None]:
    """Give a socket another timeout for a while (0: never wait; None: block)."""
    usual = sock.gettimeout()
    sock.settimeout(seconds)
    try:
        yield
    finally:
        sock.settimeout(usual)


class Stream:
    """Bytes that can be checked at any offset: equal seeds, equal streams."""

    PERIOD = 1_000_003  # prime: pieces of usual sizes never repeat in step with it

    def __init__(self, seed: int) -> None:
        block = Random(seed).randbytes(self.PERIOD)
        self._block = block + block

    def at(self, offset: int, count: int) -> bytes:
        """Return ``count`` (at most PERIOD) bytes from ``offset``."""
        start = offset % self.PERIOD
        return self._block[start : start + count]

    def check(self, offset: int, data: bytes) -> None:
        """Fail, naming the first wrong byte, unless ``data`` stands at ``offset``."""
        for start in range(0, len(data), self.PERIOD):
            part = data[start : start + self.PERIOD]
            want = self.at(offset + start, len(part))
            if part != want:
                wrong = next(i for i in range(len(part)) if part[i] != want[i])
                found = self._block.find(part[wrong : wrong + 16])
                raise AssertionError(
                    f"wrong byte at {offset + start + wrong}: there stands what belongs to "
                    f"{found if found >= 0 else 'no'} modulo {self.PERIOD}"
                )


def send_stream(sock: socket.socket, seed: int, total: int, sizes: list[int]) -> int:
    """Send ``total`` bytes of a stream in writes of the given sizes, in turn."""
    stream, sent, size = Stream(seed), 0, itertools.cycle(sizes)
    while sent < total:
        data = stream.at(sent, min(next(size), total - sent))
        sock.sendall(data)
        sent += len(data)
    return sent


def receive_stream(sock: socket.socket, seed: int, total: int, chunk: int = 1 << 16) -> int:
    """Receive and check ``total`` bytes of a stream; return how many came before its end."""
    stream, got = Stream(seed), 0
    while got < total:
        if not (data := sock.recv(min(chunk, total - got))):
            break
        stream.check(got, data)
        got += len(data)
    return got


# --- Processes ------------------------------------------------------------------------------


class ChildError(AssertionError):
    """The function of a child process failed; carries its traceback."""


class Task:
    """A function running in a child process, and its result."""

    def __init__(self, pid: int, pipe: int, name: str) -> None:
        self.pid = pid
        self._pipe = pipe
        self._name = name

    def result(self, timeout: float = CHILD_TIMEOUT_S) -> Any:
        """Wait for the end and return what the function returned, or raise what it raised."""
        deadline = time.monotonic() + timeout
        data = bytearray()
        os.set_blocking(self._pipe, False)
        while True:
            try:
                part = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self.kill()
                    raise ChildError(f"{self._name} did not end within {timeout} s") from None
                time.sleep(0.002)
                continue
            if not part:
                break
            data += part
        self.kill()
        if not data:
            raise ChildError(f"{self._name} died without a word")
        good, value = pickle.loads(data)
        if not good:
            raise ChildError(f"in {self._name}:\n{value}")
        return value

    def kill(self) -> None:
        """End the child, if it still runs, and reap it."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._pipe)
            self.pid = 0


def _descriptors(value: Any) -> Iterator[int]:
    if isinstance(value, socket.socket):
        yield value.fileno()
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _descriptors(item)


def _fork(
    function: Callable[..., Any], args: tuple[Any, ...], place: Callable[[], None] | None
) -> Task:
    """Run ``function`` in a child that keeps no descriptor but its arguments'."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 and later warn because pytest-timeout's thread exists;
        # that thread holds no lock the child could need.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        os.close(writer)
        return Task(pid, reader, function.__qualname__)
    code = 1
    try:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        keep = sorted({writer, *_descriptors(args)})
        for low, high in itertools.pairwise(
            [2, *keep, resource.getrlimit(resource.RLIMIT_NOFILE)[0]]
        ):
            os.closerange(low + 1, high)
        try:
            if place:
                place()
            answer = (True, function(*args))
        except BaseException:
            answer = (False, traceback.format_exc())
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(pickle.dumps(answer))
        code = 0
    finally:
        os._exit(code)


class Host:
    """A network namespace, with processes in the laboratory's cgroup."""

    def __init__(self, lab: Lab, name: str, path: Path | None = None) -> None:
        """Make a namespace of this name, or use one that is there and stays: path."""
        self.lab = lab
        self.name = name
        self.path = path or NETNS / name
        self._made = path is None
        if self._made:
            run("ip", "netns", "add", name)
            self.ip("link set lo up")
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._maker = _fork(_make_sockets, (theirs,), self.enter)
        theirs.close()

    @property
    def pid(self) -> int:
        """A process that lives in this namespace as long as it does."""
        return self._maker.pid

    def enter(self) -> None:
        """Move the calling process into the cgroup and the namespace."""
        (self.lab.cgroup / "cgroup.procs").write_text("0")
        with self.path.open() as namespace:
            if _libc.setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        """Return a new socket of this namespace and cgroup, with a timeout."""
        self._channel.send(struct.pack("3i", family, kind, protocol))
        answer, descriptors, _, _ = socket.recv_fds(self._channel, 4, 1)
        assert descriptors, f"socket(): {os.strerror(struct.unpack('i', answer)[0])}"
        return self.lab.track(socket.socket(fileno=descriptors[0]))

    def listen(
        self,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        protocol: int = 0,
        options: list[tuple[int, int, int]] | None = None,
        backlog: int = 128,
    ) -> socket.socket:
        """Return a listening socket; options are (level, name, value)."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = self.socket(family, protocol=protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option in options or []:
            listener.setsockopt(*option)
        listener.bind((address, port))
        listener.listen(backlog)
        return listener

    def spawn(self, function: Callable[..., Any], *args: Any) -> Task:
        """Run a function in a child process in this namespace and cgroup."""
        return self.lab.adopt(_fork(function, args, self.enter))

    def popen(
        self, *argv: str | Path, stdin: int = subprocess.DEVNULL, stdout: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program in this namespace and cgroup."""
        into = 'echo 0 >"$0" && exec "$@"'
        place = ["sh", "-c", into, str(self.lab.cgroup / "cgroup.procs")]
        process = subprocess.Popen(
            [*place, "nsenter", f"--net={self.path}", *(str(word) for word in argv)],
            stdin=stdin,
            stdout=stdout,
            start_new_session=True,
        )
        self.lab.programs.append(process)
        return process

    def execute(self, *argv: str | Path, stdin: str | None = None) -> str:
        """Run a command in this namespace, outside of the cgroup."""
        return run("nsenter", f"--net={self.path}", *argv, stdin=stdin)

    def ip(self, *commands: str) -> None:
        """Run ``ip`` commands in this namespace."""
        self.execute("ip", "-batch", "-", stdin="\n".join(commands) + "\n")

    def sysctl(self, name: str, value: int | str) -> None:
        """Set a sysctl of this namespace."""
        self.execute("sh", "-c", 'echo "$1" >"/proc/sys/$0"', name.replace(".", "/"), str(value))

    def nft(self, kind: str, hook: str, rule: str) -> None:
        """Add an nftables rule for IPv4 at this hook; kind is filter or nat."""
        priority = -100 if kind == "nat" else 0
        rules = [
            "add table ip lab",
            f"add chain ip lab {hook} {{ type {kind} hook {hook} priority {priority}; }}",
            f"add rule ip lab {hook} {rule}",
        ]
        self.execute("nft", "-f", "-", stdin="\n".join(rules) + "\n")

    def interface_bytes(self) -> int:
        """Return the bytes that all interfaces, loopback too, have received."""
        links = json.loads(self.execute("ip", "-j", "-s", "link"))
        return sum(link["stats64"]["rx"]["bytes"] for link in links)

    def close(self) -> None:
        self._channel.close()
        self._maker.kill()
        if self._made:
            run("ip", "netns", "del", self.name)


def _make_sockets(channel: socket.socket) -> None:
    while request := channel.recv(12):
        family, kind, protocol = struct.unpack("3i", request)
        try:
            made = socket.socket(family, kind, protocol)
        except OSError as error:
            channel.send(struct.pack("i", error.errno or 0))
            continue
        with made:
            socket.send_fds(channel, [struct.pack("i", 0)], [made.fileno()])


# --- The kernel's objects -------------------------------------------------------------------


@dataclass(frozen=True)
class KernelObject:
    """A program or a map."""

    kind: str
    id: int
    name: str


def kernel_objects() -> tuple[set[KernelObject], set[KernelObject]]:
    """Return the programs and maps of the machine: all, and those that others have pinned."""
    shown = {
        kind: json.loads(run("bpftool", "-j", "-f", kind, "show"))
        for kind in ("map", "prog", "link")
    }
    found = {
        (kind, item["id"]): KernelObject(kind, item["id"], item.get("name", ""))
        for kind in ("map", "prog")
        for item in shown[kind]
    }

    def of_others(item: dict[str, Any]) -> bool:
        pins = item.get("pinned", [])
        return bool(pins) and not any(f"/sockaccel_test_{os.getpid()}_" in pin for pin in pins)

    strangers = {("prog", link["prog_id"]) for link in shown["link"] if of_others(link)}
    strangers |= {("map", item["id"]) for item in shown["map"] if of_others(item)}
    for program in shown["prog"]:
        if of_others(program) or ("prog", program["id"]) in strangers:
            strangers |= {("prog", program["id"])}
            strangers |= {("map", number) for number in program.get("map_ids", [])}
    return set(found.values()), {found[key] for key in strangers if key in found}


def attached(cgroup: Path) -> list[dict[str, Any]]:
    """Return the programs attached to a cgroup."""
    text = run("bpftool", "-j", "cgroup", "show", cgroup)
    return json.loads(text) if text.strip() else []


# --- The laboratory -------------------------------------------------------------------------


class Lab:
    """All that one test uses on this machine, and its removal."""

    def __init__(self, mode: str, parent: Path | None = None) -> None:
        """Make a laboratory whose cgroup is below this one, by default below the root."""
        self.mode = mode
        number = next(_numbers)
        self.name = f"sat{os.getpid()}_{number}"
        self.pin_dir = BPFFS / f"sockaccel_test_{os.getpid()}_{number}"
        self.cgroup = (parent or cgroup2_mounts()[0]) / self.name
        self.hosts: list[Host] = []
        self.programs: list[subprocess.Popen[bytes]] = []
        self.enabled_once = False
        self._sockets: list[socket.socket] = []
        self._tasks: list[Task] = []
        self._before, _ = kernel_objects()
        self.cgroup.mkdir()

    # Namespaces

    def host(self) -> Host:
        """Return a new namespace that has nothing but loopback."""
        self.hosts.append(Host(self, f"{self.name}{chr(ord('a') + len(self.hosts))}"))
        return self.hosts[-1]

    def pair(self) -> tuple[Host, Host]:
        """Return two namespaces joined by a veth pair, IPv4_A and IPv6_A to IPv4_B and IPv6_B."""
        one, two = self.host(), self.host()
        one.ip(f"link add eth0 type veth peer name eth0 netns {two.name}")
        for host, ipv4, ipv6 in ((one, IPV4_A, IPV6_A), (two, IPV4_B, IPV6_B)):
            host.ip(
                "link set eth0 addrgenmode none",  # duplicate detection takes a second
                f"address add {ipv4}/24 dev eth0",
                f"address add {ipv6}/64 dev eth0 nodad",
                "link set eth0 up",
            )
        return one, two

    def bridge(self, count: int) -> tuple[Host, list[Host]]:
        """Return a namespace with a bridge and ``count`` others on it, 10.77.1.1 and so on."""
        switch = self.host()
        switch.ip("link add br0 type bridge", "link set br0 up")
        hosts = [self.host() for _ in range(count)]
        for number, host in enumerate(hosts, 1):
            host.ip(f"link add eth0 type veth peer name port{number} netns {switch.name}")
            host.ip(f"address add 10.77.1.{number}/24 dev eth0", "link set eth0 up")
            switch.ip(f"link set port{number} master br0 up")
        return switch, hosts

    # Sockets and processes

    def track(self, sock: socket.socket) -> socket.socket:
        """Close this socket when the test ends; give it a timeout."""
        sock.settimeout(SOCKET_TIMEOUT_S)
        self._sockets.append(sock)
        return sock

    def accept(self, listener: socket.socket) -> socket.socket:
        """Return the next connection."""
        return self.track(listener.accept()[0])

    def connect(
        self,
        client: Host,
        listener: socket.socket,
        to: tuple[str, int] | None = None,
        *,
        source: tuple[str, int] | None = None,
        options: list[tuple[int, int, int]] | None = None,
    ) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a new connection: the client's and the server's."""
        address = to or listener.getsockname()[:2]
        near = client.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        for option in options or []:
            near.setsockopt(*option)
        if source:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            near.bind(source)
        near.connect(address)
        return near, self.accept(listener)

    def spawn(self, function: Callable[..., Any], *args: Any) -> Task:
        """Run a function on existing sockets in a child process."""
        return self.adopt(_fork(function, args, None))

    def adopt(self, task: Task) -> Task:
        self._tasks.append(task)
        return task

    # The command line

    def argv(self, *args: str | Path) -> list[str]:
        """Return the command line of sockaccel with this laboratory's pin directory."""
        head = [sys.executable, "-m", "sockaccel", "--pin-dir", str(self.pin_dir)]
        return [*head, *(str(arg) for arg in args)]

    def cli(
        self,
        *args: str | Path,
        expect: int | None = 0,
        env: dict[str, str] | None = None,
        prefix: list[str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run sockaccel; whatever happens, it never shows a traceback."""
        done = subprocess.run(
            [*(prefix or []), *self.argv(*args)],
            capture_output=True,
            text=True,
            timeout=CHILD_TIMEOUT_S,
            env={**os.environ, "COLUMNS": "200", **(env or {})},
            check=False,
        )
        said = f"sockaccel {' '.join(map(str, args))} -> {done.returncode}\n{done.stderr}"
        assert "Traceback" not in done.stderr, said
        assert expect is None or done.returncode == expect, said + done.stdout
        return done

    def enable_arguments(self, hosts: list[Host] | None = None) -> list[str | Path]:
        """Return the arguments of ``enable`` for these namespaces, or for all of them."""
        scope = [f"--netns={host.path}" for host in (self.hosts if hosts is None else hosts)]
        return ["enable", "--cgroup", self.cgroup, *(scope or ["--scope=all"]), "--policy=all"]

    def enable(self, *options: str, hosts: list[Host] | None = None) -> None:
        """Accelerate the connections between these namespaces (default: all of the lab's)."""
        self.enabled_once = True
        self.cli(*self.enable_arguments(hosts), *options)

    def start(self, *options: str, hosts: list[Host] | None = None) -> None:
        """Enable in the accelerated mode, do nothing in the plain one."""
        if self.accelerated:
            self.enable(*options, hosts=hosts)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Send messages by TCP for a while (accelerated mode; in the plain one they all go so)."""
        if not self.accelerated:
            yield
            return
        with Datapath(self.pin_dir) as datapath:
            before = datapath.config
            datapath.config = Config(
                before.flags & ~ConfigFlags.ENABLED, before.scope_epoch, before.instance
            )
            try:
                yield
            finally:
                datapath.config = before

    @property
    def accelerated(self) -> bool:
        return self.mode == "accelerated"

    def disable(self, *options: str) -> None:
        self.cli("disable", *options)

    def status(self, expect: int = 0) -> dict[str, Any]:
        return json.loads(self.cli("-o", "json", "status", expect=expect).stdout)

    def counters(self) -> dict[str, Any]:
        return self.status()["counters"]

    def dump(self) -> dict[str, Any]:
        return json.loads(self.cli("-o", "json", "dump").stdout)

    def ends(self) -> dict[int, dict[str, Any]]:
        """Return the connections that ``dump`` shows, by the cookies of both ends.

        Each has the end with that cookie as ``own``.
        """
        return {
            int(end["cookie"], 16): {**connection, "own": end}
            for connection in self.dump()["connections"]
            for end in (connection["client"], connection["server"])
            if end
        }

    def connection(self, sock: socket.socket) -> dict[str, Any] | None:
        """Return the connection of this socket as ``dump`` shows it."""
        return self.ends().get(cookie(sock))

    def sent(self, sock: socket.socket) -> tuple[int, int]:
        """Return how many bytes this socket sent by redirection and by TCP, from ``dump``."""
        connection = self.connection(sock)
        assert connection, "dump does not know the connection"
        return connection["own"]["redirected_bytes"], connection["own"]["tcp_bytes"]

    def expect_redirected(self, *socks: socket.socket) -> None:
        """Fail unless each socket sent by redirection (accelerated mode only)."""
        if self.accelerated:
            ends = self.ends()
            for sock in socks:
                connection = ends.get(cookie(sock))
                assert connection, f"dump does not know {sock}"
                assert connection["own"]["redirected_bytes"] > 0, connection

    # The end

    def close_one(self, sock: socket.socket) -> None:
        """Close a socket before the end, so that thousands may follow it."""
        self._sockets.remove(sock)
        sock.close()

    def close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    def close(self) -> None:
        """Remove everything, even after a failure."""
        for task in self._tasks:
            task.kill()
        for program in self.programs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
        self.close_sockets()
        if self.enabled_once:
            self.cli("disable", expect=None)
        for host in reversed(self.hosts):
            host.close()

    def left_behind(self) -> list[str]:
        """Return what of sockaccel is still there, waiting up to 5 s for the kernel."""
        ours = re.compile(rf"{self.pin_dir.name}(?!\d)")

        def look() -> set[object]:
            found: set[object] = {path for path in BPFFS.iterdir() if ours.search(path.name)}
            found |= {f"attached: {item}" for item in attached(self.cgroup)}
            if self.enabled_once:
                everything, strangers = kernel_objects()
                new = everything - self._before - strangers
                found |= {item for item in new if item.name[:15] in OUR_NAMES}
            return found

        # What is not there all the time belongs to somebody else on this machine.
        left = look()
        deadline = time.monotonic() + 5
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left &= look()
        return sorted(map(str, left))

    def scrub(self) -> None:
        """Remove by force what ``disable`` left, so that one failure does not cause others."""
        shutil.rmtree(self.pin_dir, ignore_errors=True)
        wait_until(lambda: not (self.cgroup / "cgroup.procs").read_text(), what="an empty cgroup")
        self.cgroup.rmdir()


L = TypeVar("L", bound=Lab)


@contextlib.contextmanager
def removed(lab: L) -> Iterator[L]:
    """Remove a laboratory at the end of the block, and fail if anything is left behind."""
    try:
        try:
            yield lab
        finally:
            lab.close()
        left = lab.left_behind()
        assert not left, f"left behind: {left}"
    finally:
        lab.scrub()
