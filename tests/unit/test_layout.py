"""bpf/layout.h, read as text, against its mirrors in ctypes."""

from __future__ import annotations

import ctypes
import re
from typing import TYPE_CHECKING

import pytest

from sockaccel.datapath import layout, source
from sockaccel.datapath.layout import (
    ConfigFlags,
    Counter,
    LocalFlags,
    OverrideValue,
    Program,
    ProgramKey,
    Reason,
    ScopeFlags,
    Side,
    Trait,
)
from sockaccel.scope.selection import Override

if TYPE_CHECKING:
    from enum import IntFlag

TEXT = re.sub(r"/\*.*?\*/", "", (source.directory() / "layout.h").read_text(), flags=re.DOTALL)

SCALARS: dict[str, type] = {
    "u8": ctypes.c_uint8,
    "u16": ctypes.c_uint16,
    "u32": ctypes.c_uint32,
    "u64": ctypes.c_uint64,
    "char": ctypes.c_char,
}
MIRRORS: dict[str, type[ctypes.Structure]] = {
    "pair_key": layout.PairKey,
    "program_key": ProgramKey,
    "program": Program,
    "conn": layout.Conn,
    "conn_record": layout.ConnRecord,
    "config": layout.Config,
    "network": layout.Network,
    "netns_port": layout.NetnsPort,
}
# `options` and `container_name` are one array of bytes; the others only the kernel side touches.
WITHOUT_MIRROR = {"handshake_key", "handshake", "peer", "options", "container_name"}


def read_constants() -> dict[str, int]:
    """Return every enumerator and every #define that is a number."""
    found = {name: int(value) for name, value in re.findall(r"#define (\w+) +(\d+)", TEXT)}
    for body in re.findall(r"\benum \w+ \{(.*?)\};", TEXT, re.DOTALL):
        for item in filter(None, (part.strip() for part in body.split(","))):
            name, _, value = item.partition("=")
            terms = [term.strip() for term in value.split("+")]
            found[name.strip()] = sum(int(found.get(term, term)) for term in terms)
    return found


CONSTANTS = read_constants()


def read_structures() -> dict[str, type[ctypes.Structure]]:
    """Return the structures that the C compiler sees, by name."""
    found: dict[str, type[ctypes.Structure]] = {}
    for name, body in re.findall(r"\bstruct (\w+) \{(.*?)\};", TEXT, re.DOTALL):
        fields: list[tuple[str, type]] = []
        for line in filter(None, (part.strip() for part in body.split(";"))):
            match = re.fullmatch(r"(?:struct )?(\w+) (\w+)(?:\[(\w+)\])?", line)
            assert match, line
            kind, field, length = match.groups()
            field_type = SCALARS[kind] if kind in SCALARS else found[kind]
            if length:
                field_type = field_type * int(CONSTANTS.get(length, length))
            fields.append((field, field_type))
        found[name] = type(name, (ctypes.Structure,), {"_fields_": tuple(fields)})
    return found


STRUCTURES = read_structures()


def fields_of(structure: type[ctypes.Structure]) -> list[tuple[str, int, int]]:
    names = [name for name, *_ in structure._fields_]
    return [
        (name, getattr(structure, name).offset, getattr(structure, name).size) for name in names
    ]


def enumerators(prefix: str) -> dict[str, int]:
    return {
        name.removeprefix(prefix): value
        for name, value in CONSTANTS.items()
        if name.startswith(prefix)
    }


def test_every_structure_is_known_here() -> None:
    assert set(STRUCTURES) == set(MIRRORS) | WITHOUT_MIRROR


@pytest.mark.parametrize("name", MIRRORS)
def test_a_mirror_has_the_fields_of_its_structure(name: str) -> None:
    assert fields_of(MIRRORS[name]) == fields_of(STRUCTURES[name])
    assert ctypes.sizeof(MIRRORS[name]) == ctypes.sizeof(STRUCTURES[name])


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_has_no_hidden_padding(name: str) -> None:
    """Keys are compared byte by byte, and what is copied out must have been written."""
    end = 0
    for field, offset, size in fields_of(STRUCTURES[name]):
        assert offset == end, f"{end} bytes end before '{field}' at {offset}"
        end = offset + size
    assert end == ctypes.sizeof(STRUCTURES[name])


def test_the_sizes_that_the_compiler_asserts_are_these() -> None:
    asserted = dict(re.findall(r"_Static_assert\(sizeof\(struct (\w+)\) == (\d+)", TEXT))
    assert set(asserted) == set(STRUCTURES) - {"options"}
    for name, size in asserted.items():
        assert ctypes.sizeof(STRUCTURES[name]) == int(size), name


def test_the_sizes_of_the_arrays_agree() -> None:
    assert ctypes.sizeof(STRUCTURES["options"]) == layout.OPTIONS_SIZE
    assert ctypes.sizeof(STRUCTURES["container_name"]) == layout.CONTAINER_NAME_SIZE
    assert CONSTANTS["PORT_WORDS"] * 8 == layout.PORTS_SIZE == 65536 // 8


def test_the_reasons_agree() -> None:
    assert enumerators("REASON_") == {
        **{name: member.value for name, member in Reason.__members__.items()},
        "MAX": layout.REASON_SLOTS,
    }
    assert max(Reason) < layout.REASON_SLOTS


def test_every_reason_of_a_message_has_its_slot_in_the_connection() -> None:
    slots = [reason - Reason.BACK_PRESSURE for reason in Reason if reason.per_message]
    assert slots == list(range(len(slots)))
    assert len(slots) <= layout.MESSAGE_REASONS == CONSTANTS["MESSAGE_REASONS"]
    assert layout.Conn().reasons._length_ == layout.MESSAGE_REASONS
    # on_state adds every slot to the counter of its reason, named or not.
    assert Reason.BACK_PRESSURE + layout.MESSAGE_REASONS <= layout.REASON_SLOTS


def test_the_reasons_of_the_policy_are_told_by_their_range() -> None:
    policy = {reason for reason in Reason if reason.is_policy}
    assert policy == {reason for reason in Reason if reason.label.startswith("policy-")}
    assert policy == {reason for reason in Reason if "POLICY" in reason.name}
    assert not any(reason.per_message for reason in policy)
    code = (source.directory() / "sock_ops.c").read_text()
    (limits,) = re.findall(r"reason >= REASON_(\w+) && reason <= REASON_(\w+);", code)
    assert [Reason[name] for name in limits] == [min(policy), max(policy)]


def test_the_counters_agree() -> None:
    assert enumerators("COUNTER_") == {
        **{name: member.value for name, member in Counter.__members__.items()},
        "MAX": layout.COUNTER_SLOTS,
    }
    assert max(counter for counter in Counter if counter is not Counter.REASON) < Counter.REASON


def test_the_sides_agree() -> None:
    assert enumerators("SIDE_") == {name: side.value for name, side in Side.__members__.items()}


@pytest.mark.parametrize(
    ("prefix", "mirror"),
    [
        ("CONFIG_", ConfigFlags),
        ("SCOPE_", ScopeFlags),
        ("LOCAL_", LocalFlags),
        ("TRAIT_", Trait),
    ],
)
def test_the_flags_agree_and_are_single_bits(prefix: str, mirror: type[IntFlag]) -> None:
    flags = {name: flag.value for name, flag in mirror.__members__.items()}
    assert enumerators(prefix) == flags
    assert all(value.bit_count() == 1 for value in flags.values())
    assert len(set(flags.values())) == len(flags)


def test_the_values_of_overrides_agree() -> None:
    values = {name: value.value for name, value in OverrideValue.__members__.items()}
    assert enumerators("OVERRIDE_") == values
    assert values.keys() == Override.__members__.keys()


def test_the_name_and_the_arguments_of_a_program_have_the_size_that_is_compared() -> None:
    assert STRUCTURES["program_key"].name.size == layout.PROGRAM_NAME_SIZE
    assert CONSTANTS["ARGUMENTS_SIZE"] == layout.ARGUMENTS_SIZE
    assert layout.ARGUMENTS_SIZE % 8 == 0  # hashed by words
    maps = (source.directory() / "maps.h").read_text()
    (size,) = re.findall(r"struct program_name \{\s*char name\[(\d+)\];\s*\};", maps)
    assert int(size) == layout.PROGRAM_NAME_SIZE
    (room,) = re.findall(r"known_programs, (\d+),", maps)
    assert int(room) == layout.MAX_KNOWN_PROGRAMS


@pytest.mark.parametrize(
    ("field", "trait"),
    [
        ("earned", Trait.RECV),
        ("splice", Trait.SPLICE),
        ("blocking", Trait.BLOCKING),
        ("unusual", Trait.UNUSUAL),
    ],
)
def test_what_was_learned_reads_as_traits(field: str, trait: Trait) -> None:
    assert Program(**{field: 1}).traits is trait
    assert Program(**{"earned": 1, field: 1}).traits == Trait.RECV | trait
    # All bytes but the traits' are of no meaning here.
    assert Program(connections=0xFFFFFFFF).traits == Trait(0)


def test_the_labels_of_the_reasons_are_those_of_the_interface() -> None:
    assert {reason.label for reason in Reason if reason is not Reason.NONE} == {
        "out-of-scope",
        "remote",
        "no-peer",
        "peer-out-of-scope",
        "mptcp",
        "map-full",
        "foreign-owner",
        "kernel",
        "deferred-accept",
        "policy-splice",
        "policy-fionread",
        "policy-blocking",
        "policy-unusual",
        "policy-user",
        "policy-unknown",
        "back-pressure",
        "unread-tcp",
        "small-writes",
        "disabled",
        "ulp",
        "shared-writers",
        "conntrack",
        "zerocopy",
    }
