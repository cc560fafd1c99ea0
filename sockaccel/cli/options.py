"""The options of `enable`, which `agent` has, too: what they are, and what they come to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from sockaccel.datapath.options import (
    DEFAULT_MAX_CONNECTIONS,
    MAX_CONNECTIONS_LIMIT,
    Options,
)
from sockaccel.datapath.programs import executable_names, name_key
from sockaccel.errors import InputError, one_line
from sockaccel.inspect.processes import any_program
from sockaccel.scope.cgroup import check_cgroup, default_cgroup
from sockaccel.scope.docker import docker_url
from sockaccel.scope.ports import parse_ports

if TYPE_CHECKING:
    from collections.abc import Mapping

if TYPE_CHECKING:
    _TextType = click.ParamType[str]
else:  # click before 8.2 knows no such thing
    _TextType = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])


class Checked(_TextType):
    """Text that resolve() will be able to use: where it cannot, that is said of whoever gave it.

    So that `config check` finds in a file what `enable` would refuse. example: one that it takes.
    """

    name = "text"

    def __init__(self, check: Callable[[str], object], example: str) -> None:
        self._check = check
        self.example = example

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text as it is.

        Raises:
            InputError: what is wrong with it, which says more than click does.
            BadParameter: the same, of a variable: the hint of the error is for a flag.

        """
        try:
            self._check(value)
        except InputError as error:
            source = ctx.get_parameter_source(param.name or "") if ctx and param else None
            if source is ParameterSource.ENVIRONMENT:
                raise click.BadParameter(str(error), ctx, param) from error
            raise
        return value


def _check_program_name(name: str) -> None:
    if not name or "/" in name or "\0" in name:
        raise InputError(
            f"cannot use program '{name}': it is not the name of an executable",
            "the name without its directory, such as `ls -l /proc/PID/exe` shows",
        )


def _named(what: str, hint: str, example: str) -> Checked:
    """Return the type of a name: '' would be the working directory, or nobody's."""

    def check(name: str) -> None:
        if not name:
            raise InputError(f"cannot use {what} '': it is empty", hint)

    return Checked(check, example)


_PROGRAM = Checked(_check_program_name, "nginx")
_OPTIONS = (
    click.option(
        "--cgroup",
        metavar="PATH",
        type=Checked(check_cgroup, "/sys/fs/cgroup"),
        help="Only sockets made in it or below. Default: the root of cgroup v2.",
    ),
    click.option(
        "--scope",
        type=click.Choice(["docker", "all"]),
        default="docker",
        show_default=True,
        help="Every running container (and what --netns names), or every namespace.",
    ),
    click.option(
        "--policy",
        type=click.Choice(["safe", "all"]),
        default="safe",
        show_default=True,
        help="safe: only programs known to read in a way that survives it; "
        "all: whatever is in scope.",
    ),
    click.option(
        "--accelerate",
        metavar="PROGRAM",
        type=_PROGRAM,
        multiple=True,
        help="Name of an executable that --policy safe is to take as known; may be given again.",
    ),
    click.option(
        "--keep-on-tcp",
        metavar="PROGRAM",
        type=_PROGRAM,
        multiple=True,
        help="Name of an executable whose sockets stay on TCP; may be given again.",
    ),
    click.option(
        "--netns",
        metavar="PATH",
        type=_named("network namespace", "lsns -t net -o PID,NSFS,COMMAND", "/run/netns/NAME"),
        multiple=True,
        help="A network namespace to put in scope; may be given again.",
    ),
    click.option(
        "--opt-in", is_flag=True, help="Only containers with the label sockaccel.enable=true."
    ),
    click.option(
        "--network",
        metavar="NAME",
        type=_named("network", "docker network ls", "NAME"),
        multiple=True,
        help="Only containers attached to this Docker network; may be given again for others.",
    ),
    click.option(
        "--project",
        metavar="NAME",
        type=_named("project", "docker compose ls", "NAME"),
        multiple=True,
        help="Only containers of this Compose project; may be given again for others.",
    ),
    click.option(
        "--ports",
        metavar="LIST",
        type=Checked(parse_ports, "80,8000-8999"),
        help="Listeners' ports, such as 80,8000-8999.",
    ),
    click.option(
        "--max-connections",
        metavar="N",
        type=click.IntRange(1, MAX_CONNECTIONS_LIMIT),
        default=DEFAULT_MAX_CONNECTIONS,
        show_default=True,
        help="More stay on TCP.",
    ),
    click.option(
        "--docker-host",
        metavar="URL",
        type=Checked(docker_url, "unix:///run/docker.sock"),
        help="Default: DOCKER_HOST, else unix:///run/docker.sock.",
    ),
    click.option("--force", is_flag=True, help="Go on although this kernel failed the trial."),
    click.option("--dry-run", is_flag=True, help="Check everything, say what would be done, stop."),
)


def enable_options(function: F) -> F:
    """Give a command the options that say what to accelerate; resolve() takes their values."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def resolve(values: Mapping[str, Any]) -> Options:
    """Return what the values of these options, by name, come to; warn of what looks wrong.

    Raises:
        InputError: a value cannot be used.
        HostError: there is no cgroup v2.

    """
    cgroup, ports = values["cgroup"], values["ports"]
    options = Options(
        ports=str(parse_ports(ports)) if ports is not None else None,
        accelerate=tuple(sorted(set(values["accelerate"]))),
        keep_on_tcp=tuple(sorted(set(values["keep_on_tcp"]))),
        cgroup=str(check_cgroup(cgroup) if cgroup is not None else default_cgroup()),
        scope=values["scope"],
        policy=values["policy"],
        netns=tuple(sorted({str(Path(path).absolute()) for path in values["netns"]})),
        max_connections=values["max_connections"],
        docker_host=values["docker_host"],
        opt_in=values["opt_in"],
        network=tuple(sorted(set(values["network"]))),
        project=tuple(sorted(set(values["project"]))),
    )
    check_together(values)
    _warn_of_strangers(*options.accelerate, *options.keep_on_tcp)
    return options


def check_together(values: Mapping[str, Any]) -> None:
    """Refuse values of these options that contradict each other; one that is missing says nothing.

    Raises:
        InputError: two of them do.

    """
    accelerate, keep_on_tcp = (values.get(name, ()) for name in ("accelerate", "keep_on_tcp"))
    # Compared as the kernel side does: 15 characters.
    refused = {name_key(name) for name in keep_on_tcp}
    for name in accelerate:
        if name_key(name) in refused:
            raise InputError(
                f"cannot accelerate program '{name}': it is given with --keep-on-tcp, too",
                "give it once",
            )
    if values.get("policy") == "all" and (accelerate or keep_on_tcp):
        raise InputError(
            "cannot tell programs apart: --policy all does not ask which they are",
            "--policy safe",
        )
    selecting = any(values.get(name) for name in ("opt_in", "network", "project"))
    if values.get("scope") == "all" and selecting:
        raise InputError(
            "cannot select containers: --scope all puts every network namespace in scope",
            "--scope docker",
        )


def _warn_of_strangers(*names: str) -> None:
    for name in names:
        if not any_program(executable_names(name)):
            click.echo(
                f"Warning: no executable '{one_line(name)}' is in PATH, and no process runs one; "
                "`ls -l /proc/PID/exe` shows the right name",
                err=True,
            )
