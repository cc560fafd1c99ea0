"""`sockaccel config`: what is in force, where it comes from, and whether a file is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sockaccel.cli import main, values
from sockaccel.datapath.options import Options

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture(autouse=True)
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the file that is used."""
    for name in [name for name in os.environ if name.startswith("SOCKACCEL_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "config.toml"
    path.write_text("")
    monkeypatch.setenv("SOCKACCEL_CONFIG", str(path))
    return path


def run(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "sockaccel", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.parametrize("command", values.CONFIGURED)
def test_show_has_every_option_that_the_command_and_the_group_have(command: str) -> None:
    asked = main.cli.get_command(click.Context(main.cli), command)
    assert asked is not None
    per_call = {"dry_run", "force", "config", "debug", "version"}
    wanted = {option.name for option in (*main.cli.params, *asked.params)} - per_call
    answer = json.loads(run("config", "show", "--for", command, "-o", "json").stdout)
    assert {each["key"] for each in answer["keys"]} == wanted


def test_json_says_where_each_value_comes_from(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('policy = "all"\nnetns = ["/a", "/b"]\nports = "80"\n')
    monkeypatch.setenv("SOCKACCEL_PORTS", "81")
    done = run("--pin-dir", "/none", "config", "show", "--for", "enable", "-o", "json")
    answer = json.loads(done.stdout)
    assert (answer["schema"], answer["command"]) == ("sockaccel.config/1", "enable")
    assert answer["file"] == {"path": str(file), "exists": True}
    found = {each.pop("key"): each for each in answer["keys"]}
    for key, value, origin, source in (
        ("pin_dir", "/none", "flag", "--pin-dir"),
        ("ports", "81", "environment", "SOCKACCEL_PORTS"),
        ("policy", "all", "file", str(file)),
        ("netns", ["/a", "/b"], "file", str(file)),
        ("accelerate", [], "default", None),
        ("cgroup", None, "default", None),
        ("max_connections", 65_536, "default", None),
    ):
        assert found[key] == {"value": value, "origin": origin, "source": source}


@pytest.mark.parametrize("command", values.CONFIGURED)
def test_a_short_variable_is_found_for_every_command(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOCKACCEL_PORTS", "80")
    monkeypatch.setenv("SOCKACCEL_MAX_CONNECTIONS", "7")
    answer = json.loads(run("config", "show", "--for", command, "-o", "json").stdout)
    found = {each["key"]: (each["value"], each["source"]) for each in answer["keys"]}
    assert found["ports"] == ("80", "SOCKACCEL_PORTS")
    assert found["max_connections"] == (7, "SOCKACCEL_MAX_CONNECTIONS")


def test_the_table_says_it_when_asked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('netns = ["/a", "/b"]')
    monkeypatch.setenv("SOCKACCEL_ENABLE_POLICY", "all")
    rows = run("config", "show", "--for", "enable").stdout.splitlines()
    assert rows[0].split() == ["KEY", "VALUE"]
    lines = run("config", "show", "--for", "enable", "--origin").stdout.splitlines()
    rows = [line.split(maxsplit=1) for line in lines]
    found = {key: " ".join(rest.split()) for key, rest in rows}
    assert found["KEY"] == "VALUE ORIGIN"
    assert found["netns"] == f"/a, /b {file}"
    assert found["policy"] == "all SOCKACCEL_ENABLE_POLICY"
    assert found["cgroup"] == "unset default"


def test_check_says_what_a_right_file_sets(file: Path, tmp_path: Path) -> None:
    file.write_text('policy = "all"\nnetns = ["/a"]\n')
    assert run("config", "check").stdout == f"{file}: right, sets policy, netns\n"
    other = tmp_path / "other.toml"
    other.write_text("")
    assert run("config", "check", other).stdout == f"{other}: right, sets nothing\n"
    answer = json.loads(run("config", "check", "-o", "json").stdout)
    assert answer == {
        "schema": "sockaccel.config-check/1",
        "file": {"path": str(file), "exists": True},
        "keys": ["netns", "policy"],
    }


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('ports = "80-70"', "'80-70' is not a port or a range within 1-65535"),
        ('debounce = "5s:1s"', "it is not MIN:MAX with MIN <= MAX <= 60s, each in ms or s"),
        ('accelerate = ["bin/x"]', "it is not the name of an executable"),
        ('netns = ["/a", ""]', "it is empty"),
        ('cgroup = "/no/such"', "no such file or directory (ENOENT)"),
        ('docker_host = "unix:x"', "only containers of this host can be accelerated"),
    ],
)
def test_check_refuses_the_text_that_a_command_would_refuse(
    file: Path, line: str, problem: str
) -> None:
    file.write_text(line)
    said = run("config", "check", code=78).stderr
    key = line.split(maxsplit=1)[0]
    assert said.startswith(f"Error: cannot use key '{key}' of '{file}': "), said
    assert said.splitlines()[0].endswith(problem), said
    assert run("enable", "--dry-run", code=78).stderr == said


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ('accelerate = ["a"]\nkeep_on_tcp = ["a"]', "is given with --keep-on-tcp", "give it once"),
        ('accelerate = ["a"]\npolicy = "all"', "does not ask which they are", "--policy safe"),
        ('scope = "all"\nopt_in = true', "cannot select containers", "--scope docker"),
    ],
)
def test_check_refuses_what_contradicts_itself(
    file: Path, text: str, problem: str, hint: str
) -> None:
    file.write_text(text)
    error, said = run("config", "check", code=78).stderr.splitlines()
    assert error.startswith(f"Error: cannot use '{file}': cannot ")
    assert problem in error
    assert said == f"Hint: {hint}"


def test_the_hint_is_a_line_for_the_file(file: Path) -> None:
    file.write_text("ports = 80")
    assert run("config", "check", code=78).stderr.splitlines() == [
        f"Error: cannot use key 'ports' of '{file}': it must be a string, not an integer",
        'Hint: ports = "80,8000-8999"',
    ]


def test_check_of_a_wrong_file_is_one_line_and_a_hint(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('polcy = "all"')
    assert run("config", "check", other, code=78).stderr.splitlines() == [
        f"Error: cannot use key 'polcy' of '{other}': there is no such key",
        'Hint: policy = "safe"',
    ]


def test_no_file_is_right_too() -> None:
    done = run("--config", os.devnull, "config", "check")
    assert done.stdout == f"{os.devnull}: there is none, and none is needed\n"


# The document


def form(option: click.Option) -> str:
    """Return what a key may hold, for people."""
    if isinstance(option.type, click.Choice):
        one = " or ".join(f'`"{choice}"`' for choice in option.type.choices)
    elif option.is_flag:
        one = "boolean"
    elif isinstance(option.type, click.IntRange):
        one = f"integer, {option.type.min} to {option.type.max}"
    else:
        one = "string"
    return f"array of {one}s" if option.multiple else one


def default(option: click.Option) -> str:
    if option.is_flag:
        return "`false`"
    found = option.default
    return f"`{json.dumps(found)}`" if isinstance(found, str | int) else "unset"


def is_live(key: str) -> bool:
    """Say whether the agent takes another value while it runs."""
    one = Options(cgroup="/", policy="safe")
    if not hasattr(one, key) or key == "docker_host":  # the agent keeps its connection
        return False
    other = dict(vars(one))
    other[key] = ("x",) if isinstance(other[key], tuple) else "80"
    return not one.fixed_differences(Options(**other))


def table() -> list[str]:
    root = click.Context(main.cli)
    rows = []
    for key, option in values.keys(root).items():
        meaning = (option.help or "").replace("|", "\\|")
        live = "yes" if is_live(key) else ""
        rows.append(f"| `{key}` | {form(option)} | {default(option)} | {live} | {meaning} |")
    return rows


def test_the_document_has_the_keys_that_there_are() -> None:
    text = DOCUMENT.read_text()
    shown = text.partition("<!-- keys:")[2].partition("<!-- end of keys -->")[0]
    assert shown.splitlines()[3:] == table()


def test_the_example_of_the_document_is_right(tmp_path: Path) -> None:
    example = DOCUMENT.read_text().partition("```toml\n")[2].partition("```")[0]
    path = tmp_path / "example.toml"
    path.write_text(example)
    assert "right, sets policy, accelerate" in run("config", "check", path).stdout
