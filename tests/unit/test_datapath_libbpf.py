from __future__ import annotations

import contextlib
import ctypes
import errno
import os

import pytest

from sockaccel.datapath import libbpf
from sockaccel.errors import HostError


def test_a_result_is_passed_on_and_an_error_has_its_number_and_its_object() -> None:
    assert libbpf._check(0) == 0
    assert libbpf._check(7) == 7
    with pytest.raises(FileNotFoundError) as caught:
        libbpf._check(-errno.ENOENT, "/pin")
    assert caught.value.filename == "/pin"
    with pytest.raises(PermissionError):
        libbpf._check(-errno.EACCES)


def test_minus_one_means_errno() -> None:
    ctypes.set_errno(errno.EBUSY)
    with pytest.raises(OSError, match="busy") as caught:
        libbpf._check(-1)
    assert caught.value.errno == errno.EBUSY


def test_a_descriptor_is_closed_also_after_an_error() -> None:
    number = os.open("/", os.O_RDONLY)
    with contextlib.suppress(KeyError), libbpf.fd(number) as same:
        assert same == number
        raise KeyError
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_host_without_libbpf_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, **_: object) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(HostError, match=r"libbpf\.so\.1") as caught:
        libbpf.shared_library.__wrapped__()
    assert "libbpf1" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("structure", "size"),
    [(libbpf.ProgInfo, 80), (libbpf.MapInfo, 40), (libbpf.LinkInfo, 32)],
)
def test_the_heads_of_the_kernels_structures_have_their_size(
    structure: type[ctypes.Structure], size: int
) -> None:
    assert ctypes.sizeof(structure) == size


class Map:
    """As much of libbpf as walking over a map takes."""

    def __init__(self, *keys: bytes) -> None:
        self.keys = list(keys)

    def bpf_map_get_next_key(self, _: int, key: bytes | None, following: ctypes.Array) -> int:
        index = 0 if key is None else self.keys.index(key) + 1
        if index == len(self.keys):
            return -errno.ENOENT
        following.raw = self.keys[index]
        return 0


@pytest.mark.parametrize("keys", [[], [b"\0\0"], [b"\0\1", b"\1\0", b"\0\0"]])
def test_the_keys_of_a_map_are_walked_to_the_end(
    monkeypatch: pytest.MonkeyPatch, keys: list[bytes]
) -> None:
    monkeypatch.setattr(libbpf, "shared_library", lambda: Map(*keys))
    assert list(libbpf.keys(3, 2)) == keys
