"""Ctrl-C and SIGTERM as one exception, raised once, and never where it would do harm.

A process or a namespace that was made but not yet noted would be left behind,
and a clean-up that is interrupted leaves the rest behind: both run under hold().
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager, ExitStack
    from types import FrameType

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked this program to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class _State:
    held = 0
    pending: int | None = None
    raised: Interrupted | None = None


def _on_signal(signum: int, _frame: FrameType | None) -> None:
    if not _State.raised:
        _State.pending = signum
        _raise_pending()


def _raise_pending() -> None:
    if _State.pending is not None and not _State.held:
        signum, _State.pending = _State.pending, None
        _State.raised = Interrupted(signum)
        raise _State.raised


@contextmanager
def raising() -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into Interrupted while the block runs.

    Any further one is ignored: the first has started the clean-up.
    """
    _State.pending, _State.raised = None, None
    before = {
        signum: signal.signal(signum, _on_signal)
        for signum in SIGNALS
        if signal.getsignal(signum) is not signal.SIG_IGN  # nohup
    }
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _State.raised = None


def interruption() -> Interrupted | None:
    """Return what was raised so far in the block of raising(), if anything was.

    An error of the clean-up that it started takes its place. Whoever goes on after an error
    has to ask here first, because no other signal will be raised.
    """
    return _State.raised


@contextmanager
def hold() -> Iterator[None]:
    """Let no Interrupted arrive in the block; raise it at the end of the block."""
    _State.held += 1
    try:
        yield
    finally:
        _State.held -= 1
        _raise_pending()


def entered(stack: ExitStack, context: AbstractContextManager[T]) -> T:
    """Enter a context whose end the stack knows first: no signal can come in between."""
    stack.push(context)
    return context.__enter__()
