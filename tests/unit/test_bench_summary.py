from __future__ import annotations

from dataclasses import replace

import bench_samples as samples

from sockaccel.bench.result import ACCELERATED, BASELINE, CaseResult, Run
from sockaccel.bench.summary import conclude, round_ratios

BEFORE = (100, 110, 90, 105, 95, 100)
AFTER = (150, 165, 180, 105, 190, 160)


def case(
    before: tuple[float, ...] = BEFORE, after: tuple[float, ...] = AFTER, **more: tuple[float, ...]
) -> CaseResult:
    """Return a case that was not concluded, with these rates by arm, round by round."""
    made = samples.load_balancer(values=1)
    template = made.runs[0]
    runs: list[Run] = [
        replace(template, arm=arm, round=number, warm_up=False, metrics={"req_s": rate})
        for arm, rates in {BASELINE: before, ACCELERATED: after, **more}.items()
        for number, rate in enumerate(rates, 1)
    ]
    arms = [BASELINE, ACCELERATED, *more]
    return replace(made, runs=runs, arms=arms, metrics=made.metrics[:1], ratios=[])


def test_ratios_are_of_the_rounds_whatever_their_order() -> None:
    made = case()
    shuffled = replace(made, runs=made.runs[::-1])
    for each in (made, shuffled):
        (ratio,) = conclude(each).ratios
        assert (ratio.arm, ratio.to, ratio.metric) == (ACCELERATED, BASELINE, "req_s")
        assert (ratio.median, ratio.low, ratio.high, ratio.pairs) == (1.55, 1.0, 2.0, 6)
        assert (ratio.minimum, ratio.maximum, ratio.level) == (1.0, 2.0, 0.95)
        assert not ratio.distinguishable


def test_every_arm_is_next_to_baseline_and_accelerated_next_to_every_arm() -> None:
    made = conclude(case(textbook=AFTER, unix=AFTER))
    assert [(each.arm, each.to) for each in made.ratios] == [
        (ACCELERATED, BASELINE),
        ("textbook", BASELINE),
        ("unix", BASELINE),
        (ACCELERATED, "textbook"),
        (ACCELERATED, "unix"),
    ]
    assert made.gain("req_s") == made.ratios[0]
    assert made.gain("another") is None


def test_warm_ups_count_for_nothing() -> None:
    made = case()
    warm_up = replace(made.runs[0], round=0, warm_up=True, metrics={"req_s": 1e9})
    assert conclude(replace(made, runs=[warm_up, *made.runs])).ratios == conclude(made).ratios


def test_one_run_that_does_not_count_takes_the_case_with_it() -> None:
    made = case()
    for index in (0, len(made.runs) - 1):
        runs = list(made.runs)
        runs[index] = replace(runs[index], problems=["no byte was redirected"])
        concluded = conclude(replace(made, runs=runs))
        assert (concluded.valid, concluded.ratios) == (False, [])
        assert concluded.all_problems == ["no byte was redirected"]


def test_a_warm_up_that_does_not_count_takes_the_case_with_it() -> None:
    made = case()
    warm_up = replace(made.runs[0], round=0, warm_up=True, problems=["why"])
    assert not conclude(replace(made, runs=[warm_up, *made.runs])).valid


def test_a_problem_of_the_case_leaves_no_ratio() -> None:
    concluded = conclude(replace(case(), problems=["the server ended"]))
    assert (concluded.valid, concluded.ratios) == (False, [])


def test_five_rounds_are_too_few() -> None:
    concluded = conclude(case(BEFORE[:5], AFTER))
    assert concluded.all_problems == ["5 rounds were completed, a ratio needs 6"]
    assert not concluded.valid


def test_a_round_that_was_not_completed_is_left_out_of_the_ratio() -> None:
    (ratio,) = conclude(case((*BEFORE, 1.0), AFTER)).ratios
    assert ratio.pairs == 6
    assert ratio == conclude(case()).ratios[0]


def test_an_arm_alone_has_no_ratio_and_is_not_valid() -> None:
    made = case()
    alone = conclude(replace(made, arms=[BASELINE], runs=made.of_arm(BASELINE)))
    assert alone.ratios == []
    assert not alone.valid


def test_there_is_no_ratio_to_nothing_nor_of_what_an_arm_does_not_have() -> None:
    made = case((0.0, *BEFORE[1:]))
    assert round_ratios(made, ACCELERATED, BASELINE, made.metrics[0]) == []
    lacking = case()
    runs = [replace(lacking.runs[0], metrics={}), *lacking.runs[1:]]
    assert conclude(replace(lacking, runs=runs)).ratios == []


def test_what_fell_to_nothing_has_a_ratio() -> None:
    (ratio,) = conclude(case(after=(0.0,) * 6)).ratios
    assert (ratio.median, ratio.low, ratio.high) == (0.0, 0.0, 0.0)
    assert ratio.distinguishable
