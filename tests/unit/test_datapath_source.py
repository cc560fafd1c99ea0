"""The C text: that it is complete, and what it must never contain."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from sockaccel.datapath import btf, compiler, lifecycle, source
from sockaccel.datapath.compiler import ITERATOR, MAPS, PROGRAMS, READER
from sockaccel.datapath.options import Options

if TYPE_CHECKING:
    from pathlib import Path


def code_of(text: str) -> str:
    """Return C without its comments."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)


CODE = code_of(source.assemble())
NOT_PINNED = ["scratch"]
"""Maps that only the kernel side uses, between two lines of one program."""
FILES = sorted(path.name for path in source.directory().glob("*.[ch]"))


def body_of(function: str) -> str:
    match = re.search(rf"^(?:static __always_inline )?\w+ {function}\(.*?^}}", CODE, re.M | re.S)
    assert match, function
    return match[0]


def returns_of(function: str) -> list[str]:
    found = re.findall(r"\breturn\b\s*(.*?);", body_of(function), re.S)
    assert found
    return [" ".join(value.split()) for value in found]


def test_every_file_is_there_once_under_its_own_name() -> None:
    parts = re.split(r'^#line 1 "bpf/([\w.]+)"\n', source.assemble(), flags=re.M)
    assert parts[0] == ""
    names = parts[1::2]
    assert sorted(names) == FILES
    for name, text in zip(names, parts[2::2], strict=True):
        assert text == (source.directory() / name).read_text(), name
        assert text.endswith("\n"), f"the #line after {name} needs a line of its own"


def test_structures_come_before_maps_and_maps_before_programs() -> None:
    names = re.findall(r'^#line 1 "bpf/([\w.]+)"', source.assemble(), re.M)
    assert names[:2] == ["layout.h", "maps.h"]
    headers = [name.endswith(".h") for name in names]
    assert headers == sorted(headers, reverse=True)


def test_an_installed_package_brings_the_text_along(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = tmp_path / "site" / "sockaccel" / "datapath" / "source.py"
    module.parent.mkdir(parents=True)
    monkeypatch.setattr(source, "__file__", str(module))
    assert source.directory() == tmp_path / "site" / "bpf"
    (tmp_path / "site" / "sockaccel" / "bpf").mkdir()
    assert source.directory() == tmp_path / "site" / "sockaccel" / "bpf"


def test_the_maps_that_are_pinned_are_those_that_are_defined() -> None:
    defined = [
        *re.findall(r'\bBPF_F_TABLE\("\w+",[^,]+,[^,]+,\s*(\w+)', CODE),
        *re.findall(r"\bBPF_(?:SK_STORAGE|ARRAY|PERCPU_ARRAY)\((\w+)", CODE),
        *re.findall(r'section\("maps/\w+"\)\)\) struct \w+ (\w+)', CODE),
    ]
    assert sorted(defined) == sorted([*MAPS, *NOT_PINNED])


def test_the_programs_that_are_loaded_are_those_that_are_defined() -> None:
    defined = re.findall(r"^int (\w+)\(", CODE, re.M)
    assert sorted(defined) == sorted([*PROGRAMS, READER, ITERATOR])


@pytest.mark.parametrize(
    "name", ["apply_bytes", "cork_bytes", "trace_printk", "SK_DROP", "push_data", "pop_data"]
)
def test_a_call_that_can_harm_a_stream_is_not_made(name: str) -> None:
    assert name not in CODE


@pytest.mark.parametrize("name", ["sk_msg", "sk_skb"])
def test_every_message_is_passed(name: str) -> None:
    assert set(returns_of(name)) == {"SK_PASS"}


def test_sock_ops_always_answers_1_and_leaves_the_kernels_choices_alone() -> None:
    steps = {
        "sock_ops",
        "on_listen",
        "on_connect",
        "on_syn",
        "on_active",
        "on_passive",
        "on_state",
        "forget",
        "unpaired",
    }
    called = re.compile(r"(?:[^?:]+ \? 1 : )?(\w+)\(.*\)")
    for name in steps:
        for value in returns_of(name):
            match = called.fullmatch(value)
            assert value == "1" or (match and match[1] in steps), f"{name}: return {value}"
    assert "reply" not in CODE
    # One setting, of a connection whose reader has gone.
    assert CODE.count("setsockopt") == 1


def test_the_tracepoint_is_answered_with_0_and_changes_no_socket() -> None:
    assert set(returns_of("reader")) == {"0"}
    for name in ("override_return", "probe_write", "send_signal"):
        assert name not in CODE


def test_a_cpu_whose_system_calls_nobody_knows_does_without_the_reader() -> None:
    assert list(btf._SYSTEM_CALLS)
    for registers, numbers in btf._SYSTEM_CALLS.values():
        assert "NR_READ" in numbers
        for name in (*registers, *numbers, "O_NONBLOCK_FLAG"):
            assert name not in re.sub(r"^#ifdef NR_READ$.*?^#endif$", "", CODE, flags=re.M | re.S)


def test_what_is_asked_of_a_system_call_is_the_same_on_every_cpu() -> None:
    used = set(re.findall(r"\bOFF_REGS_\w+|\bNR_\w+|\bO_NONBLOCK_FLAG\b", CODE))
    for registers, numbers in btf._SYSTEM_CALLS.values():
        assert {*registers, *numbers, "O_NONBLOCK_FLAG"} == used


def test_callback_flags_are_only_added() -> None:
    calls = re.findall(r"cb_flags_set\(([^;]*)\);", CODE)
    assert calls
    assert all(call.startswith("ctx, ctx->bpf_sock_ops_cb_flags |") for call in calls)


def test_every_offset_that_is_used_is_asked_for_and_the_reverse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A kernel that lacks no field.
    monkeypatch.setattr(btf.KernelTypes, "bit_offset", lambda *_: 0)
    monkeypatch.setattr(btf.KernelTypes, "enumerator", lambda *_: 0)
    asked_for = set(btf.field_offsets())
    words = set(re.findall(r"\b[A-Z]\w+", CODE))
    assert asked_for <= words
    offsets = {name for name in words if name.startswith("OFF_")}
    assert {name for name in offsets if not name.startswith("OFF_REGS_")} <= asked_for
    # No name stands for two fields.
    tables: tuple[dict[str, Any], ...] = (btf._REQUIRED, btf._RENAMED, btf._OPTIONAL)
    assert len({name for table in tables for name in table}) == sum(map(len, tables))


@pytest.mark.parametrize(
    "name",
    [
        "OFF_IS_MPTCP",
        "OFF_V6_DADDR",
        "OFF_V6_RCV_SADDR",
    ],
)
def test_an_offset_that_a_kernel_may_lack_is_not_needed(name: str) -> None:
    assert name in btf._OPTIONAL
    assert name not in re.sub(rf"#ifdef {name}\b.*?#endif", "", CODE, flags=re.S)


def test_every_optional_offset_is_looked_at_above() -> None:
    assert set(btf._OPTIONAL) == {"OFF_IS_MPTCP", "OFF_V6_DADDR", "OFF_V6_RCV_SADDR"}


def test_the_constants_of_the_text_come_from_the_loader(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    requests: list[compiler.Request] = []

    class Stop(Exception):  # noqa: N818
        pass

    def stop(request: compiler.Request, lock: int) -> None:
        assert lock == 9
        requests.append(request)
        raise Stop

    monkeypatch.setattr(compiler, "compile_and_pin", stop)
    with pytest.raises(Stop):
        lifecycle._load(tmp_path, Options(cgroup="/c", max_connections=7), 9)
    (request,) = requests
    assert request.directory == str(tmp_path)
    assert request.defines["MAX_SOCKETS"] == 14  # a connection has two ends
    for name in request.defines:
        assert re.search(rf"\b{name}\b", CODE), name
    constants = {
        "MAX_SOCKETS", "MAX_HANDSHAKES", "SMALL_WRITE", "NAGLE_WRITE", "QUEUE_BYTES",
        "QUEUE_OVERHEAD",
    }  # fmt: skip
    assert set(request.defines) == constants
