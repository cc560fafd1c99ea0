"""A scenario in containers of a daemon of its own: the same proof as in namespaces."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from sockaccel.bench.arms import Arm
from sockaccel.bench.proof import problems_of_round, problems_of_run
from sockaccel.bench.scenario import load_all
from sockaccel.bench.stage import Cast, Setting, Stage, default_policy

if TYPE_CHECKING:
    from sockaccel.bench.stage import Played


@pytest.mark.timeout(300)
def test_both_arms_of_a_scenario_prove_themselves_in_containers() -> None:
    scenario = load_all()["nginx-lb"]
    stage = Stage(scenario, Setting(topology="docker", policy=default_policy()))
    with closing(stage), stage:
        cast = Cast(scenario, scenario.cases[0])
        runs: list[Played] = [stage.play(cast, arm, 1) for arm in (Arm.BASELINE, Arm.ACCELERATED)]
    for run in runs:
        assert problems_of_run(run.evidence) == []
        assert run.memory.peak_rss_bytes > 1 << 20
        assert run.cpu.seconds_total > 0.1
        assert run.context_switches is None
    assert problems_of_round([run.evidence for run in runs]) == {}
