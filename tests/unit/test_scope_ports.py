from __future__ import annotations

import struct

import pytest

from sockaccel.errors import InputError
from sockaccel.scope.ports import parse_ports


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("80", "80"),
        ("80,8000-8999", "80,8000-8999"),
        (" 443 , 80 ", "80,443"),
        ("80,81", "80-81"),
        ("10-20,15-30,31", "10-31"),
        ("10-30,15-20,40", "10-30,40"),
        ("7-7,7", "7"),
        ("1-65535,80", "1-65535"),
    ],
)
def test_a_list_is_sorted_and_merged(text: str, normal: str) -> None:
    assert str(parse_ports(text)) == normal
    assert parse_ports(normal) == parse_ports(text)
    assert hash(parse_ports(normal)) == hash(parse_ports(text))


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("80,http", "'http'"),
        ("0", "'0'"),
        ("80,65536", "'65536'"),
        ("0-80", "'0-80'"),
        ("90-80", "'90-80'"),
        ("80-", "'80-'"),
        ("-80", "'-80'"),
        ("1-2-3", "'1-2-3'"),
        ("80,,81", "''"),
        ("80,", "''"),
        ("+80", "'+80'"),
        ("8_0", "'8_0'"),
        ("٨٠", "'٨٠'"),
        ("9" * 5000, "9999"),
    ],
)
def test_what_is_no_port_is_named(text: str, item: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_ports(text)
    assert f"{item}" in str(caught.value).partition(": ")[2]
    assert "not a port or a range" in str(caught.value)
    assert caught.value.hint == "--ports 80,8000-8999"


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_list_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match="the list is empty"):
        parse_ports(text)


def test_membership_length_and_order_agree() -> None:
    ports = parse_ports("8000-8003,80,65535")
    assert list(ports) == [80, 8000, 8001, 8002, 8003, 65535]
    assert len(ports) == 6
    members = [port for port in range(70000) if port in ports]
    assert members == list(ports)
    assert "80" not in ports


@pytest.mark.parametrize("text", ["1", "63,64", "80,8000-8999", "65535", "1-65535"])
def test_the_bitmap_has_exactly_the_ports_as_bytes_and_as_words(text: str) -> None:
    ports = parse_ports(text)
    bitmap = ports.to_bitmap()
    assert len(bitmap) == 8192
    assert [p for p in range(65536) if bitmap[p // 8] >> (p % 8) & 1] == list(ports)
    words = struct.unpack("<1024Q", bitmap)
    assert [p for p in range(65536) if words[p // 64] >> (p % 64) & 1] == list(ports)
