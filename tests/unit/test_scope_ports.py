from __future__ import annotations

import struct
from random import Random

import pytest

from sockaccel.errors import InputError
from sockaccel.scope.ports import PortSet, from_prefixes, parse_ports, port_set


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


def test_an_error_says_which_list_it_is() -> None:
    for text in ("", "http"):
        with pytest.raises(InputError, match=rf"^cannot use the answer '{text}': "):
            parse_ports(text, "the answer")


def random_ports(random: Random) -> PortSet:
    ends = [sorted(random.choices((1, 2, 63, 64, 255, 80, 1024, 65535), k=2)) for _ in range(3)]
    return port_set((low, high) for low, high in ends)


def test_what_two_lists_have_in_common_is_in_both() -> None:
    random = Random(5)
    for _ in range(50):
        one, other = random_ports(random), random_ports(random)
        both = one & other
        assert set(both) == set(one) & set(other)
        assert both == other & one == port_set(both.ranges)
    assert not list(parse_ports("80") & parse_ports("443"))


@pytest.mark.parametrize(
    ("text", "prefixes"),
    [
        ("80", [(80, 16)]),
        ("80-81", [(80, 15)]),
        ("81-82", [(81, 16), (82, 16)]),
        ("8000-8999", [(8000, 10), (8064, 9), (8192, 7), (8704, 8), (8960, 11), (8992, 13)]),
        ("32768-65535", [(32768, 1)]),
    ],
)
def test_a_range_is_a_few_prefixes(text: str, prefixes: list[tuple[int, int]]) -> None:
    assert list(parse_ports(text).prefixes()) == prefixes


def test_prefixes_hold_exactly_the_ports_and_give_them_back() -> None:
    random = Random(6)
    for ports in [parse_ports("1-65534"), *(random_ports(random) for _ in range(50))]:
        prefixes = list(ports.prefixes())
        held = [first + low for first, length in prefixes for low in range(1 << (16 - length))]
        assert held == list(ports)
        assert all(first % (1 << (16 - length)) == 0 for first, length in prefixes)
        assert len(prefixes) <= 30 * len(ports.ranges)
        assert from_prefixes(prefixes[::-1]) == ports
    assert len(list(parse_ports("1-65534").prefixes())) == 30
    assert from_prefixes([]) == PortSet(())
