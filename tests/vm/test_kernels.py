"""Where kernels come from, and what a VM is started with: no VM needed."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from . import kernels, vm

if TYPE_CHECKING:
    from pathlib import Path

ONE_LINE = """\
# deb http://mirror.example/debian bookworm main
deb [signed-by=/k.gpg arch=amd64] http://mirror.example/debian bookworm main contrib
deb http://mirror.example/debian bookworm-updates main
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/debian-security bookworm-security main
"""

STANZAS = """\
Types: deb
# a mirror
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /k.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


def test_one_line_sources_keep_their_mirror_and_options(etc: Path) -> None:
    (etc / "sources.list").write_text(ONE_LINE)
    assert kernels.sources_for("trixie", etc)[".list"].splitlines() == [
        "deb [signed-by=/k.gpg arch=amd64] http://mirror.example/debian trixie main contrib",
        "deb http://mirror.example/debian-security trixie-security main",
    ]


def test_stanzas_keep_everything_but_the_suite(etc: Path) -> None:
    (etc / "sources.list.d" / "debian.sources").write_text(STANZAS)
    expected = STANZAS.replace("bookworm bookworm-updates", "trixie").replace("bookworm", "trixie")
    assert kernels.sources_for("trixie", etc)[".sources"] == expected


def test_sid_has_no_security_updates(etc: Path) -> None:
    (etc / "sources.list").write_text(ONE_LINE)
    (etc / "sources.list.d" / "debian.sources").write_text(STANZAS)
    assert "security" not in "".join(kernels.sources_for("sid", etc).values())


def test_disabled_source_files_stay_disabled(etc: Path) -> None:
    (etc / "sources.list.d" / "debian.sources.disabled").write_text(STANZAS)
    assert not "".join(kernels.sources_for("sid", etc).values()).strip()


def test_a_command_keeps_its_words_directory_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOCKACCEL_WORDS", "two words; $HOME")
    monkeypatch.setenv("SECRET", "is not passed")
    directory = tmp_path / "a b"
    directory.mkdir()
    file = tmp_path / "command"
    argv = ["sh", "-c", 'echo "$1|$SOCKACCEL_WORDS|$SECRET|$(pwd)"', "sh", "it's $1"]
    file.write_text(vm.command_file(argv, directory))
    monkeypatch.delenv("SOCKACCEL_WORDS")
    monkeypatch.delenv("SECRET")
    said = subprocess.run(["sh", file], capture_output=True, text=True, check=True).stdout
    assert said == f"it's $1|two words; $HOME||{directory}\n"
