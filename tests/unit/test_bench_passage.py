from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sockaccel.bench.passage import closed_directory, open_directory

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Directories that everybody may pass, not below pytest's own, which nobody else may."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        top = Path(name)
        top.chmod(0o755)
        inner = open_directory(top, "outer", "inner")
        monkeypatch.setattr(tempfile, "tempdir", str(inner))
        yield top


def test_nothing_is_in_the_way_where_others_may_pass(way: Path) -> None:
    (way / "outer").chmod(0o711)
    assert closed_directory() is None


@pytest.mark.parametrize("closed", ["outer", "outer/inner"])
def test_a_directory_that_others_may_not_pass_is_found(way: Path, closed: str) -> None:
    (way / closed).chmod(0o700)
    assert closed_directory() == way / closed


def test_a_link_is_looked_at_from_both_sides(way: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = open_directory(way, "links")
    (links / "link").symlink_to(way / "outer")
    monkeypatch.setattr(tempfile, "tempdir", str(links / "link"))
    assert closed_directory() is None
    links.chmod(0o700)
    assert closed_directory() == links
    links.chmod(0o755)
    (way / "outer").chmod(0o700)
    assert closed_directory() in (links / "link", way / "outer")


def test_what_is_made_for_servers_is_open_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        made = open_directory(tmp_path, "case", "node")
        assert open_directory(tmp_path, "case", "node") == made == tmp_path / "case/node"
    finally:
        os.umask(before)
    assert {stat.S_IMODE(each.stat().st_mode) for each in (made, made.parent)} == {0o755}
