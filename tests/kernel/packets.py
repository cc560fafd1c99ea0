"""TCP segments by hand: a sniffer, a raw-socket client and a forger of sequence numbers."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .harness import SOCKET_TIMEOUT_S, wait_until

if TYPE_CHECKING:
    from .harness import Host

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
ETH_P_ALL = 3
ETHERNET_HEADER = 14

TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
TCP_REPAIR_ON, TCP_REPAIR_OFF_NO_PROBE = 1, -1
TCP_RECV_QUEUE, TCP_SEND_QUEUE = 1, 2


@dataclass(frozen=True)
class Segment:
    """One TCP segment over IPv4."""

    source: tuple[str, int]
    target: tuple[str, int]
    seq: int
    ack: int
    flags: int
    payload: bytes = b""

    @classmethod
    def parse(cls, packet: bytes) -> Segment | None:
        """Return the segment in an IPv4 packet, or None when it holds none."""
        if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
            return None
        total = struct.unpack_from("!H", packet, 2)[0]
        tcp = packet[(packet[0] & 15) * 4 : total]
        source_port, target_port, seq, ack, offset, flags = struct.unpack_from("!HHIIBB", tcp)
        return cls(
            (socket.inet_ntoa(packet[12:16]), source_port),
            (socket.inet_ntoa(packet[16:20]), target_port),
            seq,
            ack,
            flags & 31,
            tcp[(offset >> 4) * 4 :],
        )

    def encode(self) -> bytes:
        """Return the segment with its checksum, without an IP header."""
        header = struct.pack(
            "!HHIIBBHHH",
            self.source[1],
            self.target[1],
            self.seq & 0xFFFFFFFF,
            self.ack & 0xFFFFFFFF,
            5 << 4,
            self.flags,
            65_535,
            0,
            0,
        )
        body = header + self.payload
        pseudo = (
            socket.inet_aton(self.source[0])
            + socket.inet_aton(self.target[0])
            + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(body))
        )
        data = pseudo + body + b"\0" * (len(body) % 2)
        total = sum(struct.unpack(f"!{len(data) // 2}H", data))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return body[:16] + struct.pack("!H", ~total & 0xFFFF) + body[18:]


class Sniffer:
    """All TCP segments that pass through one namespace."""

    def __init__(self, host: Host) -> None:
        self._socket = host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.settimeout(0.5)

    def initial_numbers(self, client: socket.socket) -> tuple[int, int]:
        """Return the initial sequence numbers of a connection: the client's, the server's."""
        found: dict[str, int] = {}

        def look() -> bool:
            segment = Segment.parse(self._socket.recv(65_536)[ETHERNET_HEADER:])
            if segment and segment.flags & SYN:
                if (segment.source, segment.target) == (own, peer):
                    found["client"] = segment.seq
                elif (segment.source, segment.target) == (peer, own):
                    found["server"] = segment.seq
            return len(found) == 2

        own, peer = client.getsockname(), client.getpeername()
        wait_until(look, what="the handshake of the connection on the wire")
        return found["client"], found["server"]


class RawClient:
    """A TCP client that lives in user space and chooses its initial sequence number."""

    def __init__(
        self, host: Host, source: tuple[str, int], target: tuple[str, int], number: int
    ) -> None:
        # The kernel knows no such connection and would reset it.
        host.nft("filter", "output", f"tcp sport {source[1]} tcp flags & rst == rst drop")
        self._socket = host.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        self._socket.connect((target[0], 0))
        self._source, self._target = source, target
        self._seq, self._ack = number, 0
        self._send(SYN)
        answer = self._next(SYN | ACK)
        assert answer.ack == (number + 1) & 0xFFFFFFFF
        self._seq, self._ack = number + 1, answer.seq + 1
        self._send(ACK)

    def _send(self, flags: int, payload: bytes = b"") -> None:
        segment = Segment(self._source, self._target, self._seq, self._ack, flags, payload)
        self._socket.send(segment.encode())

    def _next(self, flags: int) -> Segment:
        deadline = time.monotonic() + SOCKET_TIMEOUT_S
        while time.monotonic() < deadline:
            segment = Segment.parse(self._socket.recv(65_536))
            if (
                segment
                and (segment.source, segment.target) == (self._target, self._source)
                and segment.flags & flags == flags
            ):
                return segment
        raise AssertionError(f"no segment with flags {flags}")

    def send(self, data: bytes) -> None:
        """Send one segment of data."""
        self._send(ACK | PSH, data)
        self._seq += len(data)

    def receive(self, count: int) -> bytes:
        """Return what the server sent, until ``count`` bytes are there."""
        data = b""
        while len(data) < count:
            segment = self._next(ACK)
            if segment.payload and segment.seq == self._ack & 0xFFFFFFFF:
                data += segment.payload
                self._ack += len(segment.payload)
                self._send(ACK)
        return data


def forge(
    host: Host, source: tuple[str, int], target: tuple[str, int], send: int, receive: int
) -> socket.socket:
    """Return an ESTABLISHED socket with sequence numbers of our choice, made by TCP_REPAIR.

    ``send`` and ``receive`` are the next numbers to send and to expect.
    """
    forged = host.socket()
    forged.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)
    forged.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    forged.bind(source)
    for queue, number in ((TCP_SEND_QUEUE, send), (TCP_RECV_QUEUE, receive)):
        forged.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
        forged.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack("=I", number & 0xFFFFFFFF))
    forged.connect(target)
    forged.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, struct.pack("=i", TCP_REPAIR_OFF_NO_PROBE))
    state = forged.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[0]
    assert state == 1, "TCP_REPAIR did not establish the socket: nothing was tried"
    return forged
