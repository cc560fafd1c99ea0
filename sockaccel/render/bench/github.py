"""The two files that github-action-benchmark reads. Pure.

It takes the direction of a metric from the file's tool: customBiggerIsBetter and
customSmallerIsBetter (github.com/benchmark-action/github-action-benchmark).
"""

from __future__ import annotations

import json
from statistics import median
from typing import TYPE_CHECKING, Any

from sockaccel.bench.result import Better
from sockaccel.render.bench.document import interval_text
from sockaccel.render.units import figure_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sockaccel.bench.result import CaseResult, Result

FILES = {
    Better.HIGHER: "customBiggerIsBetter.json",
    Better.LOWER: "customSmallerIsBetter.json",
}


def action_files(result: Result) -> dict[str, str]:
    """Return the texts of the two files by name; what is INVALID is in neither."""
    entries = [entry for case in result.cases if case.valid for entry in _entries(case)]
    return {
        name: json.dumps([entry for better, entry in entries if better is way], indent=2) + "\n"
        for way, name in FILES.items()
    }


def _entries(case: CaseResult) -> Iterator[tuple[Better, dict[str, Any]]]:
    for metric in case.metrics:
        for arm in case.arms:
            values = case.values(arm, metric.name)
            if values:
                ends = (figure_text(end, metric.unit) for end in (min(values), max(values)))
                yield (
                    metric.better,
                    {
                        "name": f"{case.id} {arm}: {metric.title}",
                        "unit": metric.unit,
                        "value": median(values),
                        "range": " to ".join(ends),
                        "extra": f"median of {len(values)} runs",
                    },
                )
        ratio = case.gain(metric.name)
        if ratio:
            yield (
                metric.better,
                {
                    "name": f"{case.id} accelerated / baseline: {metric.title}",
                    "unit": "x",
                    "value": ratio.median,
                    "range": interval_text(ratio),
                    "extra": f"{ratio.pairs} pairs, 95 % interval",
                },
            )
