from __future__ import annotations

from dataclasses import replace
from typing import Any

import bench_samples as samples
import pytest

from sockaccel.bench.advice import with_advice
from sockaccel.bench.result import Advice, CaseResult, Cpu, Result


def advised(case: CaseResult, **machine: Any) -> dict[str, Advice]:
    made = samples.result(case)
    made = with_advice(replace(made, machine=made.machine | machine))
    return {each.kind: each for each in [*made.warnings, *made.cases[0].warnings]}


def with_cpu(**changes: float) -> CaseResult:
    """Return a quiet case in whose runs of 2 s on 2 cores so much time went elsewhere."""
    quiet = samples.load_balancer()
    cpu = replace(Cpu(3.0, 3.2, 0.0, 0.0, None), **changes)
    return replace(quiet, runs=[replace(run, cpu=cpu) for run in quiet.runs])


def test_a_quiet_machine_gives_no_warning() -> None:
    assert advised(with_cpu(steal_seconds=0.03, other_seconds=0.19)) == {}


def test_baseline_runs_that_spread_are_a_noisy_host() -> None:
    warning = advised(samples.load_balancer(spread=0.1))["noisy-host"]
    assert 0.05 < warning.value < 0.2
    spread = f"{warning.value:.1%}"
    assert warning.finding == f"The standard deviation of 6 baseline runs of requests/s is {spread}"


@pytest.mark.parametrize(
    ("spread", "gain", "warned"),
    [
        (0.01, 1.0, False),
        (0.06, 1.0, True),
        (0.06, 2.0, False),  # a gain of two is plain, whatever the second digit
        (0.30, 2.0, True),
    ],
)
def test_an_interval_that_is_too_wide_for_what_it_says_asks_for_more_pairs(
    spread: float, gain: float, warned: bool
) -> None:
    case = samples.load_balancer(spread=spread, gain=gain)
    found = advised(case).get("few-runs")
    assert (found is not None) is warned
    if found:
        assert found.finding.startswith("6 pairs leave the ratio uncertain by ")
        pairs = int(found.next_step.removeprefix("Measure again with --pairs "))
        assert 6 < pairs <= 100


def test_the_advised_pairs_grow_with_the_square_of_what_is_missing() -> None:
    case = samples.load_balancer()
    (ratio, *others) = case.ratios
    wide = replace(ratio, median=1.0, low=0.875, high=1.125)  # 2.5 times what is allowed
    found = advised(replace(case, ratios=[wide, *others]))["few-runs"]
    assert found.next_step == "Measure again with --pairs 38"


@pytest.mark.parametrize(
    ("kind", "field", "seconds", "share"),
    [
        ("cpu-steal", "steal_seconds", 0.2, "5.0% of the processor time was taken by"),
        ("other-load", "other_seconds", 1.0, "25.0% of the processor time went to processes"),
    ],
)
def test_time_that_went_elsewhere_is_a_share_of_all_cores(
    kind: str, field: str, seconds: float, share: str
) -> None:
    warnings = advised(with_cpu(**{field: seconds}))
    assert set(warnings) == {kind}
    assert warnings[kind].finding.startswith(share)
    assert warnings[kind].value == pytest.approx(seconds / 4)


def test_warm_ups_and_runs_without_figures_do_not_count() -> None:
    case = with_cpu()
    noisy = replace(case.runs[0], cpu=Cpu(3.0, 3.2, 4.0, 4.0, None))
    assert noisy.warm_up
    assert advised(replace(case, runs=[noisy, *case.runs[1:]])) == {}
    assert advised(replace(case, runs=[replace(run, cpu=None) for run in case.runs])) == {}


def test_a_governor_that_changes_the_frequency_is_told() -> None:
    warning = advised(with_cpu(), governor="powersave", frequency_mhz=[800.0, 3600.0])
    assert set(warning) == {"frequency-scaling"}
    finding = warning["frequency-scaling"].finding
    assert finding == "The cores may run at 800 to 3,600 MHz (governor powersave)"
    assert warning["frequency-scaling"].value == 4.5


@pytest.mark.parametrize(
    "machine",
    [
        {"governor": "performance", "frequency_mhz": [800.0, 3600.0]},
        {"governor": "powersave", "frequency_mhz": [2000.0, 2000.0]},
        {"governor": "powersave", "frequency_mhz": None},
        {"governor": None, "frequency_mhz": None},
    ],
)
def test_a_frequency_that_stands_or_is_not_known_is_no_warning(machine: dict[str, Any]) -> None:
    assert advised(with_cpu(), **machine) == {}


def test_what_is_invalid_is_not_advised_on() -> None:
    broken = samples.invalid(samples.load_balancer(spread=0.3), "why")
    assert with_advice(samples.result(broken)).cases[0].warnings == []


def test_every_warning_has_a_number_a_cause_and_a_next_step() -> None:
    loud = with_cpu(steal_seconds=1.0, other_seconds=1.0)
    noisy = samples.load_balancer(spread=0.1, gain=1.0)
    case = replace(loud, runs=[replace(run, cpu=loud.runs[0].cpu) for run in noisy.runs])
    made = samples.result(replace(case, ratios=noisy.ratios))
    machine = made.machine | {"governor": "ondemand", "frequency_mhz": [1000.0, 2000.0]}
    result: Result = with_advice(replace(made, machine=machine))
    found = [*result.warnings, *result.cases[0].warnings]
    assert [each.kind for each in found] == [
        "cpu-steal", "other-load", "frequency-scaling", "noisy-host", "few-runs"
    ]  # fmt: skip
    for each in found:
        assert each.value > 0
        assert any(char.isdigit() for char in each.finding)
        assert each.cause
        assert each.next_step
