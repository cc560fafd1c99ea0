from __future__ import annotations

import pytest

from sockaccel.bench.histogram import merge, percentiles


def test_histograms_are_added_value_by_value() -> None:
    assert merge([[(1.0, 2), (3.0, 1)], [], [(2.0, 1), (3.0, 4)]]) == [(1.0, 2), (2.0, 1), (3.0, 5)]
    assert merge([]) == []


def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed() -> None:
    histogram = [(float(value), 1) for value in range(1, 101)]
    assert percentiles(histogram, [0.0, 0.01, 0.5, 0.505, 0.99, 0.999, 1.0]) == [
        1,
        1,
        50,
        51,
        99,
        100,
        100,
    ]


def test_counts_weigh() -> None:
    assert percentiles([(1.0, 98), (7.0, 1), (9.0, 1)], [0.98, 0.99, 0.995]) == [1.0, 7.0, 9.0]


def test_a_share_that_rounds_to_more_than_all_is_the_greatest_value() -> None:
    assert percentiles([(1.0, 3)], [0.1 + 0.2 + 0.7 + 1e-15]) == [1.0]


def test_percentiles_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentiles([], [0.5])
