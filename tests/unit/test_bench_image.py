from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from sockaccel.bench.image import Tree, parse_libraries, write_rootfs
from sockaccel.errors import HostError

LDD = """\
/usr/sbin/nginx:
\tlinux-vdso.so.1 (0x00007f4f05ecf000)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f4f05bcb000)
\tlibgone.so.2 => not found
\t/lib64/ld-linux-x86-64.so.2 (0x00007f4f05ed1000)
/usr/sbin/static:
\tnot a dynamic executable
"""


def contents(programs: list[str], trees: list[Tree]) -> dict[str, tarfile.TarInfo]:
    archive = io.BytesIO()
    write_rootfs(archive, programs, trees)
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        return {entry.name: entry for entry in tar.getmembers()}


def test_libraries_are_those_that_are_files() -> None:
    assert parse_libraries(LDD) == {
        Path("/lib/x86_64-linux-gnu/libz.so.1"),
        Path("/lib64/ld-linux-x86-64.so.2"),
    }


def test_an_image_holds_the_program_and_the_loader_it_asks_for() -> None:
    found = contents(["/bin/sh"], [])
    assert found["usr/bin/sh"].isfile()
    assert found["lib64"].linkname == "usr/lib64"
    assert [name for name in found if name.startswith("usr/lib") and "/ld-linux" in name]
    assert found["tmp"].mode == 0o1777


def test_a_tree_comes_without_what_was_named(tmp_path: Path) -> None:
    for name in ("kept/file", "kept/left/file", "left/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = contents([], [Tree(tmp_path, frozenset({"left"}))])
    below = str(tmp_path).lstrip("/")
    assert [name for name in found if name.startswith(below)] == [f"{below}/kept/file"]


def test_a_program_that_is_not_installed_is_named() -> None:
    with pytest.raises(HostError, match="'no-such-program'"):
        contents(["no-such-program"], [])
