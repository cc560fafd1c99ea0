from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from sockaccel.errors import HostError, InputError
from sockaccel.scope import cgroup, mountinfo
from sockaccel.scope.mountinfo import Mount

if TYPE_CHECKING:
    from pathlib import Path

HYBRID = r"""31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime shared:9 - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:10 master:1 - cgroup2 cgroup2 rw
50 23 0:4 net:[4026532008] /run/netns/a\040b\134c rw shared:11 - nsfs nsfs rw
"""


def with_mounts(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    listed = mountinfo.parse(text)
    monkeypatch.setattr(
        cgroup, "mounts", lambda fstype: [mount for mount in listed if mount.fstype == fstype]
    )


def test_mountinfo_is_read_with_optional_fields_and_escapes() -> None:
    listed = mountinfo.parse(HYBRID)
    assert listed[2] == Mount(os.makedev(0, 38), "/", "/sys/fs/cgroup/unified", "cgroup2")
    assert listed[3] == Mount(os.makedev(0, 4), "net:[4026532008]", "/run/netns/a b\\c", "nsfs")
    assert len(listed) == 4


def test_a_strange_byte_in_a_name_does_not_split_a_line() -> None:
    (mount,) = mountinfo.parse("1 2 0:5 / /a\x0c\x1c\u2028b rw - tmpfs none rw\n")
    assert mount.point == "/a\x0c\x1c\u2028b"


def test_the_default_on_a_hybrid_host_is_the_unified_hierarchy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_mounts(monkeypatch, HYBRID)
    assert str(cgroup.default_cgroup()) == "/sys/fs/cgroup/unified"


@pytest.mark.parametrize(
    "text",
    [
        "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw\n",
        "41 31 0:38 /system.slice /mnt/part rw - cgroup2 cgroup2 rw\n",
    ],
    ids=["version 1 only", "only a part is mounted"],
)
def test_a_host_without_the_root_of_cgroup_v2_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    with_mounts(monkeypatch, text)
    with pytest.raises(HostError, match="not mounted") as caught:
        cgroup.default_cgroup()
    assert "mount -t cgroup2" in (caught.value.hint or "")


@pytest.fixture
def root() -> Path:
    try:
        return cgroup.default_cgroup()
    except HostError as error:
        pytest.skip(str(error))


def test_the_default_is_a_directory_of_cgroup_v2(root: Path) -> None:
    kind = subprocess.run(
        ["stat", "-f", "-c", "%t", root], capture_output=True, text=True, check=True
    ).stdout
    assert int(kind, 16) == 0x63677270  # CGROUP2_SUPER_MAGIC
    assert cgroup.check_cgroup(root) == root.resolve()


def test_links_are_followed(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    assert cgroup.check_cgroup(str(link)) == root.resolve()


def test_what_is_no_cgroup_directory_is_refused_with_the_reason(root: Path, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    cases: list[tuple[str | Path, str]] = [
        (tmp_path / "none", r"no such file or directory \(ENOENT\)"),
        (root / "cgroup.procs", r"not a directory \(ENOTDIR\)"),
        (tmp_path, "not a directory of cgroup v2"),
        ("/proc", "not a directory of cgroup v2"),
        (loop, "loop|ELOOP"),
        ("a\0b", "null"),
    ]
    for path, why in cases:
        with pytest.raises(InputError, match=f"^cannot use cgroup '.*': .*({why})") as caught:
            cgroup.check_cgroup(path)
        assert caught.value.hint == f"find {root} -type d"
