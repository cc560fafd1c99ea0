"""The configuration file: what is read, and every way in which it can be wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from sockaccel import config
from sockaccel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    Write = Callable[[str | bytes], Path]


@click.command("cook")
@click.option("--pot", metavar="PATH", default="/pot", type=click.Path(path_type=Path))
@click.option("--heat", type=click.Choice(["low", "high"]), default="low")
@click.option("--herb", metavar="NAME", multiple=True)
@click.option("--grams", type=click.IntRange(1, 500), default=100)
@click.option("--litres", type=click.FloatRange(min=0))
@click.option("--stir", is_flag=True)
@click.option("--note", metavar="WORDS")
@click.option("--dry-run", is_flag=True)
@click.option("--debug", is_flag=True)
def cook() -> None:
    """Options of every kind."""


OPTIONS = config.keys([cook])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return what writes a file and returns its path."""

    def written(content: str | bytes) -> Path:
        path = tmp_path / "config.toml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


def refusal(path: Path) -> tuple[str, str | None]:
    """Return the error, without its common beginning, and the hint of a file."""
    with pytest.raises(ConfigError) as caught:
        config.load(path).check(OPTIONS)
    assert caught.value.exit_code == 78
    text = str(caught.value)
    assert text.count("\n") == 0
    for beginning in (f"cannot read configuration '{path}': ", "cannot use key "):
        text = text.removeprefix(beginning)
    return text.replace(f" of '{path}'", ""), caught.value.hint


def test_a_file_gives_the_values_it_has_and_no_others(write: Write) -> None:
    path = write('heat = "high"\nherb = ["dill", "sage"]\ngrams = 20\nstir = true\nlitres = 1\n')
    found = config.load(path)
    found.check(OPTIONS)
    assert (found.path, found.exists) == (path, True)
    assert found.defaults(OPTIONS) == {
        "heat": "high",
        "herb": ["dill", "sage"],
        "grams": 20,
        "stir": True,
        "litres": 1,
    }


def test_the_default_file_may_be_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for absent in (tmp_path / "none.toml", tmp_path / "none" / "config.toml"):
        monkeypatch.setattr(config, "DEFAULT_PATH", absent)
        assert config.load() == config.Config(absent, exists=False, values={})


def test_a_file_that_was_named_may_not(tmp_path: Path) -> None:
    said, hint = refusal(tmp_path / "none.toml")
    assert said == "no such file or directory (ENOENT)"
    assert hint == "mend it, or --config /dev/null"


def test_dev_null_is_no_file_at_all() -> None:
    assert config.load(Path(os.devnull)).values == {}


def test_an_empty_file_sets_nothing(write: Write) -> None:
    assert config.load(write("")).values == {}


@pytest.mark.parametrize("kind", ["directory", "fifo", "device"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path = Path("/dev/zero")
    directory = "is a directory (EISDIR)"
    assert refusal(path)[0] == (directory if path.is_dir() else "it is no regular file")


def test_a_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "")

    monkeypatch.setattr(os, "open", refuse)
    assert refusal(tmp_path / "x")[0] == "permission denied (EACCES)"


def test_a_name_that_is_none_is_refused() -> None:
    assert refusal(Path("a\0b"))[0] == "embedded null byte"


def test_a_file_that_nobody_wrote_by_hand_is_refused(write: Write) -> None:
    assert refusal(write("#" * ((1 << 20) + 1)))[0] == "it is larger than 1024 KiB"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a = 1\nb = \n", "invalid value (at line 2, column 5)"),
        ("a = 1\nb = ", "invalid value (at line 2, at the end)"),
        ("a = 1\na = 2\n", "cannot overwrite a value (at line 2, column 6)"),
        (b"a = 1\nb = '\xff'\n", "it is not UTF-8 (at line 2)"),
        ("a = " + "[" * 100_000, "it is nested too deeply"),
    ],
)
def test_what_is_no_toml_is_refused_with_its_place(
    write: Write, content: str | bytes, said: str
) -> None:
    assert refusal(write(content)) == (said, "mend it, or --config /dev/null")


@pytest.mark.parametrize("content", ["grams = " + "1" * 5000, "a = 2024-13-45", 'a = "x'])
def test_no_content_ends_in_a_traceback(write: Write, content: str) -> None:
    assert refusal(write(content))[0]


@pytest.mark.parametrize(
    ("content", "said", "hint"),
    [
        ('heta = "low"', "'heta': there is no such key", 'heat = "low"'),
        ('herbs = ["dill"]', "'herbs': there is no such key", 'herb = ["NAME"]'),
        ("zzzz = 1", "'zzzz': there is no such key", "sockaccel --config /dev/null config show"),
        ("[cook]\nheat = 1", "'cook': it is a table; keys are flat", "write its keys above it"),
        ('heat = "warm"', "'heat': 'warm' is not one of 'low', 'high'", 'heat = "low"'),
        ("heat = 1", "'heat': it must be a string, not an integer", 'heat = "low"'),
        ("grams = '5'", "'grams': it must be an integer, not a string", "grams = 100"),
        ("grams = true", "'grams': it must be an integer, not a boolean", "grams = 100"),
        ("grams = 1.5", "'grams': it must be an integer, not a number", "grams = 100"),
        ("grams = 501", "'grams': 501 is not in the range 1<=x<=500", "grams = 100"),
        ("litres = -1", "'litres': -1.0 is not in the range x>=0", "litres = 1"),
        ("litres = nan", "'litres': nan is no number", "litres = 1"),
        ("litres = true", "'litres': it must be a number, not a boolean", "litres = 1"),
        ("stir = 'yes'", "'stir': it must be a boolean, not a string", "stir = true"),
        ("stir = 1", "'stir': it must be a boolean, not an integer", "stir = true"),
        ("herb = 'dill'", "'herb': it must be an array, not a string", 'herb = ["NAME"]'),
        (
            "herb = ['dill', 1]",
            "'herb': an element: it must be a string, not an integer",
            'herb = ["NAME"]',
        ),
        ("pot = 1979-05-27", "'pot': it must be a string, not a date or time", 'pot = "/pot"'),
        ('note = "a\\u0000b"', "'note': it holds a NUL", 'note = "WORDS"'),
        ("note = {a = 1}", "'note': it must be a string, not a table", 'note = "WORDS"'),
    ],
    ids=str,
)
def test_a_wrong_key_or_value_is_named_with_a_right_one(
    write: Write, content: str, said: str, hint: str
) -> None:
    assert refusal(write(content)) == (said, hint)


def test_every_hint_that_sets_a_key_is_a_right_file(write: Write) -> None:
    for option in OPTIONS.values():
        config.load(write(config._example(option))).check(OPTIONS)


@pytest.mark.parametrize("key", ["dry_run", "debug"])
def test_what_is_asked_for_one_call_is_no_key(write: Write, key: str) -> None:
    assert refusal(write(f"{key} = true"))[0] == f"'{key}': there is no such key"


def test_keys_of_others_are_not_looked_at_by_who_does_not_have_them(write: Write) -> None:
    found = config.load(write('heat = "warm"\nnonsense = 1\nstir = true\n'))
    assert found.defaults({"stir": OPTIONS["stir"]}) == {"stir": True}


def test_reading_needs_no_other_module_of_the_project() -> None:
    code = (
        "import sys, sockaccel.config as c; "
        "print(*sorted(m for m in sys.modules if m.startswith('sockaccel')))"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["sockaccel", "sockaccel.config", "sockaccel.errors"]
