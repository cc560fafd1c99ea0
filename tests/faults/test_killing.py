"""What the sweep over all steps of a command has found, each by itself."""

from __future__ import annotations

from sockaccel.datapath import state

from .scene import Scene


def test_enable_works_after_a_disable_that_was_killed_after_its_first_step() -> None:
    with Scene() as scene:
        scene.enable()
        # The first step of `disable`; then it would detach.
        state.switch_off(scene.lab.pin_dir)
        assert scene.lab.status(expect=3)["active"] is False
        scene.enable()
        assert scene.lab.status()["active"] is True
        scene.start(connections=4, think=1000)
        scene.await_redirection()
        scene.disable()
    assert not scene.left
