from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from sockaccel.bench.arms import Arm, balanced_order

ARMS = list(Arm)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("seed", range(20))
def test_the_order_is_balanced_in_place_and_in_sequence(count: int, seed: int) -> None:
    arms = ARMS[:count]
    block = balanced_order(arms, 2 * count * (1 + count % 2), random.Random(seed))
    for place in range(count):
        places = Counter(row[place] for row in block)
        assert set(places) == set(arms)
        assert len(set(places.values())) == 1
    following = Counter(couple for row in block for couple in pairwise(row))
    assert len(following) == count * (count - 1)
    assert len(set(following.values())) == 1


@pytest.mark.parametrize("rounds", [1, 6, 7, 8, 21])
def test_order_is_random_and_as_long_as_asked(rounds: int) -> None:
    orders = [balanced_order(ARMS, rounds, random.Random(seed)) for seed in range(50)]
    assert {len(order) for order in orders} == {rounds}
    assert all(set(row) == set(ARMS) for order in orders for row in order)
    assert {order[0][0] for order in orders} == set(ARMS)
    assert len({tuple(order) for order in orders}) > 10


def test_order_is_that_of_its_seed() -> None:
    assert balanced_order(ARMS, 9, random.Random(1)) == balanced_order(ARMS, 9, random.Random(1))


def test_every_arm_has_a_name_for_people() -> None:
    assert len({arm.label for arm in Arm}) == len(Arm)
