"""Many readers that do not read; `scripts/soak memory` measures every size of writes."""

from __future__ import annotations

import pytest
from kernel.harness import Lab, removed

from .memory import table


@pytest.mark.parametrize(("size", "blocking"), [(16, False), (131_072, True)])
def test_many_sleeping_readers_cost_no_more_than_with_tcp(size: int, blocking: bool) -> None:
    with removed(Lab("accelerated")) as lab:
        for row in table(lab, (size,), (200,), (blocking,)):
            assert row.good, row
            assert row.redirected > 0
