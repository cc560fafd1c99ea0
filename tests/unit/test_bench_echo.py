from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner

from sockaccel.bench import echo
from sockaccel.bench.accelerator import Counters
from sockaccel.bench.arms import Arm
from sockaccel.bench.rounds import (
    Result,
    Sample,
    as_json,
    as_text,
    summarise,
)

OFF = Counters(active=False, redirected_bytes=0, tcp_bytes=0)
SENT = 2 * 64 * 1000
LEAST = 2 * SENT


def on(redirected: int, tcp: int = 0) -> Counters:
    return Counters(True, redirected, tcp)


def sample(arm: Arm, trips: int = 1000, **changes: object) -> Sample:
    counters = on(2 * 64 * trips) if arm is Arm.ACCELERATED else OFF
    crossed = 4 * 64 * trips + 5000 if arm is Arm.BASELINE else 2000
    made = Sample(arm, 64, trips, 0.5, counters, crossed)
    return replace(made, **changes)  # type: ignore[arg-type]


def result(rounds: list[list[Sample]], **changes: object) -> Result:
    made = Result(
        started="2026-01-01T00:00:00+00:00",
        machine={"cores": 2, "cpu": "a CPU", "kernel": "6.1"},
        versions={},
        parameters={"size_bytes": 64, "seconds": 0.5, "seed": 1},
        rounds=rounds,
        ratios=summarise(rounds) if rounds else None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def one_round(*, baseline: int, accelerated: int, textbook: int, unix: int) -> list[Sample]:
    trips = [baseline, accelerated, textbook, unix]
    return [sample(arm, each) for arm, each in zip(Arm, trips, strict=True)]


GOOD = one_round(baseline=1000, accelerated=1800, textbook=2000, unix=1500)


def test_what_a_sample_says() -> None:
    made = sample(Arm.BASELINE)
    assert made.round_trips_per_s == 2000
    assert made.round_trip_us == 500
    assert made.sent_bytes == SENT
    assert made.interface_bytes_per_round_trip == 261


def test_ratios_are_those_of_each_round_whatever_its_order() -> None:
    rounds = [
        one_round(baseline=1000, accelerated=2000, textbook=2000, unix=1000),
        one_round(baseline=2000, accelerated=3000, textbook=4000, unix=4000)[::-1],
        one_round(baseline=500, accelerated=1500, textbook=1500, unix=1500),
    ]
    ratios = {(ratio.comparison.arm, ratio.comparison.to): ratio for ratio in summarise(rounds * 2)}
    gain = ratios[Arm.ACCELERATED, Arm.BASELINE]
    assert (gain.summary.median, gain.summary.minimum, gain.summary.maximum) == (2.0, 1.5, 3.0)
    assert gain.met is True
    assert ratios[Arm.ACCELERATED, Arm.UNIX].summary.median == 1.0
    price = ratios[Arm.ACCELERATED, Arm.TEXTBOOK]
    assert (price.summary.median, price.summary.minimum) == (1.0, 0.75)
    assert price.met is None


@pytest.mark.parametrize(
    ("accelerated", "unix", "met"),
    [(1600, 1600, True), (1599, 1000, False), (1800, 2000, True), (1800, 2001, False)],
)
def test_targets_are_met_at_their_value(accelerated: int, unix: int, met: bool) -> None:
    runs = one_round(baseline=1000, accelerated=accelerated, textbook=2000, unix=unix)
    assert result([runs] * 6).targets_met is met


def test_the_price_of_safety_has_no_target() -> None:
    runs = one_round(baseline=1000, accelerated=1800, textbook=9000, unix=1500)
    assert result([runs] * 6).targets_met


def test_json_has_the_samples_and_the_ratios() -> None:
    data = as_json(result([GOOD] * 6))
    assert data["schema"] == "sockaccel.echo/1"
    assert (data["valid"], data["targets_met"], data["problems"]) == (True, True, [])
    assert data["arms"]["accelerated"]["round_trips_per_s"] == 3600
    assert data["arms"]["baseline"]["round_trip_us"] == 500
    assert [(each["arm"], each["to"], each["median"]) for each in data["ratios"]] == [
        ("accelerated", "baseline", 1.8),
        ("accelerated", "unix", 1.2),
        ("accelerated", "textbook", 0.9),
    ]
    assert [each["target"] for each in data["ratios"]] == [1.6, 0.9, None]
    assert data["ratios"][0]["interval"] == {"low": 1.8, "high": 1.8, "level": 0.95}
    assert len(data["rounds"]) == 6
    assert [each["arm"] for each in data["rounds"][0]] == [str(arm) for arm in Arm]
    assert data["rounds"][0][0]["round_trips"] == 1000
    assert data["unfinished"] == []


def test_invalid_json_has_the_samples_and_no_ratio() -> None:
    stopped = result([], unfinished=GOOD[:2], problems=["unix: why"])
    data = as_json(stopped)
    assert (data["valid"], data["targets_met"], data["arms"], data["ratios"]) == (
        False,
        False,
        None,
        [],
    )
    assert [each["arm"] for each in data["unfinished"]] == ["baseline", "accelerated"]
    assert data["problems"] == ["unix: why"]


def test_text_has_a_line_for_each_arm_and_ratio() -> None:
    lines = as_text(result([GOOD] * 6)).splitlines()
    assert lines[0].startswith("echo of 64 bytes")
    cells = {line.split("  ")[0]: line.split() for line in lines}
    assert cells["plain TCP"][2:] == ["500.00", "2,000", "261.0"]
    assert cells["Unix socket"][2:4] == ["333.33", "3,000"]
    assert cells["accelerated / baseline"][-4:] == ["1.80x", ">=", "1.60x", "met"]
    assert cells["accelerated / textbook"][-1] == "0.90x"


def test_text_says_when_a_target_is_missed() -> None:
    runs = one_round(baseline=1000, accelerated=1500, textbook=2000, unix=1500)
    assert ">= 1.60x MISSED" in as_text(result([runs] * 6))


def test_invalid_text_has_the_reason_and_no_figure() -> None:
    stopped = result([], unfinished=GOOD, problems=["textbook: why"])
    assert as_text(stopped).splitlines()[1:] == ["  INVALID  textbook: why"]


@pytest.mark.parametrize(
    ("arguments", "accelerated", "code"),
    [([], 1800, 0), (["--check"], 1800, 0), ([], 1500, 0), (["--check"], 1500, 1)],
)
def test_exit_code_of_a_valid_result(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], accelerated: int, code: int
) -> None:
    runs = one_round(baseline=1000, accelerated=accelerated, textbook=2000, unix=1500)
    monkeypatch.setattr(echo, "echo", lambda **_: result([runs] * 6))
    done = CliRunner().invoke(echo.command_line, arguments, standalone_mode=False)
    assert done.return_value == code


def test_exit_code_of_an_invalid_result_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echo, "echo", lambda **_: result([], problems=["why"]))
    done = CliRunner().invoke(echo.command_line, ["-o", "json"], standalone_mode=False)
    assert done.return_value == 1


@pytest.mark.parametrize(
    "arguments", [["--rounds", "5"], ["--size", "0"], ["--size", "65537"], ["--seconds", "0"]]
)
def test_unusable_options_are_refused(arguments: list[str]) -> None:
    assert CliRunner().invoke(echo.command_line, arguments).exit_code == 2
