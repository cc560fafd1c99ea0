"""The quick trial: the loaded programs on real sockets, before anybody else's meet them.

Kernels differ in what they do to sockets of a sockmap, and fixes are backported,
so nothing is concluded from a version. The programs are attached to a throw-away
cgroup; two ends of a loopback connection in a throw-away namespace then show
what this kernel does. A message is sent by TCP by clearing the flag ENABLED.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from sockaccel.datapath import libbpf
from sockaccel.datapath.layout import COUNTER_SLOTS, Config, ConfigFlags, Counter, Reason
from sockaccel.datapath.libbpf import AttachType
from sockaccel.datapath.loopback import (
    ANSWER_S,
    connection,
    fionread,
    memory,
    received_by_tcp,
    rx_queue,
    settled,
)
from sockaccel.datapath.sandbox import Sandbox
from sockaccel.datapath.state import Datapath
from sockaccel.errors import AttachError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

TIMEOUT_S = 5.0
STOPPED = "stopped"

_GONE_S = 1.0
# Lengths that tell which message a number stems from. More by TCP than redirected before:
# copied_seq that has run ahead of rcv_nxt would be shown as 0.
_REDIRECTED, _BY_TCP = 300, 700
# Not a small write, which would take TCP while anything is unread.
_LARGE = 2048


class Fionread(StrEnum):
    """What FIONREAD counts on an enrolled socket (nginx, Java and .NET rely on it)."""

    K0 = "K0"
    """Not the redirected bytes."""
    K1 = "K1"
    """Redirected bytes; those that came by TCP only with a stream_verdict program."""
    K2 = "K2"
    """Both, with and without."""


@dataclass(frozen=True)
class Trial:
    """What this kernel did. What was not reached is False, or None: the evidence says why."""

    stream_verdict: bool
    """Whether sk_skb was attached."""
    paired: bool = False
    redirected: bool = False
    """Both directions; seen by TCP's own counter standing still."""
    intact: bool = False
    """Every byte arrived, in the order of writing, through all changes of path."""
    charged: bool = False
    """Unread redirected bytes are charged to their reader: without, nothing bounds the queue."""
    one_queue: bool = False
    """One recv() returns redirected bytes and the TCP bytes behind them."""
    copied_seq_kept: bool = False
    """Redirected bytes leave tcp_sock.copied_seq alone, so that the guard can trust it."""
    fionread: Fionread | None = None
    fionread_right: bool = False
    """With what is attached now."""
    seen: Mapping[str, str] = field(default_factory=dict)
    """What was seen, by fact, and under STOPPED why it went no further."""

    @property
    def evidence(self) -> tuple[str, ...]:
        """What was seen."""
        return tuple(self.seen.values())

    @property
    def works(self) -> bool:
        """Whether connections can be accelerated at all."""
        return self.paired and self.redirected and self.intact and self.charged


class Counted(NamedTuple):
    """What FIONREAD said of unread bytes."""

    redirected: int
    by_tcp: int
    both: int

    @property
    def right(self) -> bool:
        """Whether it is what there was to read."""
        return self == (_REDIRECTED, _BY_TCP, _REDIRECTED + _BY_TCP)

    @property
    def kind(self) -> Fionread:
        """The class, if this was counted without a stream_verdict program."""
        if self.redirected != _REDIRECTED:
            return Fionread.K0
        return Fionread.K2 if self.right else Fionread.K1

    def __str__(self) -> str:
        return (
            f"{self.redirected} of {_REDIRECTED} redirected, {self.by_tcp} of {_BY_TCP} TCP, "
            f"{self.both} of {_REDIRECTED + _BY_TCP} bytes of both"
        )


def trial(directory: Path, cgroup_mount: Path) -> Trial:
    """Try what is loaded and pinned in `directory` and not attached to a cgroup yet.

    Everything is afterwards as it was before, the counters zero.

    Raises:
        AttachError: the kernel does not attach sock_ops.
        DatapathError: the sockets hang, or their process dies.
        HostError, NotPermittedError: no cgroup or namespace can be made.

    """
    with Datapath(directory) as datapath, Sandbox(cgroup_mount) as sandbox:
        before = datapath.config
        verdict = _detach_verdict(datapath)
        if verdict:
            _attach_verdict(datapath)
        try:
            with _attached(datapath, sandbox.cgroup):
                return sandbox.run(lambda: _Lab(datapath).measure(verdict), TIMEOUT_S)
        finally:
            if verdict:
                _attach_verdict(datapath)
            datapath.config = before
            _forget(datapath)


def _detach_verdict(datapath: Datapath) -> bool:
    return libbpf.detach(
        datapath.fd("sk_skb"), datapath.fd("sock_ops_map"), AttachType.SK_SKB_STREAM_VERDICT
    )


def _attach_verdict(datapath: Datapath) -> None:
    libbpf.attach(
        datapath.fd("sk_skb"), datapath.fd("sock_ops_map"), AttachType.SK_SKB_STREAM_VERDICT
    )


@contextlib.contextmanager
def _attached(datapath: Datapath, cgroup: Path) -> Iterator[None]:
    """Attach sock_ops by a link that nothing but this process holds."""
    try:
        with libbpf.fd(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)) as leaf:
            link = libbpf.link_cgroup(datapath.fd("sock_ops"), leaf, AttachType.CGROUP_SOCK_OPS)
    except OSError as error:
        raise AttachError(
            f"cannot attach sock_ops to cgroup '{cgroup}': {reason(error)}",
            "bpftool cgroup tree shows who else is attached",
        ) from error
    with libbpf.fd(link):
        try:
            yield
        finally:
            libbpf.detach_link(link)


def _forget(datapath: Datapath) -> None:
    """Wait for the sockets to be gone, which count as they go, and zero the counters."""
    deadline = time.monotonic() + _GONE_S
    while any(True for _ in datapath.records()) and time.monotonic() < deadline:
        time.sleep(0.001)
    zero = bytes(8 * libbpf.possible_cpus())
    for index in range(COUNTER_SLOTS):
        libbpf.update(datapath.fd("counters"), index.to_bytes(4, "little"), zero)


class _Unexpected(Exception):  # noqa: N818 - a finding
    """Bytes were lost or changed, or a message took the other path: no use in going on."""


class _Lab:
    """The measurements; runs in the sandbox."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self._seen: dict[str, str] = {}

    def measure(self, verdict: bool) -> Trial:
        facts: dict[str, Any] = {}
        self._redirecting(True)
        try:
            with self._paired() as (client, server):
                facts["paired"] = True
                self._round_trip(client, server)
                facts["redirected"] = True
                facts["charged"] = self._is_charged(client, server)
                facts["copied_seq_kept"] = self._is_copied_seq_kept(client, server)
                facts["one_queue"] = self._is_one_queue(client, server)
                counted = self._count(client, server, "with" if verdict else "without")
                facts["fionread_right"] = counted.right
                self._mix(client, server)
                facts["intact"] = True
            facts["fionread"] = self._fionread_class(counted, verdict)
        except _Unexpected as finding:
            self._seen[STOPPED] = str(finding)
        except OSError as error:  # of a socket; a timeout has no number
            self._seen[STOPPED] = f"a socket failed: {reason(error)}"
        return Trial(verdict, **facts, seen=self._seen)

    # --- The facts

    @contextlib.contextmanager
    def _paired(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        before = self._datapath.counters()[Counter.PAIRED]
        with connection() as ends:
            if self._datapath.counters()[Counter.PAIRED] != before + 1:
                raise _Unexpected(f"not paired: {self._why()}")
            yield ends

    def _round_trip(self, client: socket.socket, server: socket.socket) -> None:
        for writer, reader in ((client, server), (server, client)):
            self._expect(reader, self._redirect(writer, reader))
        self._seen["redirected"] = f"{_REDIRECTED} bytes redirected each way"

    def _is_charged(self, client: socket.socket, server: socket.socket) -> bool:
        data = self._redirect(client, server)
        charge = settled(lambda: memory(server), lambda value: value >= _REDIRECTED)
        self._expect(server, data)
        self._seen["charged"] = (
            f"sk_rmem_alloc is {charge} with {_REDIRECTED} redirected bytes unread"
        )
        return charge >= _REDIRECTED

    def _is_copied_seq_kept(self, client: socket.socket, server: socket.socket) -> bool:
        """Look at rcv_nxt - copied_seq after redirected bytes were read."""
        self._expect(server, self._redirect(client, server))
        data = self._send_by_tcp(client, server)
        unread = settled(lambda: rx_queue(server), lambda value: value == _BY_TCP)
        self._expect(server, data)
        self._seen["copied_seq_kept"] = (
            f"rcv_nxt - copied_seq is {unread} with {_BY_TCP} TCP bytes unread, "
            f"{_REDIRECTED} redirected ones read before"
        )
        return unread == _BY_TCP

    def _is_one_queue(self, client: socket.socket, server: socket.socket) -> bool:
        wanted = got = 0
        for _ in range(3):  # a softirq may be late once; two queues are never read as one
            data = self._redirect(client, server) + self._send_by_tcp(client, server)
            wanted, got = len(data), len(server.recv(len(data), socket.MSG_PEEK))
            self._expect(server, data)
            if got == wanted:
                break
        self._seen["one_queue"] = (
            f"one recv() has {got} of {_REDIRECTED} redirected and {_BY_TCP} TCP bytes"
        )
        return got == wanted

    def _count(self, client: socket.socket, server: socket.socket, how: str) -> Counted:
        data = self._redirect(client, server)
        redirected = fionread(server, len(data))
        data += self._send_by_tcp(client, server)
        both = fionread(server, len(data))
        self._expect(server, data)
        data = self._send_by_tcp(client, server)
        by_tcp = fionread(server, len(data))
        self._expect(server, data)
        counted = Counted(redirected, by_tcp, both)
        self._seen[f"fionread_{how}"] = f"FIONREAD {how} stream_verdict: {counted}"
        return counted

    def _mix(self, client: socket.socket, server: socket.socket) -> None:
        """Write by both paths in turn, and read at the end."""
        written = b""
        for _ in range(3):
            data = os.urandom(_LARGE)
            client.sendall(data)
            written += data + self._send_by_tcp(client, server)
        self._expect(server, written)
        self._seen["intact"] = (
            f"{len(written)} bytes, sent by both paths in turn, are read in order"
        )

    def _fionread_class(self, counted: Counted, verdict: bool) -> Fionread:
        """Ask a connection without a stream_verdict program, if this one had it."""
        if verdict:
            _detach_verdict(self._datapath)
            try:
                with self._paired() as (client, server):
                    counted = self._count(client, server, "without")
            finally:
                _attach_verdict(self._datapath)
        return counted.kind

    # --- Tools

    def _why(self) -> str:
        """Return the reasons that the programs have counted."""
        counters = self._datapath.counters()
        names = [each.label for each in Reason if each and counters[Counter.REASON + each]]
        names += [Reason(record.conn.last_reason).label for record in self._datapath.records()]
        return ", ".join(dict.fromkeys(names)) or "no reason counted"

    def _redirecting(self, on: bool) -> None:
        """Everybody is in scope, whatever else was asked for: the cgroup is the scope."""
        flags = ConfigFlags.SCOPE_ALL | ConfigFlags.POLICY_ALL
        if on:
            flags |= ConfigFlags.ENABLED
        config = self._datapath.config
        self._datapath.config = Config(flags, config.scope_epoch, config.instance)

    def _redirect(self, writer: socket.socket, reader: socket.socket) -> bytes:
        """Send a message that is redirected; return it."""
        before = received_by_tcp(reader)
        data = os.urandom(_REDIRECTED)
        writer.sendall(data)
        if received_by_tcp(reader) != before:
            raise _Unexpected(f"paired, yet sent by TCP: {self._why()}")
        return data

    def _send_by_tcp(self, writer: socket.socket, reader: socket.socket) -> bytes:
        """Send a message by TCP and wait until TCP has it there; return it."""
        data = os.urandom(_BY_TCP)
        wanted = received_by_tcp(reader) + len(data)
        self._redirecting(False)
        writer.sendall(data)
        self._redirecting(True)
        got = settled(lambda: received_by_tcp(reader), lambda got: got >= wanted, ANSWER_S)
        if got != wanted:
            raise _Unexpected(f"{got} bytes received by TCP instead of {wanted}")
        return data

    def _expect(self, reader: socket.socket, data: bytes) -> None:
        """Read these bytes and no others."""
        got = bytearray()
        with contextlib.suppress(TimeoutError):
            while len(got) < len(data) and (part := reader.recv(len(data) - len(got))):
                got += part
        if got == data:
            return
        if data.startswith(got):
            raise _Unexpected(f"{len(got)} of {len(data)} bytes arrived")
        wrong = next(at for at in range(len(got)) if got[at] != data[at])
        raise _Unexpected(f"byte {wrong} of {len(data)} is not the one that was written")
