from __future__ import annotations

from random import Random

import pytest

from sockaccel.agent.backoff import Backoff


def backoff(chance: float) -> Backoff:
    return Backoff(first_s=1, most_s=10, lasted_s=30, chance=lambda: chance)


def test_each_short_run_doubles_the_wait_up_to_the_most() -> None:
    waits = backoff(1.0)
    assert [waits.after(0) for _ in range(6)] == [1, 2, 4, 8, 10, 10]


def test_a_run_that_lasted_starts_again_from_the_first_wait() -> None:
    waits = backoff(1.0)
    for _ in range(5):
        waits.after(29.9)
    assert waits.after(29.9) == 10
    assert [waits.after(ran) for ran in (30, 0, 0)] == [1, 2, 4]


def test_chance_takes_away_up_to_half() -> None:
    assert [backoff(0.0).after(0), backoff(0.5).after(0)] == [0.5, 0.75]


@pytest.mark.parametrize("seed", range(5))
def test_waits_differ_and_stay_within_bounds(seed: int) -> None:
    waits = Backoff(1, 10, 30, Random(seed).random)
    found = [waits.after(0) for _ in range(50)]
    assert len(set(found)) == 50
    assert all(5 <= each <= 10 for each in found[4:])
