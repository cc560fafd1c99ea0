"""`sockaccel enable`: the containers that run at that moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containers.harness import talk, wire_silent

if TYPE_CHECKING:
    from containers.harness import DockerLab


def test_two_containers_on_a_user_defined_bridge_are_accelerated(lab: DockerLab) -> None:
    one, two = lab.pair_on("bridge-a")
    near, far = lab.inside(one), lab.inside(two)
    lab.enable()
    assert lab.scope() == {one.cookie, two.cookie}
    client, server = lab.connect(near, far.listen(two.address("bridge-a"), 7000))
    assert lab.ways_of(client, server) == {"redirect"}
    assert wire_silent([near, far], lambda: talk(client, server))
