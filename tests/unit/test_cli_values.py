"""Flags, then environment, then the file, then defaults; and the whole again for a reload."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from sockaccel.cli import main, values
from sockaccel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Started = Callable[..., click.Context]

HINT = "mend it, or --config /dev/null"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("SOCKACCEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SOCKACCEL_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text("")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], None]:
    """Return what writes the file that is used."""
    return lambda text: (tmp_path / "config.toml").write_text(text) and None


def root_context(*words: str) -> click.Context:
    """Return the context of the command line, its callback called, as it is for a command."""
    context = main.cli.make_context("sockaccel", [*words, "enable"])
    context.obj = main.Settings("table", Path("/none"), "auto", debug=False)
    return context


def started(*words: str, before: tuple[str, ...] = ()) -> click.Context:
    """Return the context of `enable` with these words, before it does anything."""
    root = root_context(*before)
    name, command, rest = main.cli.resolve_command(root, ["enable", *words])
    assert command is not None
    return command.make_context(name, rest, parent=root)


def origin_of(context: click.Context, key: str) -> tuple[Any, str, str | None]:
    option = next(each for each in context.command.params if each.name == key)
    assert isinstance(option, click.Option)
    found = values.origin(context, option)
    return context.params[key], found.kind, found.name


def test_each_source_gives_way_to_the_one_above_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write: Callable[[str], None]
) -> None:
    assert origin_of(started(), "max_connections") == (65_536, "default", None)
    write("max_connections = 2")
    path = str(tmp_path / "config.toml")
    assert origin_of(started(), "max_connections") == (2, "file", path)
    monkeypatch.setenv("SOCKACCEL_MAX_CONNECTIONS", "3")
    short = (3, "environment", "SOCKACCEL_MAX_CONNECTIONS")
    assert origin_of(started(), "max_connections") == short
    monkeypatch.setenv("SOCKACCEL_ENABLE_MAX_CONNECTIONS", "4")
    long = (4, "environment", "SOCKACCEL_ENABLE_MAX_CONNECTIONS")
    assert origin_of(started(), "max_connections") == long
    flag = (5, "flag", "--max-connections")
    assert origin_of(started("--max-connections", "5"), "max_connections") == flag


def test_global_options_do_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write: Callable[[str], None]
) -> None:
    write('pin_dir = "/file"')
    assert origin_of(root_context(), "pin_dir")[:2] == (Path("/file"), "file")
    monkeypatch.setenv("SOCKACCEL_PIN_DIR", "/variable")
    variable = (Path("/variable"), "environment", "SOCKACCEL_PIN_DIR")
    assert origin_of(root_context(), "pin_dir") == variable
    flag = (Path("/flag"), "flag", "--pin-dir")
    assert origin_of(root_context("--pin-dir", "/flag"), "pin_dir") == flag


def test_a_list_of_a_higher_source_replaces_the_lower_one_whole(
    monkeypatch: pytest.MonkeyPatch, write: Callable[[str], None]
) -> None:
    write('netns = ["/a", "/b"]\naccelerate = ["java"]')
    assert started().params["netns"] == ("/a", "/b")
    monkeypatch.setenv("SOCKACCEL_NETNS", "/c:/d /e")
    monkeypatch.setenv("SOCKACCEL_ACCELERATE", "node  java")
    assert started().params["netns"] == ("/c:/d", "/e")
    assert started().params["accelerate"] == ("node", "java")
    assert started("--netns", "/f").params["netns"] == ("/f",)


@pytest.mark.parametrize(
    ("text", "said"), [("1", True), ("yes", True), ("ON", True), ("0", False), ("false", False)]
)
def test_a_flag_by_environment_can_say_no(
    monkeypatch: pytest.MonkeyPatch, text: str, said: bool
) -> None:
    monkeypatch.setenv("SOCKACCEL_DRY_RUN", text)
    assert started().params["dry_run"] is said


def test_an_empty_variable_is_none(
    monkeypatch: pytest.MonkeyPatch, write: Callable[[str], None]
) -> None:
    write('policy = "all"')
    monkeypatch.setenv("SOCKACCEL_POLICY", "")
    assert started().params["policy"] == "all"


def test_a_command_line_of_today_gets_the_same_values_from_click(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The names that click makes by itself stay, and stay above the short ones."""
    monkeypatch.setenv("SOCKACCEL_ENABLE_POLICY", "all")
    monkeypatch.setenv("SOCKACCEL_POLICY", "safe")
    assert started().params["policy"] == "all"


def named_options(command: click.Command, *path: str) -> Iterator[tuple[str, click.Option]]:
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar:
            for name in option.envvar:
                yield name, option
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from named_options(inner, *path, name)


def test_every_option_of_every_command_has_its_short_variable() -> None:
    root = root_context()
    shared = {option.name for option in main.cli.params}
    for name in main.cli.list_commands(root):
        command = main.cli.get_command(root, name)
        assert command is not None
        values.prepare(root, name, command)
        variables = {variable for variable, _ in named_options(command)}
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in shared:
                assert f"SOCKACCEL_{option.name}".upper() in variables
                assert f"SOCKACCEL_{name}_{option.name}".upper() in variables


def test_no_variable_means_two_things() -> None:
    """One name may serve several commands, but only for options of one name."""
    root = root_context()
    meanings = {f"SOCKACCEL_{option.name}".upper(): option.name for option in main.cli.params}
    for name in main.cli.list_commands(root):
        command = main.cli.get_command(root, name)
        assert command is not None
        values.prepare(root, name, command)
        for variable, option in named_options(command):
            assert meanings.setdefault(variable, option.name) == option.name


def test_a_variable_is_named_as_the_option_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the parameter behind it has another name, too."""
    for variable, words in (
        ("SOCKACCEL_FORMAT", ("bench", "report", "x.json")),
        ("SOCKACCEL_FOR", ("config", "show")),
        ("SOCKACCEL_SET", ("bench", "run")),
    ):
        monkeypatch.setenv(variable, "bogus")
        assert "bogus" in run(*words, code=2).stderr
        monkeypatch.delenv(variable)


def run(*words: str | Path, code: int) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "sockaccel", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, done.stderr
    return done


def test_a_global_variable_does_not_overrule_the_flag_a_second_time(
    monkeypatch: pytest.MonkeyPatch, write: Callable[[str], None]
) -> None:
    write('output = "json"\npin_dir = "/none"')
    monkeypatch.setenv("SOCKACCEL_OUTPUT", "json")
    assert run("status", code=3).stdout.startswith("{")
    assert run("-o", "table", "status", code=3).stdout.startswith("inactive")


def test_every_command_works_with_the_pin_directory_of_the_file(
    tmp_path: Path, write: Callable[[str], None]
) -> None:
    write(f'pin_dir = "{tmp_path}/pins"')
    assert f"nothing is pinned in {tmp_path}/pins" in run("status", code=3).stdout
    assert f"nothing is pinned in '{tmp_path}/pins'" in run("dump", code=1).stderr


@pytest.mark.parametrize("text", ["nonsense = 1", 'policy = "x"', "[enable]\npolicy = 'safe'"])
def test_what_only_enable_needs_stops_enable_and_nothing_else(
    write: Callable[[str], None], text: str
) -> None:
    write(f'pin_dir = "/none"\n{text}')
    run("status", code=3)
    run("bench", "list", "echo", code=0)
    said = run("enable", code=78).stderr.splitlines()
    assert said[0].startswith("Error: cannot use key '")
    assert said[1].startswith("Hint: ")
    run("config", "check", code=78)


@pytest.mark.parametrize("command", ["status", "dump", "disable", "doctor", "enable"])
def test_a_file_that_cannot_be_read_stops_every_command_with_a_way_on(
    write: Callable[[str], None], tmp_path: Path, command: str
) -> None:
    """Where the pins are is in that file: what was not found must not pass for disabled."""
    write("pin_dir = ")
    said = run(command, code=78).stderr.splitlines()
    why = "invalid value (at line 1, at the end)"
    assert said == [
        f"Error: cannot read configuration '{tmp_path}/config.toml': {why}",
        f"Hint: {HINT}",
    ]


def test_the_way_on_is_one(write: Callable[[str], None]) -> None:
    write("pin_dir = ")
    run("--config", os.devnull, "--pin-dir", "/none", "status", code=3)


def test_help_needs_no_file(write: Callable[[str], None]) -> None:
    write("pin_dir = ")
    assert "--config PATH" in run("--help", code=0).stdout
    assert run("--version", code=0).stdout


def test_help_shows_the_defaults_of_the_file(write: Callable[[str], None]) -> None:
    write("max_connections = 1234")
    assert "default: 1234" in run("enable", "--help", code=0).stdout


def test_a_reload_reads_the_file_again_and_keeps_flags_and_environment(
    monkeypatch: pytest.MonkeyPatch, write: Callable[[str], None]
) -> None:
    write('policy = "all"\nports = "80"\nmax_connections = 1')
    monkeypatch.setenv("SOCKACCEL_PORTS", "81")
    context = started("--max-connections", "9", "--netns", "/x")
    before = dict(context.params)
    assert values.reload(context) == before
    write('docker_host = "unix:///other"\nports = "82"\nmax_connections = 2\nnetns = ["/y"]')
    assert values.reload(context) == before | {"policy": "safe", "docker_host": "unix:///other"}
    assert context.params == before


def test_a_reload_leaves_the_global_options_alone(write: Callable[[str], None]) -> None:
    write('pin_dir = "/a"')
    context = started()
    write('pin_dir = "/b"')
    values.reload(context)
    assert context.find_root().params["pin_dir"] == Path("/a")


@pytest.mark.parametrize("text", ["policy = ", 'policy = "x"', "polcy = 'all'", "output = 'x'"])
def test_a_reload_of_a_broken_file_changes_nothing_and_the_next_one_works(
    write: Callable[[str], None], text: str
) -> None:
    write('policy = "all"')
    context = started()
    write(text)
    for _ in range(2):
        with pytest.raises(ConfigError):
            values.reload(context)
    assert context.params["policy"] == "all"
    assert values.file_of(context).values == {"policy": "all"}
    write("max_connections = 7")
    found = values.reload(context)
    assert (found["policy"], found["max_connections"]) == ("safe", 7)


def test_a_file_that_was_absent_is_found_by_the_reload(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SOCKACCEL_CONFIG")
    path = tmp_path / "default.toml"
    monkeypatch.setattr("sockaccel.config.DEFAULT_PATH", path)
    context = started()
    path.write_text('policy = "all"')
    assert values.reload(context)["policy"] == "all"
    path.unlink()
    assert values.reload(context)["policy"] == "safe"
