from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import pytest

from sockaccel.render.bench.svg import HEIGHT, WIDTH, Axis, Series, chart, linear_axis, log_axis


def text(value: float) -> str:
    return f"{value:g}"


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 68_127, ["0", "20000", "40000", "60000", "80000"]),
        (0, 1, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (0.9, 2.3, ["0.5", "1", "1.5", "2", "2.5"]),
        (0, 0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (-3, 3, ["-3", "-2", "-1", "0", "1", "2", "3"]),
    ],
)
def test_ticks_are_round_and_hold_what_there_is(low: float, high: float, ticks: list[str]) -> None:
    axis = linear_axis("x", low, high, text)
    assert [label for _, label in axis.ticks] == ticks
    assert axis.low <= low <= high <= axis.high


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([130, 9_000], ["100", "200", "500", "1000", "2000", "5000", "10000"]),
        ([2, 5e6], ["10", "100", "1000", "10000", "100000", "1e+06"]),
        ([0.3], ["0.2", "0.5"]),
        ([100, 100], ["100", "200"]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_1_2_5_or_powers_of_ten(
    values: list[float], ticks: list[str]
) -> None:
    axis = log_axis("x", values, text)
    assert [label for _, label in axis.ticks] == ticks
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert axis.low < axis.high


def test_a_place_on_an_axis_is_a_share() -> None:
    assert Axis("x", 10, 20, []).share(12.5) == 0.25
    assert math.isclose(Axis("x", 1, 100, [], logarithmic=True).share(10), 0.5)
    assert Axis("x", 1, 100, [], logarithmic=True).share(0) == 0.0


def test_a_chart_is_xml_inside_its_frame() -> None:
    series = [
        Series("one & two", 0, [(1, 1), (2, 4)], [(1, 1), (2, 4)], [(1, 0.5, 2)]),
        Series("three", 1, [(1, 2)], [(1, 2)]),
    ]
    axis = linear_axis("<x>", 0, 4, text)
    root = ET.fromstring(chart("name", "A < B", axis, axis, series, rule=1.0))
    assert (root.get("role"), root.get("aria-labelledby")) == ("img", "name")
    title = root.find("title")
    assert title is not None
    assert (title.get("id"), title.text) == ("name", "A < B")
    assert [each.text for each in root.iter("text") if each.text in ("one & two", "three")] == [
        "one & two",
        "three",
    ]
    assert len(list(root.iter("polyline"))) == 1  # one point makes no line
    points = next(root.iter("polyline")).get("points", "").split()
    places = [tuple(map(float, point.split(","))) for point in points]
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in places)
    assert places[0][0] < places[1][0]
    assert places[0][1] > places[1][1]  # more is higher
