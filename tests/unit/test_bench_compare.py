from __future__ import annotations

from dataclasses import replace

import bench_samples as samples
import pytest

from sockaccel.bench.compare import GAIN, Change, compare
from sockaccel.errors import InputError

A = samples.result(samples.load_balancer(seed=1))


def changes(b: object, a: object = A) -> dict[tuple[str, str], Change]:
    found = compare(a, b).changes  # type: ignore[arg-type]
    return {(each.arm, each.metric): each for each in found}


def test_the_same_result_has_not_changed() -> None:
    comparison = compare(A, A)
    assert comparison.doubts == []
    assert all(each.ratio == 1.0 and not each.distinguishable for each in comparison.changes)


def test_every_arm_and_the_gain_are_compared() -> None:
    assert set(changes(samples.result(samples.load_balancer(seed=2)))) == {
        (arm, metric)
        for arm in ("baseline", "accelerated", GAIN)
        for metric in ("req_s", "latency_p99_us")
    }


def test_a_slower_accelerated_arm_shows_and_baseline_does_not() -> None:
    found = changes(samples.result(samples.load_balancer(gain=1.4, seed=2)))
    assert found["accelerated", "req_s"].distinguishable
    assert found["accelerated", "req_s"].high < 1
    assert found[GAIN, "req_s"].high < 1
    assert not found["baseline", "req_s"].distinguishable
    assert found[GAIN, "req_s"].after == pytest.approx(1.4, rel=0.05)


def test_the_interval_is_that_of_series_without_pairs() -> None:
    shuffled = replace(A.cases[0], runs=A.cases[0].runs[::-1])
    assert changes(A) == changes(samples.result(shuffled))


def test_a_metric_that_few_runs_have_is_not_compared() -> None:
    case = A.cases[0]
    runs = [
        replace(run, metrics={"req_s": run.metrics["req_s"]}) if run.round > 1 else run
        for run in case.runs
    ]
    few = samples.result(replace(case, runs=runs))
    assert {metric for _, metric in changes(few)} == {metric for _, metric in changes(A, few)}
    assert {metric for _, metric in changes(few)} == {"req_s"}


def test_a_machine_that_differs_is_a_doubt() -> None:
    other = replace(A, machine=A.machine | {"cpu": "Another CPU", "cores": 4})
    assert compare(A, other).doubts == [
        "the machines differ: cpu is Some CPU in A and Another CPU in B",
        "the machines differ: cores is 2 in A and 4 in B",
    ]


def test_a_measurement_or_topology_that_differs_is_a_doubt() -> None:
    moved = replace(A.cases[0], topology="docker")
    other = replace(A, parameters=A.parameters | {"seconds": 0.5, "seed": 8}, cases=[moved])
    assert compare(A, other).doubts == [
        "the measurements differ: seconds is 2.0 in A and 0.5 in B",
        "nginx-lb/keepalive-on was not the same: topology is netns in A and docker in B",
    ]


def test_cases_of_one_file_invalid_ones_and_other_parameters_are_doubts() -> None:
    common = samples.load_balancer(connections_each=1)
    first = samples.echo(64, 1.8)
    second = samples.echo(1024, 1.8)
    broken = samples.invalid(first, "why")
    changed = samples.load_balancer(connections_each=2)
    a, b = (
        samples.result(common, first, second),
        samples.result(changed, broken, samples.echo(1, 2)),
    )
    comparison = compare(a, b)
    assert comparison.doubts == [
        "only in A: echo/1024B",
        "only in B: echo/1B",
        "nginx-lb/keepalive-on was not the same: connections_each is 1 in A and 2 in B",
        "echo/64B is INVALID in B: why",
    ]
    assert {each.case for each in comparison.changes} == {"nginx-lb/keepalive-on"}


def test_results_without_a_common_valid_case_are_refused() -> None:
    for other in (
        samples.result(samples.echo(64, 1.8)),
        samples.result(samples.invalid(samples.load_balancer(), "why")),
    ):
        with pytest.raises(InputError, match="no case is in both of them and valid"):
            compare(A, other)
