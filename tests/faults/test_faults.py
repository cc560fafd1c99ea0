"""Each fault in its short form; `scripts/soak` does the long ones."""

from __future__ import annotations

import pytest

from .catalogue import FAULTS, run_fault


@pytest.mark.parametrize("name", FAULTS)
def test_no_byte_is_lost_and_nothing_is_left(name: str) -> None:
    outcome = run_fault(name, FAULTS[name].short)
    assert not outcome.faults(), outcome
    assert outcome.count > 0
    assert outcome.report.bytes > 0
