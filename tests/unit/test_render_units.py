from __future__ import annotations

import pytest

from sockaccel.render.units import (
    bytes_text,
    duration_text,
    figure_text,
    percent_text,
    short_text,
    times_text,
    value_text,
)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024 * 10 + 512, "10.5 KiB"),
        ((1 << 20) - 100, "1023.9 KiB"),
        (1 << 20, "1.0 MiB"),
        (12_897_485, "12.3 MiB"),
        ((1 << 30) - (1 << 20), "1023.0 MiB"),
        (1 << 30, "1.0 GiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 50, "1.0 PiB"),
        (1 << 60, "1024.0 PiB"),
        ((1 << 64) - 1, "16384.0 PiB"),
    ],
)
def test_a_size_has_the_unit_that_leaves_few_digits(number: int, text: str) -> None:
    assert bytes_text(number) == text


@pytest.mark.parametrize("power", [20, 30, 40, 50])
def test_what_rounds_up_to_the_next_unit_is_written_in_it(power: int) -> None:
    assert bytes_text((1 << power) - 1) == bytes_text(1 << power)


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [
        (1.875, "1.88x"),
        (0.1, "0.10x"),
        (0.0512, "0.051x"),
        (12, "12.00x"),
        (0.001, "0.001x"),
        (0.0004, "<0.001x"),
    ],
)
def test_small_ratios_keep_their_digits(ratio: float, shown: str) -> None:
    assert times_text(ratio) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (68_127.4, "68,127"),
        (999.6, "1,000"),
        (123.4, "123"),
        (12.34, "12.3"),
        (9.996, "10.00"),
        (1.234, "1.23"),
        (0.1234, "0.123"),
        (0.0123456, "0.0123"),
        (0, "0"),
        (0.00001234, "0.0000123"),
    ],
)
def test_values_have_three_digits_or_all_before_the_point(value: float, shown: str) -> None:
    assert value_text(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.5, "0.5"), (999, "999"), (1000, "1k"), (2.5e6, "2.5M"), (1e10, "10G")],
)
def test_short_figures(value: float, shown: str) -> None:
    assert short_text(value) == shown


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (1536.2, "bytes", "1.5 KiB"),
        (2**31, "bytes/s", "2.0 GiB"),
        (1536.2, "us", "1,536"),
        (1536.2, "bytes/request", "1,536"),
    ],
)
def test_bytes_are_shown_as_sizes_and_other_units_as_figures(
    value: float, unit: str, shown: str
) -> None:
    assert figure_text(value, unit) == shown


@pytest.mark.parametrize(
    ("share", "shown"), [(0.99999, "99.9%"), (1.0, "100.0%"), (0.0, "0.0%"), (0.0009, "0.0%")]
)
def test_percents_are_rounded_down_for_at_least_must_hold(share: float, shown: str) -> None:
    assert percent_text(share) == shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.9, "0 s"),
        (42, "42 s"),
        (119.9, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172_799, "47 h"),
        (172_800, "2 d"),
    ],
)
def test_a_time_has_the_unit_that_says_enough(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
