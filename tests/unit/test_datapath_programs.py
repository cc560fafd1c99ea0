"""What is known of programs, and how a process is recognised as one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sockaccel.datapath import source
from sockaccel.datapath.layout import ARGUMENTS_SIZE, PROGRAM_NAME_SIZE, Reason, Side, Trait
from sockaccel.datapath.programs import (
    SHIPPED,
    arguments_hash,
    known,
    name_key,
    program_key,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

SLEEP = shutil.which("sleep") or "/bin/sleep"
CUT = "a" * 15


# The command line


def hashed(command_line: bytes, directory: Path | None = None) -> int:
    """Return what bpf/policy.h computes, byte by byte: words of 8 bytes in the CPU's order."""
    value = directory.stat().st_ino if directory else 0
    for start in range(0, 256, 8):
        word = 0
        for index in range(8):
            byte = command_line[start + index] if start + index < len(command_line) else 0
            place = index if sys.byteorder == "little" else 7 - index
            word += byte << (8 * place)
        value = (value ^ word) * 1099511628211 % 2**64
        value ^= value >> 29
    return value


@pytest.mark.parametrize(
    "command_line",
    [
        b"",
        b"x",
        b"\xff" * 7,
        b"12345678",
        b"123456789",
        b"python3\0-m\0http.server\08000\0",
        bytes(range(256)),
        b"\xff" * 255,
        b"\xff" * 256,
        b"\xff" * 257,
        b"java\0" * 1000,
    ],
    ids=len,
)
def test_a_command_line_has_the_hash_that_the_kernel_side_makes(command_line: bytes) -> None:
    found = arguments_hash(command_line, 0)
    assert found == hashed(command_line)
    assert 0 <= found < 1 << 64


def test_the_hash_is_made_with_the_numbers_of_the_kernel_side() -> None:
    code = (source.directory() / "policy.h").read_text()
    (factor,) = re.findall(r"\* (0x\w+)ULL;", code)
    (shift,) = re.findall(r"hash \^= hash >> (\d+);", code)
    assert (int(factor, 16), int(shift)) == (1099511628211, 29)


def test_only_the_beginning_of_a_command_line_counts() -> None:
    begin = os.urandom(ARGUMENTS_SIZE)
    assert arguments_hash(begin, 0) == arguments_hash(begin + b"more", 0) == hashed(begin)
    assert arguments_hash(begin[:-1] + bytes([begin[-1] ^ 1]), 0) != arguments_hash(begin, 0)


def test_command_lines_that_differ_in_one_byte_have_different_hashes() -> None:
    base = b"python3\0/srv/app.py\0--port\08000\0"
    others = {
        base[:index] + bytes([base[index] ^ 1 << bit]) + base[index + 1 :]
        for index in range(len(base))
        for bit in range(8)
    }
    assert len({arguments_hash(each, 0) for each in {base} | others}) == len(others) + 1
    assert arguments_hash(b"", 0) == arguments_hash(bytes(300), 0) == 0
    assert arguments_hash(b"python3\0app.py", 1) != arguments_hash(b"python3\0app.py", 2)


# The name


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("", b""),
        ("nginx", b"nginx"),
        (CUT[1:], b"a" * 14),
        (CUT, b"a" * 15),
        (CUT + "b", b"a" * 15),
        (CUT + "bcdef", b"a" * 15),
        ("é" * 8, "é".encode() * 7 + b"\xc3"),  # bytes, not characters
        ("\udcff", b"\xff"),
    ],
)
def test_a_name_is_cut_after_15_bytes_and_ends_with_a_zero(name: str, key: bytes) -> None:
    found = name_key(name)
    assert found == key + bytes(16 - len(key))
    assert len(found) == PROGRAM_NAME_SIZE
    assert found[-1] == 0


def test_no_two_shipped_names_are_the_same_to_the_kernel() -> None:
    assert len({name_key(name) for name in SHIPPED}) == len(SHIPPED)
    assert all(name and "/" not in name for name in SHIPPED)


# What is known


def test_without_a_word_of_the_user_what_is_shipped_is_known() -> None:
    before = dict(SHIPPED)
    assert known() == SHIPPED
    known(["nginx"], ["curl"])["wrk"] = Trait.REFUSED
    assert before == SHIPPED


def test_the_word_of_the_user_stands_above_what_is_shipped() -> None:
    assert (SHIPPED["haproxy"], SHIPPED["nginx"]) == (Trait.SPLICE, Trait.RECV | Trait.FIONREAD)
    found = known(["haproxy", "java"], ["nginx", "sshd"])
    assert found == SHIPPED | {
        "haproxy": Trait.FORCED,
        "java": Trait.FORCED,
        "nginx": Trait.REFUSED,
        "sshd": Trait.REFUSED,
    }


def test_who_is_named_both_ways_stays_on_tcp() -> None:
    assert known(["nginx"], ["nginx"])["nginx"] is Trait.REFUSED


def test_the_names_may_come_one_at_a_time() -> None:
    assert known(iter(["a"]), iter(["b"])) == SHIPPED | {"a": Trait.FORCED, "b": Trait.REFUSED}


# Which program a process is


@contextmanager
def running(*command: str | Path, executable: Path | None = None) -> Iterator[int]:
    """Yield the pid of a process, once it runs its program."""
    with subprocess.Popen([*map(str, command)], executable=executable) as process:
        try:
            # Popen returns before execve() has put the command line in its place.
            for _ in range(1000):
                if Path(f"/proc/{process.pid}/cmdline").read_bytes():
                    break
                time.sleep(0.01)
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize("side", Side)
def test_a_process_is_its_executable_and_its_command_line(side: Side) -> None:
    with running("any name", "30", executable=Path(SLEEP)) as pid:
        key = program_key(pid, side)
    real = Path(SLEEP).resolve()
    status = real.stat()
    assert key.name == real.name.encode()[:15]
    assert (key.size, key.mtime) == (status.st_size, status.st_mtime_ns)
    assert key.arguments == hashed(b"any name\x0030\0", Path.cwd())
    assert (key.side, key.pad) == (side, 0)


def test_its_key_is_the_bytes_that_the_kernel_side_looks_up(tmp_path: Path) -> None:
    program = tmp_path / (CUT + "bcd")
    shutil.copy(SLEEP, program)
    os.utime(program, ns=(1, 1_234_567_890_123_456_789))
    with running(program, "30") as pid:
        found = bytes(program_key(pid, Side.SERVER))
    numbers = (
        program.stat().st_size,
        1_234_567_890_123_456_789,
        hashed(b"%b\x0030\0" % program.__fspath__().encode(), Path.cwd()),
    )
    assert found == b"".join(
        [
            name_key(program.name),
            *(number.to_bytes(8, sys.byteorder) for number in numbers),
            (1).to_bytes(4, sys.byteorder),
            bytes(4),
        ]
    )


def test_the_same_program_with_another_command_line_is_another() -> None:
    with running(SLEEP, "30") as first, running(SLEEP, "30") as same, running(SLEEP, "31") as other:
        keys = [bytes(program_key(pid, Side.CLIENT)) for pid in (first, same, other)]
    assert keys[0] == keys[1] != keys[2]
    assert keys[0][:32] == keys[2][:32]


@pytest.mark.parametrize("replaced", [True, False])
def test_an_executable_that_was_deleted_is_what_it_was(tmp_path: Path, replaced: bool) -> None:
    program = tmp_path / "server"
    shutil.copy(SLEEP, program)
    with running(program, "30") as pid:
        before = bytes(program_key(pid, Side.SERVER))
        program.unlink()
        if replaced:
            program.write_text("another")
        assert Path(f"/proc/{pid}/exe").readlink().name == "server (deleted)"
        key = program_key(pid, Side.SERVER)
    assert key.name == b"server"
    assert bytes(key) == before


def test_a_process_that_is_gone_is_an_error_of_the_system() -> None:
    with running(SLEEP, "30") as pid:
        pass
    with pytest.raises(OSError, match="No such"):
        program_key(pid, Side.CLIENT)


def test_a_process_that_has_ended_and_is_still_listed_is_one_too() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{process.pid}").exists()
        with pytest.raises(OSError, match="No such"):
            program_key(process.pid, Side.CLIENT)


def test_a_kernel_thread_is_no_program() -> None:
    try:
        if Path("/proc/2/comm").read_text() != "kthreadd\n":
            pytest.skip("needs the first namespace of processes")
    except FileNotFoundError:
        pytest.skip("needs the first namespace of processes")
    with pytest.raises(OSError, match=r"No such|Permission"):
        program_key(2, Side.CLIENT)


# What follows from it

RECV, FIONREAD = Trait.RECV, Trait.FIONREAD


@pytest.mark.parametrize(
    ("traits", "right", "wrong"),
    [
        (Trait(0), Reason.POLICY_UNKNOWN, Reason.POLICY_UNKNOWN),
        (RECV, Reason.NONE, Reason.NONE),
        (FIONREAD, Reason.POLICY_UNKNOWN, Reason.POLICY_FIONREAD),
        (RECV | FIONREAD, Reason.NONE, Reason.POLICY_FIONREAD),
        (Trait.SPLICE, Reason.POLICY_SPLICE, Reason.POLICY_SPLICE),
        (Trait.BLOCKING, Reason.POLICY_BLOCKING, Reason.POLICY_BLOCKING),
        (Trait.UNUSUAL, Reason.POLICY_UNUSUAL, Reason.POLICY_UNUSUAL),
        (Trait.REFUSED, Reason.POLICY_USER, Reason.POLICY_USER),
        (Trait.FORCED, Reason.NONE, Reason.NONE),
        # What was earned does not outweigh what was seen.
        (RECV | Trait.SPLICE, Reason.POLICY_SPLICE, Reason.POLICY_SPLICE),
        (RECV | Trait.BLOCKING, Reason.POLICY_BLOCKING, Reason.POLICY_BLOCKING),
        (RECV | Trait.UNUSUAL, Reason.POLICY_UNUSUAL, Reason.POLICY_UNUSUAL),
        # The first of several.
        (~Trait.FORCED & ~Trait.REFUSED, Reason.POLICY_SPLICE, Reason.POLICY_SPLICE),
        (Trait.UNUSUAL | Trait.BLOCKING, Reason.POLICY_BLOCKING, Reason.POLICY_BLOCKING),
        (Trait.UNUSUAL | FIONREAD, Reason.POLICY_UNUSUAL, Reason.POLICY_UNUSUAL),
        # The user's word.
        (~Trait.FORCED, Reason.POLICY_USER, Reason.POLICY_USER),
        (~Trait(0), Reason.NONE, Reason.NONE),
    ],
    ids=str,
)
def test_traits_give_a_verdict(traits: Trait, right: Reason, wrong: Reason) -> None:
    assert verdict(traits, fionread=True) is right
    assert verdict(traits, fionread=False) is wrong


def test_the_kernel_side_asks_in_the_same_order() -> None:
    code = (source.directory() / "policy.h").read_text()
    body = code[code.index("u32 judge(") :]
    steps = re.findall(r"if \(\(?traits & TRAIT_(\w+)\)[^;]*?return REASON_(\w+);", body)
    assert steps == [
        ("FORCED", "NONE"),
        ("REFUSED", "POLICY_USER"),
        ("SPLICE", "POLICY_SPLICE"),
        ("BLOCKING", "POLICY_BLOCKING"),
        ("UNUSUAL", "POLICY_UNUSUAL"),
        ("FIONREAD", "POLICY_FIONREAD"),
    ]
    for trait, reason in steps:
        if trait != "FORCED":
            assert verdict(Trait[trait], fionread=False) is Reason[reason]


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_shipped_is_accelerated_where_fionread_is_right_unless_it_splices(
    name: str,
) -> None:
    splices = Trait.SPLICE in SHIPPED[name]
    assert verdict(SHIPPED[name], fionread=True) is (
        Reason.POLICY_SPLICE if splices else Reason.NONE
    )
