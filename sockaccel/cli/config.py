"""`sockaccel config`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sockaccel import config
from sockaccel.cli import values
from sockaccel.cli.main import Settings, output_option
from sockaccel.cli.options import check_together
from sockaccel.errors import ConfigError, InputError
from sockaccel.render.json import print_json
from sockaccel.render.table import render_table

if TYPE_CHECKING:
    from sockaccel.cli.values import Origin


@dataclass(frozen=True)
class _Setting:
    """A key as a command would see it now."""

    key: str
    value: Any
    origin: Origin


@click.group("config", short_help="What the configuration says, and whether it is right.")
def command() -> None:
    """Show and check what comes from the configuration file, the environment and the flags."""


@command.command("show")
@click.option("--origin", is_flag=True, help="And where each value comes from.")
@click.option(
    "--for",
    "name",
    type=click.Choice(values.CONFIGURED),
    default=values.CONFIGURED[-1],
    show_default=True,
    help="The command whose values to show.",
)
@output_option
@click.pass_context
def show(context: click.Context, origin: bool, name: str) -> None:
    """Show every key and the value that a command would work with if it started now."""
    settings: Settings = context.obj
    root = context.find_root()
    found = _settings(root, name)
    if settings.json:
        file = values.file_of(root)
        print_json(
            "sockaccel.config/1",
            command=name,
            file={"path": str(file.path), "exists": file.exists},
            keys=[
                {
                    "key": each.key,
                    "value": each.value,
                    "origin": each.origin.kind,
                    "source": each.origin.name,
                }
                for each in found
            ],
        )
        return
    headers = ("KEY", "VALUE", "ORIGIN") if origin else ("KEY", "VALUE")
    rows = [(each.key, _text(each.value), each.origin.name or each.origin.kind) for each in found]
    click.echo(render_table(headers, [row[: len(headers)] for row in rows]))


@command.command("check")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@output_option
@click.pass_context
def check(context: click.Context, path: Path | None) -> None:
    """Check every key and value of a file, by default the one that is used now."""
    settings: Settings = context.obj
    root = context.find_root()
    file = config.load(path) if path else values.file_of(root)
    file.check(values.keys(root))
    try:
        check_together(file.values)
    except InputError as error:
        raise ConfigError(f"cannot use '{file.path}': {error}", error.hint) from error
    if settings.json:
        print_json(
            "sockaccel.config-check/1",
            file={"path": str(file.path), "exists": file.exists},
            keys=sorted(file.values),
        )
    elif file.exists:
        click.echo(f"{file.path}: right, sets {', '.join(file.values) or 'nothing'}")
    else:
        click.echo(f"{file.path}: there is none, and none is needed")


def _settings(root: click.Context, name: str) -> list[_Setting]:
    group = root.command
    assert isinstance(group, click.Group)
    asked = group.get_command(root, name)
    assert asked is not None
    values.prepare(root, name, asked)
    inner = asked.make_context(name, [], parent=root)
    inner.close()
    found = []
    # Of several commands with the same key, values.keys() has the option of the first.
    own = {option.name: option for option in asked.params if isinstance(option, click.Option)}
    for key, option in values.keys(root).items():
        context = root if option in group.params else inner
        if key in context.params:
            value = _plain(context.params[key])
            origin = values.origin(context, option if context is root else own[key])
            found.append(_Setting(key, value, origin))
    return found


def _plain(value: object) -> object:
    """Return a value as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, bool | int | float | None) else str(value)


def _text(value: object) -> str:
    if value is None or value == []:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
