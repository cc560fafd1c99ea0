from __future__ import annotations

import math
import random

import bench_samples as samples
import pytest

from sockaccel.bench.power import power, power_of_case
from sockaccel.bench.result import Better

SPREAD = 0.03  # of runs of some seconds on the virtual machine with two cores of README.md


def recorded(spread: float, runs: int = 20, seed: int = 3, drift: float = 0.0) -> list[float]:
    """Return runs in their order: noise of this spread, slower by drift at the end."""
    rng = random.Random(seed)
    return [
        40_000 * (1 - drift * number / runs) * math.exp(rng.gauss(0, spread))
        for number in range(runs)
    ]


@pytest.mark.parametrize("better", list(Better))
@pytest.mark.parametrize("seed", range(5))
def test_few_false_alarms_and_five_percent_are_found_at_the_noise_of_this_project(
    seed: int, better: Better
) -> None:
    found = power(recorded(SPREAD, seed=seed), 20, 0.05, better)
    assert found.false_alarms <= 0.08
    assert found.found >= 0.80
    assert found.enough


@pytest.mark.parametrize("pairs", [6, 10, 20, 40])
def test_there_are_few_false_alarms_at_any_noise_and_number_of_pairs(pairs: int) -> None:
    for spread in (0.001, 0.05, 0.5):
        assert power(recorded(spread), pairs, 0.05, Better.HIGHER).false_alarms <= 0.08


def test_a_machine_that_gets_slower_gives_no_false_alarms() -> None:
    found = power(recorded(0.02, runs=40, drift=0.5), 20, 0.05, Better.HIGHER)
    assert found.false_alarms <= 0.08
    assert found.found >= 0.80


def test_what_is_lost_in_the_noise_is_not_found() -> None:
    found = power(recorded(0.3), 20, 0.05, Better.HIGHER)
    assert found.found < 0.5
    assert not found.enough


def test_more_pairs_find_more() -> None:
    runs = recorded(0.06, runs=40)
    shares = [power(runs, pairs, 0.05, Better.HIGHER).found for pairs in (6, 12, 40)]
    assert shares == sorted(shares)
    assert shares[0] < 0.5 < 0.8 < shares[-1]


def test_the_same_runs_give_the_same_answer() -> None:
    assert power(recorded(0.05), 10, 0.05, Better.HIGHER) == power(
        recorded(0.05), 10, 0.05, Better.HIGHER
    )


def test_a_case_tells_how_many_pairs_it_needs() -> None:
    quiet = power_of_case(samples.load_balancer(pairs=20, spread=0.01, values=1), None, 0.05)
    assert (quiet.case, quiet.runs, quiet.power.pairs) == ("nginx-lb/keepalive-on", 20, 20)
    assert quiet.spread == pytest.approx(0.01, rel=0.5)
    noisy = power_of_case(samples.load_balancer(pairs=20, spread=0.04, values=1), 12, 0.05)
    assert noisy.power.pairs == 12
    assert quiet.needed
    assert noisy.needed
    assert quiet.needed < noisy.needed
    hopeless = power_of_case(samples.load_balancer(pairs=20, spread=0.5, values=1), None, 0.05)
    assert hopeless.needed is None


def test_nineteen_runs_are_too_few() -> None:
    with pytest.raises(ValueError, match="19 baseline runs, at least 20"):
        power_of_case(samples.load_balancer(pairs=19, values=1), None, 0.05)
