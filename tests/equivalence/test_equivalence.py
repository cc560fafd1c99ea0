"""Every scenario, under every policy, shows what the table expects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .behaviours import TABLE
from .table import DIFFERS, STAYS

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
    plain = {name: comparison.plain.notes.get(name) for name in comparison.differences}
    assert comparison.verdict in scenario.verdicts(policy, variant.mode), (
        f"{scenario.title!r} ({variant}) {comparison.verdict} under --policy {policy.name}:\n"
        f"plain TCP   {plain}\naccelerated {comparison.differences}\n"
        f"redirected  {comparison.accelerated.redirected} bytes, "
        f"reasons {comparison.accelerated.reasons}"
    )
    excuse = scenario.excuse(variant.mode)
    if comparison.verdict == DIFFERS and excuse:
        assert comparison.differences == excuse.seen, f"plain TCP {plain}; see row {excuse.row}"
    if comparison.verdict == STAYS:
        reasons = comparison.accelerated.reasons
        assert reasons, "it stayed on TCP and nothing says why"
        assert scenario.stays is None or scenario.stays in reasons
