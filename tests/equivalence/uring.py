"""The little of io_uring(7) that the scenarios need: one request at a time."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import time
from typing import Self

SETUP, ENTER = 425, 426  # on every architecture
READ, WRITE, POLL_ADD, SEND, RECV, SEND_ZC = 22, 23, 6, 26, 27, 47
SQ_RING, SQES = 0, 0x10000000
ENTRIES = 8
CQE_NOTIFICATION = 8

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *args: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *args)
    if result < 0:
        raise OSError(ctypes.get_errno(), "io_uring")
    return result


class Ring:
    """A context manager."""

    def __init__(self) -> None:
        parameters = ctypes.create_string_buffer(120)
        self._fd = _call(SETUP, ENTRIES, parameters)
        words = struct.unpack("30I", parameters.raw)
        (self._sq_tail, self._sq_mask, self._sq_array) = (words[11], words[12], words[16])
        (self._cq_head, self._cq_tail, self._cq_mask, self._cqes) = (
            words[20],
            words[21],
            words[22],
            words[25],
        )
        size = max(self._sq_array + 4 * words[0], self._cqes + 16 * words[1])
        self._ring = mmap.mmap(self._fd, size, offset=SQ_RING)
        self._entries = mmap.mmap(self._fd, 64 * words[0], offset=SQES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ring.close()
        self._entries.close()
        os.close(self._fd)

    def _load(self, offset: int) -> int:
        return struct.unpack_from("I", self._ring, offset)[0]

    def submit(self, operation: int, fd: int, address: int, length: int, flags: int = 0) -> None:
        """Hand in a request."""
        tail = self._load(self._sq_tail)
        slot = tail & self._load(self._sq_mask)
        entry = struct.pack("=BBHiQQIIQ", operation, 0, 0, fd, 0, address, length, flags, 1)
        self._entries[64 * slot : 64 * slot + 64] = entry.ljust(64, b"\0")
        struct.pack_into("I", self._ring, self._sq_array + 4 * slot, slot)
        struct.pack_into("I", self._ring, self._sq_tail, tail + 1)
        _call(ENTER, self._fd, 1, 0, 0, None, 0)

    def wait(self, seconds: float) -> tuple[int, int] | None:
        """Return result and flags of the next completion, None when there is none in time."""
        deadline = time.monotonic() + seconds
        while (head := self._load(self._cq_head)) == self._load(self._cq_tail):
            if time.monotonic() > deadline:
                return None
            _call(ENTER, self._fd, 0, 0, 1, None, 0)  # IORING_ENTER_GETEVENTS: run what is due
            time.sleep(0.001)
        slot = head & self._load(self._cq_mask)
        _, result, flags = struct.unpack_from("=QiI", self._ring, self._cqes + 16 * slot)
        struct.pack_into("I", self._ring, self._cq_head, head + 1)
        return result, flags
