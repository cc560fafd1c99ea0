"""The exceptions that a user can meet.

SockaccelError
+-- NotPermittedError     a capability is missing                   (exit 77)
+-- HostError             the host cannot do it or is misconfigured (exit 78)
|   +-- BccError          BCC is missing, unusable or an impostor
|   +-- ConfigError       the configuration file cannot be used
|   +-- DockerError       no usable Docker daemon
+-- DatapathError         the kernel side failed                    (exit 1)
|   +-- CompileError      the C programs do not compile
|   +-- LoadError         the verifier or the kernel refused them
|   +-- AttachError       the kernel did not attach them
+-- StateError            what is there contradicts what was asked  (exit 1)
+-- InputError            a value given by the user is not usable   (exit 2)
+-- BenchError            a measurement failed or is not valid      (exit 1)

Every message reads ``cannot <verb> <object> '<value>': <reason> (<ERRNO>)``;
the hint is one thing to type or to read.
"""

from __future__ import annotations

import errno
import os

# Characters of a value that a message shows.
_SHOWN = 100


class SockaccelError(Exception):
    """Base of all errors that are shown as one line and a hint, without traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class NotPermittedError(SockaccelError):
    """A capability is missing."""

    exit_code = 77


class HostError(SockaccelError):
    """The host cannot do what was asked, or is not set up for it."""

    exit_code = 78


class BccError(HostError):
    """BCC cannot be imported, or what can be imported is not BCC."""


class ConfigError(HostError):
    """The configuration file cannot be read, or says what no option takes."""


class DockerError(HostError):
    """No Docker daemon could be used."""


class DatapathError(SockaccelError):
    """The kernel side could not be compiled, loaded, pinned or attached."""


class CompileError(DatapathError):
    """The C programs do not compile."""


class LoadError(DatapathError):
    """The kernel refused a program or a map."""


class AttachError(DatapathError):
    """The kernel did not attach a program."""


class StateError(SockaccelError):
    """What is on the host contradicts what was asked for; nothing was changed."""


class InputError(SockaccelError):
    """A value given by the user cannot be used."""

    exit_code = 2


class BenchError(SockaccelError):
    """A measurement failed or is not valid."""


def with_escapes(text: str) -> str:
    """Return a text with what is not printable escaped, line ends among it."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def one_line(value: str) -> str:
    """Return a value of somebody else's as a message can show it: escaped, and not too long.

    Else a label could write lines of its own into a log, or move the cursor of who reads it.
    """
    escaped = with_escapes(value)
    return escaped if len(escaped) <= _SHOWN else f"{escaped[:_SHOWN]}…"


def reason(error: OSError) -> str:
    """Return ``<what the C library says> (<ERRNO>)`` for an OSError; without a number, its text."""
    number = error.errno
    if not number:
        return str(error) or type(error).__name__
    return f"{os.strerror(number).lower()} ({errno.errorcode.get(number, number)})"
