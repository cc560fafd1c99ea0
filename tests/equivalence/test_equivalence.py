"""Every scenario, under every policy, shows what the table expects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .behaviours import TABLE
from .counting import counters
from .judge import complaint

if TYPE_CHECKING:
    from kernel.harness import Lab

    from .judge import Judge
    from .table import Policy, Scenario, Variant

CASES = [
    pytest.param(scenario, variant, id=f"{scenario.name}-{variant}")
    for scenario in TABLE
    for variant in scenario.variants()
]


@pytest.mark.parametrize(("scenario", "variant"), CASES)
def test_scenario(
    judge: Judge, accelerated: Lab, policy: Policy, scenario: Scenario, variant: Variant
) -> None:
    comparison = judge.compare(accelerated, policy, scenario, variant)
    wrong = complaint(comparison, scenario, variant, policy)
    assert not wrong, wrong


def test_the_proof_is_what_status_counts(accelerated: Lab) -> None:
    counted = counters(accelerated)
    said = accelerated.counters()
    assert said["redirected_bytes"] == counted.redirected_bytes
    assert said["fallbacks"] == counted.fallbacks
