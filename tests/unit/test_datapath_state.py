"""Reading through pins, as far as ordinary files can stand in for them."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import pytest

from sockaccel.datapath import pins, state
from sockaccel.datapath.layout import Conn, ConnRecord
from sockaccel.datapath.state import Datapath
from sockaccel.errors import NotPermittedError, StateError

if TYPE_CHECKING:
    from pathlib import Path

RECORD_SIZE = ctypes.sizeof(ConnRecord)


def record(number: int) -> ConnRecord:
    return ConnRecord(conn=Conn(cookie=number), inode=1000 + number, pad=0xFFFFFFFF)


def test_nothing_pinned_is_none(tmp_path: Path) -> None:
    assert Datapath.open(tmp_path / "none") is None


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="it holds 'file'"):
        Datapath.open(tmp_path / "file")


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()
    with pytest.raises(StateError, match="'theirs'"):
        Datapath.open(tmp_path)


def test_who_may_not_look_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(state.os, "listdir", refuse)
    with pytest.raises(NotPermittedError) as caught:
        Datapath.open(tmp_path)
    assert str(caught.value) == (
        f"cannot look into pin directory '{tmp_path}': permission denied (EACCES)"
    )


def test_what_an_interrupted_enable_left_is_neither_attached_nor_active(tmp_path: Path) -> None:
    (tmp_path / "sk_msg").touch()
    datapath = Datapath.open(tmp_path)
    assert datapath
    with datapath:
        assert (datapath.has("sk_msg"), datapath.has(pins.LINK)) == (True, False)
        assert not datapath.attached
        assert not datapath.active


@pytest.mark.parametrize("size", [1, 100, RECORD_SIZE, RECORD_SIZE + 1, 1 << 20])
def test_records_are_put_together_from_whatever_pieces_come(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int
) -> None:
    monkeypatch.setattr(state, "_READ_SIZE", size)
    written = b"".join(bytes(record(number)) for number in range(5))
    (tmp_path / "connections").write_bytes(written)
    datapath = Datapath.open(tmp_path)
    assert datapath
    found = list(datapath.records())
    assert b"".join(map(bytes, found)) == written
    assert [each.inode for each in found] == [1000, 1001, 1002, 1003, 1004]


def test_no_socket_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "connections").touch()
    assert list(Datapath(tmp_path).records()) == []


def test_a_pin_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError) as caught:
        list(Datapath(tmp_path).records())
    assert str(caught.value) == (
        f"cannot read '{tmp_path}/connections': no such file or directory (ENOENT)"
    )
    assert "disable" in (caught.value.hint or "")


@pytest.mark.parametrize(("stored", "says"), [(b"\0" * 9, "Expecting value"), (b"{}\0", "cgroup")])
def test_options_that_cannot_be_read_are_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stored: bytes, says: str
) -> None:
    monkeypatch.setattr(Datapath, "fd", lambda *_: -1)
    monkeypatch.setattr(state.libbpf, "lookup", lambda *_: stored)
    with pytest.raises(StateError, match=says):
        _ = Datapath(tmp_path).options
