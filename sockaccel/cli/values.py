"""Where the commands' values come from: flags, then environment, then the file, then defaults.

click asks them in that order by itself; this gives it the variables' names and the file's values.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from sockaccel import config
from sockaccel.config import DEFAULT_PATH, Config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "CONFIGURED",
    "DEFAULT_PATH",
    "Origin",
    "file_of",
    "keys",
    "origin",
    "prepare",
    "read_file",
    "reload",
]

# Whose options, besides the global ones, are the keys of the file.
CONFIGURED = ("enable", "agent")

_PATH, _FILE, _WORDS = (f"{__name__}.{name}" for name in ("path", "file", "words"))


@dataclass(frozen=True)
class Origin:
    """Where a value comes from."""

    kind: str
    """flag, environment, file, or default."""
    name: str | None = None
    """The flag, the variable, or the file's path."""


def read_file(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Read the file and give the global options their values. A callback of --config.

    Raises:
        ConfigError: it cannot be read, or one of these values is wrong. Other keys are left to
            the commands that have them: whatever the file says, `disable` must work.

    """
    if context.resilient_parsing:
        return
    context.meta[_PATH] = path
    _use(context, config.load(path))


def prepare(
    root: click.Context, name: str, command: click.Command, words: Sequence[str] = ()
) -> None:
    """Give a command its variables' names and the file's values, before it parses its words.

    Raises:
        ConfigError: a value is wrong; for the commands whose options the file's keys are, or
            any key.

    """
    shared: set[str | None] = {option.name for option in _options(root.command)}
    _name_variables(command, [name], shared)
    root.meta[_WORDS] = tuple(words)
    file = file_of(root)
    if name in CONFIGURED:
        file.check(keys(root))
    if root.default_map is not None:
        root.default_map[name] = _defaults(root, file, command, shared, words)


def keys(root: click.Context) -> dict[str, click.Option]:
    """Return the options that the file may set, by key."""
    group = root.command
    assert isinstance(group, click.Group)
    commands = (group.get_command(root, name) for name in CONFIGURED)
    return config.keys([group, *filter(None, commands)])


def reload(context: click.Context) -> dict[str, Any]:
    """Read the file again; return a command's values as they would be if it started now.

    Flags and environment are those of its start. The global options keep their values. After an
    error everything is as it was before.

    Raises:
        ConfigError: the file cannot be used.

    """
    root = context.find_root()
    assert context.info_name is not None
    file = config.load(root.meta[_PATH])
    file.check(keys(root))
    _use(root, file)
    words = root.meta[_WORDS]
    prepare(root, context.info_name, context.command, words)
    fresh = context.command.make_context(context.info_name, list(words), parent=root)
    fresh.close()
    return fresh.params


def origin(context: click.Context, option: click.Option) -> Origin:
    """Return where the value of a context's option comes from."""
    source = context.get_parameter_source(option.name or "")
    if source is ParameterSource.COMMANDLINE:
        return Origin("flag", max(option.opts, key=len))
    if source is ParameterSource.ENVIRONMENT:
        names = option.envvar or f"{context.auto_envvar_prefix}_{_word(option)}".upper()
        names = [names] if isinstance(names, str) else names
        return Origin("environment", next(name for name in names if os.environ.get(name)))
    if source is ParameterSource.DEFAULT_MAP:
        return Origin("file", str(file_of(context).path))
    return Origin("default")


def file_of(context: click.Context) -> Config:
    """Return the file that was read."""
    # None was where a shell only asks for completions.
    file: Config = context.meta.get(_FILE, Config(DEFAULT_PATH))
    return file


def _use(root: click.Context, file: Config) -> None:
    root.default_map = file.defaults(config.keys([root.command]))
    root.meta[_FILE] = file


def _options(command: click.Command) -> list[click.Option]:
    return [option for option in command.params if isinstance(option, click.Option)]


def _word(option: click.Option) -> str:
    """Return an option as it is typed: the name of its parameter may be another."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


def _name_variables(command: click.Command, path: list[str], shared: set[str | None]) -> None:
    """Let SOCKACCEL_ENABLE_POLICY and SOCKACCEL_POLICY give --policy of `enable`."""
    for option in _options(command):
        # The short names of global options are theirs: `sockaccel -o table status` must not be
        # overruled by the variable a second time, for `status`.
        if option.name not in shared and option.allow_from_autoenv and not option.envvar:
            own = "_".join(("SOCKACCEL", *path, _word(option))).replace("-", "_")
            option.envvar = [name.upper() for name in (own, f"SOCKACCEL_{_word(option)}")]
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            _name_variables(inner, [*path, name], shared)


def _defaults(
    root: click.Context,
    file: Config,
    command: click.Command,
    shared: set[str | None],
    words: Sequence[str],
) -> dict[str, Any]:
    """Return the file's values for a command, and for those below it that its words name."""
    mine = {option.name for option in _options(command)} & file.values.keys() - shared
    # Only then are the other commands imported: `status` must be quick.
    known = keys(root) if mine else {}
    found = file.defaults({key: known[key] for key in known.keys() & mine})
    if isinstance(command, click.Group):
        for name in command.commands.keys() & set(words):
            found[name] = _defaults(root, file, command.commands[name], shared, words)
    return found
