"""The figures of a benchmark's page: each a chart, and a table that says the same. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sockaccel.bench.histogram import merge, percentiles
from sockaccel.bench.result import BASELINE, MESSAGE_BYTES
from sockaccel.render.bench.document import Table, interval_text
from sockaccel.render.bench.svg import Axis, Series, chart, linear_axis, log_axis
from sockaccel.render.units import bytes_text, figure_text, short_text, times_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sockaccel.bench.histogram import Histogram
    from sockaccel.bench.result import CaseResult, Load, Ratio

SHARES = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999)
TICKS = (0.5, 0.9, 0.99, 0.999, 0.9999)
# Beyond a percentile so many values must lie, or it is chance.
MIN_BEYOND = 10
CURVE_STEPS = 20  # per power of ten of what lies beyond
ARM_GAP = 0.1  # so that the intervals of arms stand beside each other
MIN_SIZES = 3


@dataclass(frozen=True)
class Figure:
    """A chart and its data."""

    caption: str
    svg: str
    table: Table


def figures_of_case(case: CaseResult, name: str) -> Iterator[Figure]:
    """Yield the figures of a case; name is unique in the page."""
    yield _runs(case, f"{name}-runs")
    latency = _latency(case, f"{name}-latency")
    if latency:
        yield latency


def figures_of_scenario(cases: Sequence[CaseResult], name: str) -> Iterator[Figure]:
    """Yield the figures that lay cases of one scenario side by side: ratios by message size."""
    groups: dict[tuple[tuple[str, str], ...], list[CaseResult]] = {}
    for case in cases:
        if case.valid and isinstance(case.parameters.get(MESSAGE_BYTES), int):
            others = {key: str(value) for key, value in case.parameters.items()}
            del others[MESSAGE_BYTES]
            groups.setdefault(tuple(sorted(others.items())), []).append(case)
    shared = [item for item in next(iter(groups), ()) if all(item in each for each in groups)]
    for index, (items, members) in enumerate(groups.items()):
        if len(members) >= MIN_SIZES:
            which = ", ".join(
                f"{key} {value}" for key, value in items if (key, value) not in shared
            )
            yield _by_size(members, f"{name}-sizes-{index}", which)


def _runs(case: CaseResult, name: str) -> Figure:
    metric = case.metrics[0]
    rounds = sorted({run.round for run in case.runs if not run.warm_up})
    values = {
        arm: {
            run.round: run.metrics[metric.name]
            for run in case.of_arm(arm)
            if metric.name in run.metrics
        }
        for arm in case.arms
    }
    caption = f"{case.case}: {metric.label}, run by run"
    highest = max((value for of_arm in values.values() for value in of_arm.values()), default=1.0)
    every = math.ceil(len(rounds) / 15)
    x = Axis(
        "round",
        rounds[0] - 0.5,
        rounds[-1] + 0.5,
        [(each, str(each)) for each in rounds[::every]],
    )
    series = [
        Series(arm, index, [*values[arm].items()], [*values[arm].items()])
        for index, arm in enumerate(case.arms)
    ]
    return Figure(
        caption,
        chart(name, caption, x, linear_axis(metric.label, 0, highest, short_text), series),
        Table(
            caption,
            ["round", *case.arms],
            [
                [str(each), *(_cell(values[arm].get(each), metric.unit) for arm in case.arms)]
                for each in rounds
            ],
            names=1,
        ),
    )


def _cell(value: float | None, unit: str) -> str:
    return "-" if value is None else figure_text(value, unit)


def _latency(case: CaseResult, name: str) -> Figure | None:
    """Return the latencies of all runs of each arm, on one axis."""
    merged, loads = _histograms(case)
    if not merged:
        return None
    curves = {arm: _curve(histogram) for arm, histogram in merged.items()}
    marked = {
        arm: dict(zip(shares, percentiles(histogram, shares), strict=True))
        for arm, histogram in merged.items()
        for shares in [_shares(histogram)]
    }
    caption = f"{case.case}: latency at {' and '.join(loads)}, us, all runs of an arm"
    seen = [value for curve in curves.values() for _, value in curve if value > 0]
    furthest = max(at for curve in curves.values() for at, _ in curve)
    x = Axis(
        "percentile",
        0,
        max(furthest, 1),
        [(_nines(each), _percent(each)) for each in TICKS if _nines(each) <= furthest],
    )
    series = [
        Series(
            arm,
            case.arms.index(arm),
            [(_nines(share), value) for share, value in marked[arm].items()],
            curves[arm],
        )
        for arm in merged
    ]
    return Figure(
        caption,
        chart(name, caption, x, log_axis("latency, us", seen or [1.0], short_text), series),
        Table(
            caption,
            ["percentile", *merged],
            [
                [_percent(share), *(_cell(marked[arm].get(share), "us") for arm in merged)]
                for share in SHARES
                if any(share in of_arm for of_arm in marked.values())
            ],
            names=1,
        ),
    )


def _histograms(case: CaseResult) -> tuple[dict[str, Histogram], list[Load]]:
    """Return the histogram of each arm that has one, and what they were measured under."""
    merged: dict[str, Histogram] = {}
    loads: dict[Load, None] = {}
    for arm in case.arms:
        found = [run.latency for run in case.of_arm(arm) if run.latency]
        histogram = merge(each.histogram for each in found)
        if histogram:
            merged[arm] = histogram
            loads.update((each.load, None) for each in found)
    return merged, list(loads)


def _shares(histogram: Histogram) -> list[float]:
    """Return the percentiles beyond which enough values lie."""
    total = sum(count for _, count in histogram)
    return [share for share in SHARES if total * (1 - share) >= MIN_BEYOND] or [SHARES[0]]


def _curve(histogram: Histogram) -> list[tuple[float, float]]:
    last = _nines(_shares(histogram)[-1])
    places = [step / CURVE_STEPS for step in range(1, int(last * CURVE_STEPS))] + [last]
    return list(zip(places, percentiles(histogram, [1 - 10**-at for at in places]), strict=True))


def _nines(share: float) -> float:
    """Return where a percentile stands: 90 at 1, 99 at 2, 99.9 at 3."""
    return -math.log10(1 - share)


def _percent(share: float) -> str:
    return f"{share * 100:g}"


def _by_size(cases: Sequence[CaseResult], name: str, which: str) -> Figure:
    metric = cases[0].metrics[0]
    ordered = sorted(cases, key=lambda case: case.parameters[MESSAGE_BYTES])
    ratios = {
        arm: {
            index: ratio
            for index, case in enumerate(ordered)
            for ratio in case.ratios
            if (ratio.arm, ratio.to, ratio.metric) == (arm, BASELINE, metric.name)
        }
        for arm in ordered[0].arms
        if arm != BASELINE
    }
    sizes = [bytes_text(case.parameters[MESSAGE_BYTES]).replace(".0 ", " ") for case in ordered]
    caption = f"{metric.label} next to baseline, by message size{which and ', '}{which}"
    # 1: no difference; without a ratio (of a metric that was 0 in a run) it stands alone.
    ends = [1.0]
    ends += [
        end
        for of_arm in ratios.values()
        for each in of_arm.values()
        for end in (each.low, each.high)
    ]
    x = Axis("message size", -0.5, len(sizes) - 0.5, list(enumerate(sizes)))
    y = linear_axis(f"ratio to {BASELINE}", min(ends), max(ends), "{:g}x".format)
    series = [
        _ratio_series(
            arm, ordered[0].arms.index(arm), of_arm, (place - (len(ratios) - 1) / 2) * ARM_GAP
        )
        for place, (arm, of_arm) in enumerate(ratios.items())
    ]
    return Figure(
        caption,
        chart(name, caption, x, y, series, rule=1.0),
        Table(
            caption,
            ["message size", *(f"{arm} / {BASELINE}" for arm in ratios)],
            [
                [size, *(_ratio_cell(of_arm.get(index)) for of_arm in ratios.values())]
                for index, size in enumerate(sizes)
            ],
            names=1,
        ),
    )


def _ratio_series(arm: str, colour: int, ratios: dict[int, Ratio], shift: float) -> Series:
    points = [(index + shift, ratio.median) for index, ratio in ratios.items()]
    intervals = [(index + shift, ratio.low, ratio.high) for index, ratio in ratios.items()]
    return Series(arm, colour, points, points, intervals)


def _ratio_cell(ratio: Ratio | None) -> str:
    return f"{times_text(ratio.median)} ({interval_text(ratio)})" if ratio else "-"
