"""`sockaccel enable`: the containers that run at that moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from containers.harness import PORT, talk, wire_silent

if TYPE_CHECKING:
    from containers.harness import DockerLab


@pytest.mark.parametrize("network", ["bridge", "user-defined"])
def test_two_containers_on_a_bridge_are_accelerated(lab: DockerLab, network: str) -> None:
    if network != "bridge":
        lab.network(network)
    one, two = (lab.container(name, "--network", network) for name in ("one", "two"))
    near, far = lab.inside(one), lab.inside(two)
    lab.enable()
    assert lab.scope() == {one.cookie, two.cookie}
    client, server = lab.connect(near, far.listen(two.address(network), PORT))
    assert lab.ways_of(client, server) == {"redirect"}
    assert wire_silent([near, far], lambda: talk(client, server))


def test_a_container_that_starts_afterwards_is_in_scope_when_it_is_enabled_again(
    lab: DockerLab,
) -> None:
    one, two = lab.pair_on("net")
    lab.enable()
    three = lab.container("three", "--network", "net")
    near, far = lab.inside(three), lab.inside(two)
    assert lab.ways(near, far, two.address("net")) == {"tcp"}
    lab.enable()
    assert lab.scope() == {one.cookie, two.cookie, three.cookie}
    assert lab.ways(near, far, two.address("net")) == {"redirect"}
