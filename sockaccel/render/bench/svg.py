"""Charts as inline SVG: axes, lines, marks and intervals. Pure.

Colours come from the page (classes s0, s1, ...), so that a chart suits light and
dark; series differ in the shape of their marks, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sockaccel.render.bench.markup import escaped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 34, 46
MARK = 3.5
MAX_TICKS = 6
STEPS = (1, 2, 5, 10)


@dataclass(frozen=True)
class Axis:
    """A range of values, where its ticks are, and what they are called."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Return where on the axis a value is, 0 to 1."""
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(max(value, self.low))
        return (at - low) / (high - low)


@dataclass(frozen=True)
class Series:
    """Points in one colour; `intervals` are (x, low, high)."""

    label: str
    colour: int
    points: Sequence[tuple[float, float]]
    line: Sequence[tuple[float, float]] = ()
    intervals: Sequence[tuple[float, float, float]] = field(default=())


def linear_axis(label: str, low: float, high: float, text: Callable[[float], str]) -> Axis:
    """Return an axis over a range, with a few round ticks."""
    span = (high - low) or abs(high) or 1.0
    magnitude = 10 ** math.floor(math.log10(span / MAX_TICKS))
    step = next(each * magnitude for each in STEPS if span / (each * magnitude) <= MAX_TICKS)
    first, last = math.floor(low / step), math.ceil((low + span) / step)
    ticks = [(each * step, text(each * step)) for each in range(first, last + 1)]
    return Axis(label, first * step, last * step, ticks)


def log_axis(label: str, values: Iterable[float], text: Callable[[float], str]) -> Axis:
    """Return a logarithmic axis from and to 1, 2 or 5 times a power of ten; values above 0."""
    seen = list(values)
    low, high = _round_down(min(seen)), _round_up(max(seen))
    if low == high:
        high = _round_up(high * 1.01)
    marks = [
        step * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for step in STEPS[:-1]
    ]
    within = [mark for mark in marks if low * 0.999 <= mark <= high * 1.001]
    if len(within) > MAX_TICKS + 1:
        within = [mark for mark in within if math.isclose(math.log10(mark) % 1, 0, abs_tol=1e-9)]
    return Axis(label, low, high, [(mark, text(mark)) for mark in within], logarithmic=True)


def _round_down(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in STEPS if step * power <= value * (1 + 1e-9))


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return min(step * power for step in STEPS if step * power >= value * (1 - 1e-9))


def chart(
    name: str, title: str, x: Axis, y: Axis, series: Sequence[Series], rule: float | None = None
) -> str:
    """Return a chart; name is unique in the page, rule a value of y that is marked."""
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}">',
        f'<title id="{name}">{escaped(title)}</title>',
        *_legend(series),
        *_y_axis(y),
        *_x_axis(x),
    ]
    if rule is not None:
        at = _down(y, rule)
        parts.append(f'<path class="rule" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
    parts += [part for each in series for part in _series(x, y, each)]
    return "\n".join([*parts, "</svg>"])


def _across(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def _down(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def _y_axis(axis: Axis) -> Iterator[str]:
    for value, text in axis.ticks:
        at = _down(axis, value)
        yield f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text class="end" x="{LEFT - 6}" y="{at + 4:.1f}">{escaped(text)}</text>'
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    yield (
        f'<text class="middle" transform="translate(12 {middle:.0f}) rotate(-90)">'
        f"{escaped(axis.label)}</text>"
    )


def _x_axis(axis: Axis) -> Iterator[str]:
    bottom = HEIGHT - BOTTOM
    yield f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>'
    for value, text in axis.ticks:
        at = _across(axis, value)
        yield f'<path class="axis" d="M{at:.1f} {bottom}v5"/>'
        yield f'<text class="middle" x="{at:.1f}" y="{bottom + 18}">{escaped(text)}</text>'
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    yield f'<text class="middle" x="{middle:.0f}" y="{HEIGHT - 8}">{escaped(axis.label)}</text>'


def _legend(series: Sequence[Series]) -> Iterator[str]:
    width = (WIDTH - LEFT - RIGHT) / max(len(series), 1)
    for index, each in enumerate(series):
        at = LEFT + index * width
        yield f'<g class="s{each.colour}">{_mark(each.colour, at + 6, 14)}</g>'
        yield f'<text x="{at + 16:.1f}" y="18">{escaped(each.label)}</text>'


def _series(x: Axis, y: Axis, series: Series) -> Iterator[str]:
    yield f'<g class="s{series.colour}">'
    if len(series.line) > 1:
        way = " ".join(f"{_across(x, a):.1f},{_down(y, b):.1f}" for a, b in series.line)
        yield f'<polyline points="{way}"/>'
    for at, low, high in series.intervals:
        yield f'<path d="M{_across(x, at):.1f} {_down(y, low):.1f}V{_down(y, high):.1f}"/>'
    for a, b in series.points:
        yield _mark(series.colour, _across(x, a), _down(y, b))
    yield "</g>"


def _mark(shape: int, x: float, y: float) -> str:
    r = MARK
    outlines = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",  # circle
        f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",  # square
        f"M{x:.1f} {y - r - 1:.1f}l{r + 1} {2 * r + 1}h{-2 * r - 2}z",  # triangle
        f"M{x:.1f} {y - r - 1:.1f}l{r + 1} {r + 1}l{-r - 1} {r + 1}l{-r - 1} {-r - 1}z",  # diamond
    )
    return f'<path class="mark" d="{outlines[shape % len(outlines)]}"/>'
