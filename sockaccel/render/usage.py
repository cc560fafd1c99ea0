"""What click says of a wrong command line, said as every other error is."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from sockaccel.errors import InputError
from sockaccel.render.errors import show

if TYPE_CHECKING:
    from collections.abc import Iterable

# click before 8.2 has no such exception: it shows the help, and that is no error there.
_NO_COMMAND: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())


def show_usage(error: click.UsageError, context: click.Context) -> None:
    """Print what is wrong with a command line; `context`: where click does not know its own."""
    if isinstance(error, _NO_COMMAND):
        click.echo(f"{error.message}\n", err=True)  # the help
    show(_explain(error, error.ctx or context))


def _explain(error: click.UsageError, context: click.Context) -> InputError:
    path = context.command_path
    if isinstance(error, _NO_COMMAND):
        return InputError(f"cannot run '{path}': no command is given", f"{path} COMMAND --help")
    if isinstance(error, click.NoSuchOption):
        return _no_such_option(error.option_name, context)
    if isinstance(error, click.BadOptionUsage):
        for whose in (context, context.find_root()):
            if option := _option(whose.command, error.option_name):
                why = _reason(error).replace(f"option '{error.option_name}'", "it")
                return InputError(
                    f"cannot use option '{error.option_name}': {why}",
                    f"{whose.command_path} {_example(option)}",
                )
    if isinstance(error, click.BadParameter) and error.param:
        return _bad_value(error, error.param, context)
    name = getattr(error, "command_name", None)  # of NoSuchCommand, which click has since 8.4
    if name is not None and isinstance(context.command, click.Group):
        near = _nearest(name, context.command.list_commands(context))
        return InputError(
            f"cannot run '{path} {name}': there is no such command",
            f"{path} {near}" if near else _help(context),
        )
    return InputError(f"cannot run '{path}': {_reason(error)}", _help(context))


def _no_such_option(name: str, context: click.Context) -> InputError:
    path = context.command_path
    root = context.find_root()
    if context is not root and (option := _option(root.command, name)):
        rest = path.removeprefix(root.command_path)
        return InputError(
            f"cannot use option '{name}' of '{root.command_path}' here: "
            "it stands before the command",
            f"{root.command_path} {_example(option)}{rest}",
        )
    # Those of one letter are near to everything.
    names = [each for option in _options(context.command) for each in option.opts]
    near = _nearest(name, [each for each in names if each.startswith("--")])
    option = _option(context.command, near) if near else None
    return InputError(
        f"cannot use option '{name}' of '{path}': there is no such option",
        f"{path} {_example(option)}" if option else _help(context),
    )


def _bad_value(
    error: click.BadParameter, parameter: click.Parameter, context: click.Context
) -> InputError:
    name = parameter.human_readable_name
    if isinstance(error, click.MissingParameter):
        return InputError(
            f"cannot run '{context.command_path}': {name} is missing", _with_arguments(context)
        )
    why = _reason(error)
    value = why.partition(" is not ")[0]
    if " is not a valid " in why:  # click goes on with "float range", which is no word of users
        if isinstance(parameter.type, click.types.IntParamType):
            why = f"{value} is not an integer"
        elif isinstance(parameter.type, click.types.FloatParamType):
            why = f"{value} is not a number"
    if not isinstance(parameter, click.Option):
        return InputError(f"cannot use {name}: {why}", _with_arguments(context))
    if variable := _variable(parameter, context):
        return InputError(f"cannot use variable '{variable}': {why}", f"unset {variable}")
    return InputError(
        f"cannot use option '{_name(parameter)}': {why}", _example(parameter, value.strip("'"))
    )


def _variable(option: click.Option, context: click.Context) -> str | None:
    """Return the environment variable that a value comes from, if it comes from one."""
    if context.get_parameter_source(option.name or "") is not ParameterSource.ENVIRONMENT:
        return None
    from sockaccel.cli.values import origin  # noqa: PLC0415  # imports what errors must not need

    return origin(context, option).name


def _example(option: click.Option, wrong: str = "") -> str:
    """Return an option with a value that it takes, near to a wrong one where it has a choice."""
    name = _name(option)
    if option.is_flag:
        return name
    if isinstance(option.type, click.Choice):
        # click before 8.2 has strings only, and later versions take anything.
        choices = [str(each) for each in option.type.choices]
        return f"{name} {_nearest(wrong, choices) or choices[0]}"
    if isinstance(option.default, int | float | str):
        return f"{name} {option.default}"
    least = getattr(option.type, "min", None)
    if least is not None:
        return f"{name} {least}"
    example = getattr(option.type, "example", None)  # of cli.options.Checked
    return f"{name} {example or option.metavar or option.type.name.upper()}"


def _with_arguments(context: click.Context) -> str:
    arguments = (each for each in context.command.params if isinstance(each, click.Argument))
    return " ".join([context.command_path, *(each.human_readable_name for each in arguments)])


def _help(context: click.Context) -> str:
    return f"{context.command_path} --help"


def _options(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option) and not each.hidden]


def _option(command: click.Command, name: str) -> click.Option | None:
    return next((each for each in _options(command) if name in each.opts), None)


def _name(option: click.Option) -> str:
    return max(option.opts, key=len)


def _nearest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(name, list(names), n=1)), None)


def _reason(error: click.UsageError) -> str:
    why = error.message.rstrip(".")
    return why[:1].lower() + why[1:]
