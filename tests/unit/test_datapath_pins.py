from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

import pytest

from sockaccel.datapath import compiler, pins
from sockaccel.datapath.state import Datapath
from sockaccel.errors import HostError, InputError, NotPermittedError, StateError

BPFFS = 0xCAFE4A11


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory that holds everything that sockaccel pins."""
    made = tmp_path / "pins"
    made.mkdir()
    for name in pins.NAMES:
        (made / name).touch()
    return made


def test_what_is_pinned_has_names_that_the_kernel_takes() -> None:
    assert {"sock_ops", "sk_msg", "sock_ops_map", "connections", pins.LINK} <= pins.NAMES
    assert set(compiler.MAPS) | set(compiler.PROGRAMS) <= pins.NAMES
    assert {"reader", pins.READER_LINK} <= pins.NAMES
    assert "scratch" not in pins.NAMES
    assert not [name for name in pins.NAMES if "." in name or "/" in name]


def test_a_datapath_without_the_reader_is_complete(directory: Path) -> None:
    """A CPU whose system calls nobody knows has none, nor has --policy all a link."""
    (directory / pins.READER_LINK).unlink()
    assert Datapath(directory).complete
    (directory / compiler.READER).unlink()
    assert Datapath(directory).complete
    (directory / "programs").unlink()
    assert not Datapath(directory).complete


def test_a_directory_that_is_not_on_a_bpffs_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "new", tmp_path):
        with pytest.raises(InputError) as caught:
            pins.check(path)
        assert str(caught.value) == f"cannot use pin directory '{path}': it is not on a bpffs"
        assert caught.value.hint == "--pin-dir /sys/fs/bpf/sockaccel"


def test_a_directory_on_a_bpffs_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pins, "_file_system_magic", lambda _: BPFFS)
    pins.check(tmp_path / "new")
    # statfs has f_type as a signed word on some machines.
    monkeypatch.setattr(pins, "_file_system_magic", lambda _: BPFFS - (1 << 32))
    pins.check(tmp_path / "new")


def test_a_mount_of_something_else_on_the_directory_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pins, "_file_system_magic", lambda path: BPFFS * (path == tmp_path))
    pins.check(tmp_path / "new")
    (tmp_path / "new").mkdir()
    with pytest.raises(InputError, match="not on a bpffs"):
        pins.check(tmp_path / "new")


def test_a_host_without_bpffs_is_told_to_mount_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pins, "DEFAULT_PIN_DIR", tmp_path / "sockaccel")
    with pytest.raises(HostError, match="no bpffs is mounted") as caught:
        pins.check(tmp_path / "another")
    assert caught.value.hint == f"mount -t bpf bpf {tmp_path}"
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("path", ["/sys/fs/bpf/a.b", "/sys/fs/bpf/.a", "/sys/fs/bpf/..", "a", ""])
def test_a_name_that_the_kernel_refuses_is_refused_with_the_reason(path: str) -> None:
    with pytest.raises(InputError, match=r"its name has a dot|not an absolute path"):
        pins.check(Path(path))


def test_a_parent_that_is_missing_or_no_directory_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for parent, why in {"none": "ENOENT", "file": "ENOTDIR"}.items():
        with pytest.raises(InputError, match=rf"\({why}\)"):
            pins.check(tmp_path / parent / "x" / "pins")


def test_who_may_not_look_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(path: Path) -> int:
        raise PermissionError(errno.EACCES, "", str(path))

    monkeypatch.setattr(pins, "_file_system_magic", refuse)
    with pytest.raises(NotPermittedError, match=r"\(EACCES\)") as caught:
        pins.check(tmp_path / "pins")
    assert caught.value.exit_code == 77


def test_the_kernel_names_the_file_system() -> None:
    assert pins._file_system_magic(Path("/proc")) == 0x9FA0  # include/uapi/linux/magic.h
    with pytest.raises(FileNotFoundError):
        pins._file_system_magic(Path("/proc/none"))


def test_what_is_not_ours_is_found(directory: Path) -> None:
    assert pins.foreign_entries(directory) == []
    pins.refuse_foreign(directory)
    (directory / "theirs").touch()
    (directory / "a").mkdir()
    assert pins.foreign_entries(directory) == ["a", "theirs"]
    with pytest.raises(StateError) as caught:
        pins.refuse_foreign(directory)
    assert str(caught.value).startswith(f"cannot use pin directory '{directory}': it holds 'a'")
    assert "--pin-dir" in (caught.value.hint or "")


def test_a_missing_directory_holds_nothing_and_a_file_is_not_ours(tmp_path: Path) -> None:
    assert pins.foreign_entries(tmp_path / "none") == []
    (tmp_path / "file").touch()
    assert pins.foreign_entries(tmp_path / "file") == ["file"]


def test_all_of_ours_is_removed_and_then_nothing_is_an_error(directory: Path) -> None:
    pins.remove(directory)
    assert not directory.exists()
    pins.remove(directory)


def test_what_is_not_ours_is_left(directory: Path) -> None:
    (directory / "theirs").write_text("precious")
    with pytest.raises(OSError, match="not empty"):
        pins.remove(directory)
    assert [path.name for path in directory.iterdir()] == ["theirs"]
    assert (directory / "theirs").read_text() == "precious"


def test_the_link_is_removed_first(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    removed = []
    unlink = Path.unlink

    def record(path: Path, *, missing_ok: bool = False) -> None:
        removed.append(path.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", record)
    pins.remove(directory)
    assert removed[0] == pins.LINK
    assert set(removed) == pins.NAMES


def test_the_staging_directory_lies_beside_and_has_no_dot() -> None:
    assert pins.staging(Path("/sys/fs/bpf/x")) == Path("/sys/fs/bpf/x_staging")


def test_only_one_may_change_the_pins_and_an_error_ends_it(tmp_path: Path) -> None:
    def is_free() -> bool:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    with contextlib.suppress(KeyError), pins.locked(tmp_path / "pins"):
        assert not is_free()
        raise KeyError
    assert is_free()
