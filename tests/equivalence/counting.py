"""What sockaccel counts, without the price of a command for each run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel.harness import wait_until

from sockaccel.datapath.state import Datapath
from sockaccel.inspect.status import Counters, total

if TYPE_CHECKING:
    from kernel.harness import Lab


def counters(lab: Lab) -> Counters:
    """Return what `status` counts, read until nothing moves: a socket may be just closing."""

    def read() -> Counters:
        datapath = Datapath.open(lab.pin_dir)
        if datapath is None:
            return Counters()
        with datapath:
            return total(datapath.counters(), datapath.records())

    last = read()

    def at_rest() -> bool:
        nonlocal last
        before, last = last, read()
        return before == last

    wait_until(at_rest, what="counters at rest")
    return last
