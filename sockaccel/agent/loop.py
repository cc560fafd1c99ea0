"""One place to wait, in the main thread: messages of other threads, signals, files, and times."""

from __future__ import annotations

import os
import selectors
import signal
import time
from contextlib import ExitStack, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from _typeshed import HasFileno

Message = TypeVar("Message")
Callback = "Callable[[], None]"

_READ_SIZE = 4096


class Loop(Generic[Message]):
    """A context manager: signals are watched while it is entered."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._timers: dict[Callable[[], None], float] = {}
        self._signals: dict[int, Callable[[], None]] = {}
        self._selector = selectors.DefaultSelector()
        self._stack = ExitStack()
        self._stopped = False

    def __enter__(self) -> Self:
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stack.callback(self._selector.close)
        self._stack.callback(os.close, self._waker)
        self._stack.callback(os.close, self._woken)
        self.watch(self._woken, self._wake)
        before = signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, before)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def post(self, message: Message) -> None:
        """Hand over a message, from any thread; run() passes it on."""
        self._messages.put(message)
        # A full pipe wakes it, too. A closed one: a thread that outlives the loop.
        with suppress(OSError):
            os.write(self._waker, b"\0")

    def watch(self, source: int | HasFileno, callback: Callable[[], None]) -> None:
        """Call back whenever there is something to read."""
        self._selector.register(source, selectors.EVENT_READ, callback)

    def on_signal(self, number: signal.Signals, callback: Callable[[], None]) -> None:
        """Call back, from run(), when a signal has come."""
        self._signals[number] = callback
        before = signal.signal(number, _leave_to_the_pipe)
        self._stack.callback(signal.signal, number, before)

    def at(self, when: float, callback: Callable[[], None]) -> None:
        """Call back once, at a time of the clock; replaces an earlier wish for that callback."""
        self._timers[callback] = when

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back once, so many seconds from now; replaces as at() does."""
        self.at(self.clock() + seconds, callback)

    def cancel(self, *callbacks: Callable[[], None]) -> None:
        """Forget what at() and after() were asked for."""
        for callback in callbacks:
            self._timers.pop(callback, None)

    def stop(self) -> None:
        """Let run() return when what it does now is done."""
        self._stopped = True

    def run(self, handle: Callable[[Message], None]) -> None:
        """Pass on messages and call back, until stop(). What they raise ends it."""
        self._stopped = False
        while not self._stopped:
            for key, _ in self._selector.select(self._wait_s()):
                key.data()
            self._pass_on(handle)
            self._fire()

    def _wait_s(self) -> float | None:
        return max(0.0, min(self._timers.values()) - self.clock()) if self._timers else None

    def _pass_on(self, handle: Callable[[Message], None]) -> None:
        with suppress(Empty):
            while not self._stopped:
                handle(self._messages.get_nowait())

    def _fire(self) -> None:
        now = self.clock()
        for callback in sorted(self._timers, key=lambda each: self._timers[each]):
            # One before it may have cancelled it, or put it off.
            if not self._stopped and self._timers.get(callback, now + 1) <= now:
                del self._timers[callback]
                callback()

    def _wake(self) -> None:
        for number in os.read(self._woken, _READ_SIZE):
            if callback := self._signals.get(number):
                callback()


def _leave_to_the_pipe(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: only with a handler does Python write the signal's number into the pipe."""
