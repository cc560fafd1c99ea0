from __future__ import annotations

import pytest

from sockaccel.agent.debounce import DEFAULT, Debounce, Window
from sockaccel.errors import InputError


def test_nothing_is_due_before_anything_has_happened() -> None:
    debounce = Debounce(Window(1, 10))
    assert debounce.due_at is None
    assert not debounce.take(1e9)


def test_one_ring_is_due_after_the_quiet_time_and_only_once() -> None:
    debounce = Debounce(Window(1, 10))
    debounce.ring(100)
    assert debounce.due_at == 101
    assert not debounce.take(100.9)
    assert debounce.take(101)
    assert not debounce.take(102)
    assert debounce.due_at is None


def test_a_burst_is_joined_and_due_once_it_is_quiet() -> None:
    debounce = Debounce(Window(1, 10))
    for tenth in range(20):
        now = 100 + tenth / 10
        debounce.ring(now)
        assert not debounce.take(now)
    assert debounce.due_at == pytest.approx(102.9)
    assert debounce.take(102.9)


def test_a_stream_that_never_falls_quiet_is_due_after_the_longest_time() -> None:
    debounce = Debounce(Window(1, 10))
    taken = []
    for tenth in range(300):
        now = tenth / 10
        debounce.ring(now)
        if debounce.take(now):
            taken.append(now)
    assert taken == pytest.approx([10, 20.1])


def test_a_window_of_nothing_is_due_at_once() -> None:
    debounce = Debounce(Window(0, 0))
    debounce.ring(5)
    assert debounce.take(5)


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("5ms:50ms", Window(0.005, 0.05)),
        ("500ms:2s", Window(0.5, 2)),
        ("0.5s:2.5s", Window(0.5, 2.5)),
        (" 1s : 1s ", Window(1, 1)),
        ("0ms:0s", Window(0, 0)),
        ("60s:60s", Window(60, 60)),
    ],
)
def test_a_window_is_written_as_two_times(text: str, window: Window) -> None:
    assert Window.parse(text) == window
    assert Window.parse(str(window)) == window


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "5ms",
        "5ms:",
        "5:50",
        "50ms:5ms",
        "1s:2m",
        "1s:2s:3s",
        "-1s:1s",
        "1s:61s",
        "1e1s:20s",
        "nans:nans",
        "1s:2s\n3s",
        "\u0665s:\u0665s",  # digits, but not ours
    ],
)
def test_what_is_no_window_is_an_error_that_shows_one(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Window.parse(text)
    assert f"'{text}'" in str(caught.value)
    assert caught.value.hint == f"--debounce {DEFAULT}"
    assert Window.parse(str(DEFAULT)) == DEFAULT
