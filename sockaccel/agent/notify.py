"""Tells the service manager how it goes: the protocol of sd_notify(3).

Without a service manager (NOTIFY_SOCKET is not set) it says nothing.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Notifier:
    """The socket of the service manager, as the environment names it."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # An abstract socket is written with '@' for the NUL that its address begins with.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watched = environment.get("WATCHDOG_PID") in (None, str(os.getpid()))
        usec = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(usec) / 1e6 if watched and usec.isdecimal() else None
        """It is to be told that all is well at least this often; None: not at all."""

    def ready(self, status: str) -> None:
        """Say that the start, or a reload, is complete."""
        self._send("READY=1", _status(status))

    def status(self, status: str) -> None:
        """Say in one line what is going on."""
        self._send(_status(status))

    def alive(self) -> None:
        """Keep the watchdog quiet."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Say that the configuration is being read again; ready() ends it."""
        # Linux's CLOCK_MONOTONIC, as Type=notify-reload demands.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for so much more time to start, counted from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # A service manager that is gone, or does not read, must not keep us from working.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.connect(self._address)
            channel.send("\n".join(lines).encode())


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.splitlines())
