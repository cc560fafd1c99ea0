"""Offsets from the types of the kernel that runs the tests."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from sockaccel.datapath import btf
from sockaccel.datapath.btf import KernelTypes, field_offsets, system_calls
from sockaccel.datapath.libbpf import AttachType, ProgType
from sockaccel.errors import HostError

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}

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
@pytest.mark.parametrize(
    ("enum", "name", "value"),
    [
        ("sock_flags", "SOCK_DEAD", 0),  # the first
        ("sock_flags", "SOCK_URGINLINE", 2),
        # What others rely on cannot change.
        *(("bpf_prog_type", f"BPF_PROG_TYPE_{kind.name}", int(kind)) for kind in ProgType),
        ("bpf_attach_type", "BPF_SK_MSG_VERDICT", int(AttachType.SK_MSG_VERDICT)),
        ("bpf_attach_type", "BPF_TRACE_RAW_TP", int(AttachType.TRACE_RAW_TP)),
    ],
)
def test_an_enumerator_has_the_value_of_the_kernel(
    types: KernelTypes, enum: str, name: str, value: int
) -> None:
    assert types.enumerator(enum, name) == value


@needs_btf
@pytest.mark.parametrize(
    ("enum", "name", "names"),
    [
        ("sock_flags", "SOCK_COLOUR", "sock_flags.SOCK_COLOUR"),
        ("sock_flags", "SOCK_DEA", "sock_flags.SOCK_DEA"),
        ("no_such_enum", "SOCK_DEAD", "no_such_enum"),
        ("sock", "SOCK_DEAD", "sock"),  # a structure
    ],
)
def test_an_enumerator_that_is_not_there_is_named(
    types: KernelTypes, enum: str, name: str, names: str
) -> None:
    with pytest.raises(KeyError) as caught:
        types.enumerator(enum, name)
    assert caught.value.args == (names,)


@needs_btf
def test_the_first_field_that_there_is_counts(types: KernelTypes) -> None:
    missing, port, family = ("sock", "colour"), ("sock_common", "skc_num"), ("sock", "__sk_common")
    nowhere = ("no_such_struct", "x")
    assert types.first_offset([port, family]) == 14
    assert types.first_offset([missing, nowhere, port, missing]) == 14
    assert types.first_offset([missing, family, port]) == 0
    with pytest.raises(KeyError) as caught:
        types.first_offset([nowhere, missing])
    assert caught.value.args == ("sock.colour",)


@needs_btf
def test_a_tracepoint_is_the_type_that_its_programs_are_checked_by(types: KernelTypes) -> None:
    number = types.tracepoint("tcp_rcv_space_adjust")
    assert number
    vmlinux = "/sys/kernel/btf/vmlinux"
    try:
        shown = subprocess.run(
            ["bpftool", "btf", "dump", "file", vmlinux], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs bpftool")
    assert re.search(rf"^\[{number}\] TYPEDEF 'btf_trace_tcp_rcv_space_adjust' ", shown, re.M)


@needs_btf
@pytest.mark.parametrize("name", ["no_such_tracepoint", "", "tcp_rcv_space_adjus"])
def test_a_tracepoint_that_is_not_there_is_none(types: KernelTypes, name: str) -> None:
    assert types.tracepoint(name) is None


@needs_btf
def test_all_offsets_of_the_programs_are_found() -> None:
    offsets = field_offsets()
    assert set(btf._REQUIRED) | set(btf._RENAMED) <= set(offsets)
    assert offsets["OFF_INODE_MTIME_SEC"] != offsets["OFF_INODE_MTIME_NSEC"]
    assert offsets["OFF_FAMILY"] == 16
    assert offsets["RCVBUF_LOCK"] in (2 << shift for shift in range(7))
    assert len({offsets[name] for name in ("OFF_COPIED_SEQ", "OFF_RCV_NXT", "OFF_WRITE_SEQ")}) == 3
    assert offsets["OFF_SOCKET_INODE"] > 0


class Fields(KernelTypes):
    """A kernel that lacks some fields; the others are all at the same place."""

    def __init__(self, *missing: str) -> None:
        self.missing = missing

    def bit_offset(self, struct: str, path: str) -> int:
        if path in self.missing:
            raise KeyError(f"{struct}.{path}")
        return 13 if path == "sk_userlocks" else 8

    def enumerator(self, enum: str, name: str) -> int:
        if name in self.missing:
            raise KeyError(f"{enum}.{name}")
        return len(name)


def test_a_field_that_only_some_kernels_have_may_be_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(btf, "KernelTypes", lambda: Fields("is_mptcp"))
    offsets = field_offsets()
    assert "OFF_IS_MPTCP" not in offsets
    assert "OFF_V6_DADDR" in offsets
    assert offsets["RCVBUF_LOCK"] == 2 << 5
    assert offsets["OFF_USERLOCKS"] == 1


@pytest.mark.parametrize("newest", range(3))
def test_a_field_may_have_its_name_of_any_kernel(
    monkeypatch: pytest.MonkeyPatch, newest: int
) -> None:
    names = [path for fields in btf._RENAMED.values() for _, path in fields]
    missing = [path for fields in btf._RENAMED.values() for _, path in fields[:newest]]
    assert len(missing) == 2 * newest < len(names)
    monkeypatch.setattr(btf, "KernelTypes", lambda: Fields(*missing))
    offsets = field_offsets()
    assert [offsets[name] for name in btf._RENAMED] == [1, 1]


def test_flags_of_sockets_are_where_this_kernel_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(btf, "KernelTypes", Fields)
    wanted = 1 << len("SOCK_ZEROCOPY") | 1 << len("SOCK_RCVTSTAMP")
    assert field_offsets()["UNUSUAL_SK_FLAGS"] == wanted


@pytest.mark.parametrize(
    ("missing", "names"),
    [
        (("copied_seq",), r"tcp_sock\.copied_seq"),
        (("SOCK_ZEROCOPY",), r"sock_flags\.SOCK_ZEROCOPY"),
        (("i_mtime_sec", "__i_mtime.tv_sec", "i_mtime.tv_sec"), r"inode\.i_mtime\.tv_sec"),
    ],
)
def test_what_is_needed_and_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], names: str
) -> None:
    monkeypatch.setattr(btf, "KernelTypes", lambda: Fields(*missing))
    with pytest.raises(HostError, match=names) as caught:
        field_offsets()
    assert caught.value.exit_code == 78


class Registers(KernelTypes):
    """Where the system call of a process is kept, on either CPU."""

    _OFFSETS = {"orig_ax": 120, "dx": 96, "r10": 56, "regs": 0, "syscallno": 280}  # noqa: RUF012

    def __init__(self) -> None:
        pass

    def bit_offset(self, struct: str, path: str) -> int:
        assert struct == "pt_regs"
        return 8 * self._OFFSETS[path]


@pytest.mark.parametrize(
    ("machine", "call", "third", "fourth"),
    [("x86_64", 120, 96, 56), ("aarch64", 280, 2 * 8, 3 * 8)],
)
def test_arguments_of_a_system_call_are_where_its_cpu_has_them(
    monkeypatch: pytest.MonkeyPatch, machine: str, call: int, third: int, fourth: int
) -> None:
    monkeypatch.setattr(btf, "KernelTypes", Registers)
    found = system_calls(machine)
    assert found
    assert found["OFF_REGS_CALL"] == call
    assert (found["OFF_REGS_ARG3"], found["OFF_REGS_ARG4"]) == (third, fourth)
    assert found["O_NONBLOCK_FLAG"] == os.O_NONBLOCK
    assert system_calls(machine) == found  # the tables are not changed


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_of_system_calls_are_those_of_the_headers(
    monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    if not HEADERS[machine].exists():
        pytest.skip(f"needs {HEADERS[machine]}")
    text = HEADERS[machine].read_text()
    numbers = {
        name.upper(): int(number)
        for name, number in re.findall(r"^#define __(NR_\w+) (\d+)$", text, re.M)
    }
    monkeypatch.setattr(btf, "KernelTypes", Registers)
    found = {
        name: number
        for name, number in (system_calls(machine) or {}).items()
        if name.startswith("NR_")
    }
    assert found
    assert found == {name: numbers[name] for name in found}


@needs_btf
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 CPU")
def test_registers_of_this_kernel_are_found() -> None:
    found = system_calls()
    assert found
    # struct pt_regs is also what ptrace(2) shows, and cannot change.
    assert [found[f"OFF_REGS_{name}"] for name in ("CALL", "ARG3", "ARG4")] == [120, 96, 56]


@pytest.mark.parametrize("machine", ["riscv64", "i686", ""])
def test_a_cpu_that_nobody_knows_has_no_system_calls(
    monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    monkeypatch.setattr(btf, "KernelTypes", lambda: pytest.fail("the kernel was asked"))
    assert system_calls(machine) is None


@pytest.mark.parametrize(("machine", "missing"), [("x86_64", "orig_ax"), ("aarch64", "syscallno")])
def test_a_kernel_that_keeps_them_elsewhere_has_none_either(
    monkeypatch: pytest.MonkeyPatch, machine: str, missing: str
) -> None:
    monkeypatch.setattr(btf, "KernelTypes", lambda: Fields(missing))
    assert system_calls(machine) is None


def test_a_kernel_without_types_says_what_it_lacks() -> None:
    types = KernelTypes()
    types._lib = SimpleNamespace(  # type: ignore[assignment]
        btf__load_vmlinux_btf=lambda: None, btf__find_by_name_kind=lambda *_: -1
    )
    with pytest.raises(HostError, match="/sys/kernel/btf/vmlinux") as caught:
        types.offset("sock", "sk_rcvbuf")
    assert "CONFIG_DEBUG_INFO_BTF" in (caught.value.hint or "")
