from __future__ import annotations

import pytest

from sockaccel.render.units import bytes_text, duration_text


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
