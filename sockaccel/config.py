"""The configuration file: below flags and environment, above the defaults.

Its keys are the options' own names, and what a key may hold is what the option may hold:
both are taken from the commands, so that no list is kept twice. Keys are flat; a table in the
file is an error.
"""

from __future__ import annotations

import difflib
import math
import os
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sockaccel.errors import ConfigError, InputError, reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT_PATH = Path("/etc/sockaccel/config.toml")
WITHOUT = f"--config {os.devnull}"
"""What to type to go on without any file."""

# Nobody writes that much by hand; bytes.
_MAX_SIZE = 1 << 20
# What one call is asked for; a file would ask for it ever after. `debug` must be known before
# the file is read.
_PER_CALL = {"config", "debug", "dry_run", "force", "version"}
_KINDS = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "a table",
}


@dataclass(frozen=True)
class Config:
    """What a file says: values as TOML has them, by key."""

    path: Path
    exists: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)

    def check(self, options: Mapping[str, click.Option]) -> None:
        """Check every key and value against the options that there are.

        Raises:
            ConfigError: a key is unknown, or its value is none that the option takes.

        """
        for key in self.values:
            if key not in options:
                raise self._unknown(key, options)
        self.defaults(options)

    def defaults(self, options: Mapping[str, click.Option]) -> dict[str, Any]:
        """Return the file's values for these options, for click's `default_map`.

        Raises:
            ConfigError: a value is none that its option takes.

        """
        known = [key for key in self.values if key in options]
        for key in known:
            if problem := _problem(options[key], self.values[key]):
                raise self._error(key, problem, _example(options[key]))
        return {key: self.values[key] for key in known}

    def _unknown(self, key: str, options: Mapping[str, click.Option]) -> ConfigError:
        if isinstance(self.values[key], dict):
            return self._error(key, "it is a table; keys are flat", "write its keys above it")
        nearest = difflib.get_close_matches(key, options, n=1)
        hint = _example(options[nearest[0]]) if nearest else f"sockaccel {WITHOUT} config show"
        return self._error(key, "there is no such key", hint)

    def _error(self, key: str, problem: str, hint: str) -> ConfigError:
        return ConfigError(f"cannot use key '{key}' of '{self.path}': {problem}", hint)


def load(path: Path | None = None) -> Config:
    """Read a file; without a path the default one, which may be absent. /dev/null is empty.

    Raises:
        ConfigError: it cannot be read, or is no TOML.

    """
    chosen = path or DEFAULT_PATH
    if chosen == Path(os.devnull):
        return Config(chosen)
    try:
        data = _read(chosen)
    except (FileNotFoundError, NotADirectoryError) as error:
        if path is None:
            return Config(chosen)
        raise _unreadable(chosen, reason(error)) from error
    except OSError as error:
        raise _unreadable(chosen, reason(error)) from error
    except ValueError as error:  # a NUL in the name
        raise _unreadable(chosen, str(error)) from error
    return Config(chosen, exists=True, values=_parse(chosen, data))


def keys(commands: Iterable[click.Command]) -> dict[str, click.Option]:
    """Return the options that a file may set, by key; the first command that has one wins."""
    found: dict[str, click.Option] = {}
    for command in commands:
        for option in command.params:
            if isinstance(option, click.Option) and option.name and option.name not in _PER_CALL:
                found.setdefault(option.name, option)
    return found


def _read(path: Path) -> bytes:
    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # else a FIFO waits for its writer

    with open(path, "rb", opener=opener) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _unreadable(path, "it is no regular file")
        data = file.read(_MAX_SIZE + 1)
    if len(data) > _MAX_SIZE:
        raise _unreadable(path, f"it is larger than {_MAX_SIZE >> 10} KiB")
    return data


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _unreadable(path, f"it is not UTF-8 (at line {line})") from error
    except ValueError as error:  # a number of more digits than Python reads is one, too
        end = f"at line {data.count(10) + 1}, at the end"
        text = str(error).replace("at end of document", end)
        raise _unreadable(path, text[:1].lower() + text[1:]) from error
    except RecursionError as error:
        raise _unreadable(path, "it is nested too deeply") from error


def _unreadable(path: Path, why: str) -> ConfigError:
    return ConfigError(f"cannot read configuration '{path}': {why}", f"mend it, or {WITHOUT}")


def _problem(option: click.Option, value: object) -> str | None:
    """Return why an option does not take a value, if it does not."""
    if option.multiple:
        if not isinstance(value, list):
            return f"it must be an array, not {_kind(value)}"
        problems = (_problem_of_one(option, each) for each in value)
        return next((f"an element: {problem}" for problem in problems if problem), None)
    return _problem_of_one(option, value)


def _problem_of_one(option: click.Option, value: object) -> str | None:
    wanted = _wanted(option)
    accepted = (int, float) if wanted is float else (wanted,)
    # bool is a subclass of int, and must not pass for one.
    if type(value) not in accepted:
        return f"it must be {_KINDS[wanted]}, not {_kind(value)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no number"
    if isinstance(value, str) and "\0" in value:
        return "it holds a NUL"
    try:
        option.type.convert(value, option, None)
    except click.BadParameter as error:
        return error.message.rstrip(".")
    except InputError as error:
        return str(error)
    return None


def _wanted(option: click.Option) -> type:
    if option.is_flag:
        return bool
    if isinstance(option.type, click.types.IntParamType):
        return int
    if isinstance(option.type, click.types.FloatParamType):
        return float
    return str


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a date or time")


def _example(option: click.Option) -> str:
    """Return a line of a file that sets an option."""
    wanted = _wanted(option)
    if wanted is bool:
        text = "true"
    elif wanted is str:
        choices = getattr(option.type, "choices", None) or [getattr(option.type, "example", None)]
        default = option.default if isinstance(option.default, str) else option.metavar
        text = f'"{choices[0] or default or "TEXT"}"'
    else:
        text = str(option.default if isinstance(option.default, int | float) else 1)
    return f"{option.name} = [{text}]" if option.multiple else f"{option.name} = {text}"
