"""Offsets from the types of the kernel that runs the tests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from sockaccel.datapath import btf
from sockaccel.datapath.btf import KernelTypes, field_offsets
from sockaccel.errors import HostError

needs_btf = pytest.mark.skipif(
    not Path("/sys/kernel/btf/vmlinux").exists(), reason="needs a kernel with BTF"
)


@pytest.fixture(scope="module")
def types() -> KernelTypes:
    return KernelTypes()


@needs_btf
@pytest.mark.parametrize(
    ("struct", "path", "offset"),
    [
        ("sock_common", "skc_daddr", 0),  # in two anonymous levels
        ("sock_common", "skc_rcv_saddr", 4),
        ("sock_common", "skc_dport", 12),
        ("sock_common", "skc_num", 14),
        ("sock_common", "skc_family", 16),
        ("sock_common", "skc_state", 18),  # volatile
        ("sock", "__sk_common.skc_family", 16),
        ("sock", "__sk_common", 0),
        ("iphdr", "protocol", 9),  # fixed by the protocol
        ("iphdr", "daddr", 16),
    ],
)
def test_a_field_is_where_the_kernel_has_it(
    types: KernelTypes, struct: str, path: str, offset: int
) -> None:
    assert types.offset(struct, path) == offset
    assert types.bit_offset(struct, path) == 8 * offset


@needs_btf
def test_bit_fields_are_found_to_the_bit(types: KernelTypes) -> None:
    # skc_reuse has four bits behind skc_state; the next three have one each.
    assert types.bit_offset("sock_common", "skc_reuse") == 19 * 8
    assert types.bit_offset("sock_common", "skc_reuseport") == 19 * 8 + 4
    assert types.bit_offset("sock_common", "skc_ipv6only") == 19 * 8 + 5
    assert types.offset("sock_common", "skc_ipv6only") == 19


@needs_btf
def test_a_path_adds_the_offsets_of_its_steps(types: KernelTypes) -> None:
    backlog = types.offset("sock", "sk_backlog")
    assert backlog > 0
    assert types.offset("sock", "sk_backlog.rmem_alloc") == backlog
    assert types.offset("sock", "sk_backlog.len") >= backlog + 4


@needs_btf
@pytest.mark.parametrize(
    ("struct", "path", "names"),
    [
        ("sock_common", "skc_colour", "sock_common.skc_colour"),
        ("no_such_struct", "x", "no_such_struct"),
        ("sock", "sk_backlog.colour", "sock.sk_backlog.colour"),
        ("sock_common", "skc_family.x", "sock_common.skc_family.x"),
    ],
)
def test_a_field_that_is_not_there_is_named(
    types: KernelTypes, struct: str, path: str, names: str
) -> None:
    with pytest.raises(KeyError) as caught:
        types.offset(struct, path)
    assert caught.value.args == (names,)


@needs_btf
def test_all_offsets_of_the_programs_are_found() -> None:
    offsets = field_offsets()
    assert set(btf._REQUIRED) <= set(offsets)
    assert offsets["OFF_FAMILY"] == 16
    assert offsets["RCVBUF_LOCK"] in (2 << shift for shift in range(7))
    assert len({offsets[name] for name in ("OFF_COPIED_SEQ", "OFF_RCV_NXT", "OFF_WRITE_SEQ")}) == 3
    assert offsets["OFF_SOCKET_INODE"] > 0


class Fields:
    """A kernel that lacks some fields."""

    def __init__(self, *missing: str) -> None:
        self.missing = missing

    def offset(self, struct: str, path: str) -> int:
        return self.bit_offset(struct, path) // 8

    def bit_offset(self, struct: str, path: str) -> int:
        if path in self.missing:
            raise KeyError(f"{struct}.{path}")
        return 13 if path == "sk_userlocks" else 8


def test_a_field_that_only_some_kernels_have_may_be_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(btf, "KernelTypes", lambda: Fields("is_mptcp"))
    offsets = field_offsets()
    assert "OFF_IS_MPTCP" not in offsets
    assert "OFF_V6_DADDR" in offsets
    assert offsets["RCVBUF_LOCK"] == 2 << 5
    assert offsets["OFF_USERLOCKS"] == 1


def test_a_field_that_is_needed_and_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(btf, "KernelTypes", lambda: Fields("copied_seq"))
    with pytest.raises(HostError, match=r"tcp_sock\.copied_seq") as caught:
        field_offsets()
    assert caught.value.exit_code == 78


def test_a_kernel_without_types_says_what_it_lacks() -> None:
    types = KernelTypes()
    types._lib = SimpleNamespace(  # type: ignore[assignment]
        btf__load_vmlinux_btf=lambda: None, btf__find_by_name_kind=lambda *_: -1
    )
    with pytest.raises(HostError, match="/sys/kernel/btf/vmlinux") as caught:
        types.offset("sock", "sk_rcvbuf")
    assert "CONFIG_DEBUG_INFO_BTF" in (caught.value.hint or "")
