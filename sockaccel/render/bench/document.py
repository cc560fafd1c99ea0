"""A benchmark's result as headings, notices and tables: what every form of it says. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from sockaccel.bench.result import ACCELERATED, BASELINE, Better
from sockaccel.render.units import figure_text, percent_text, times_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sockaccel.bench.compare import Change, Comparison
    from sockaccel.bench.result import Advice, CaseResult, Metric, Ratio, Result

LEGEND = (
    "Arms: medians of their runs. Ratio: median of the rounds' ratios; interval: 95 %, by"
    " signed ranks. ~: no difference that so many runs can tell, or one below 0.5 %."
)
COMPARISON_LEGEND = (
    "A, B: medians of their runs. Ratio: of the medians; interval: 95 %, by rank sums, not"
    " paired. ~: no difference that so many runs can tell, or one below 0.5 %."
)
OVERVIEW = "overview: ratio and CPU time are accelerated / baseline"
NONE = "-"


@dataclass(frozen=True)
class Table:
    """Rows under headers; the first `names` columns are names, the others figures."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int


@dataclass(frozen=True)
class Notice:
    """Something that a reader must not miss: a word for it, and a sentence."""

    word: str
    text: str


@dataclass(frozen=True)
class Section:
    """One scenario."""

    name: str
    title: str
    tables: Sequence[Table]


@dataclass(frozen=True)
class Document:
    """What is shown, whatever the form."""

    title: str
    notices: Sequence[Notice]
    sections: Sequence[Section]
    footer: Sequence[str]
    overview: Table | None = None  # one row for each case, where there are several


def scenarios(result: Result) -> dict[str, list[CaseResult]]:
    """Return the cases by scenario, in the order in which they were measured."""
    found: dict[str, list[CaseResult]] = {}
    for case in result.cases:
        found.setdefault(case.scenario, []).append(case)
    return found


def document(result: Result) -> Document:
    """Return what there is to say about a result: failures first."""
    return Document(
        title=_title(result),
        notices=[*_failures(result), *_warnings(result)],
        sections=[_section(name, cases) for name, cases in scenarios(result).items()],
        footer=[*_facts(result), LEGEND],
        overview=_overview(result.cases) if len(result.cases) > 1 else None,
    )


def _title(result: Result) -> str:
    machine = result.machine
    where = f"{machine.get('cores', '?')} cores of {machine.get('cpu', 'unknown')}"
    return f"TCP, plain and accelerated, on {where}, Linux {machine.get('kernel', '?')}"


def _failures(result: Result) -> list[Notice]:
    notices = []
    if result.finished is None:
        notices.append(Notice("INTERRUPTED", "what follows had been measured until then"))
    for case in result.cases:
        if not case.valid:
            notices += [Notice("INVALID", f"{case.id}: {each}") for each in case.all_problems]
    for left in result.left_out:
        notices.append(Notice("LEFT OUT", f"{left.scenario}: {left.reason}; {left.hint}"))
    return notices


def _warnings(result: Result) -> list[Notice]:
    """Return the warnings, those of one kind as one: of the case where it is worst."""
    by_kind: dict[str, list[tuple[str, Advice]]] = {}
    for where, advice in [
        *(("", each) for each in result.warnings),
        *((f"{case.id}: ", each) for case in result.cases for each in case.warnings),
    ]:
        by_kind.setdefault(advice.kind, []).append((where, advice))
    return [_warning(alike) for alike in by_kind.values()]


def _warning(alike: list[tuple[str, Advice]]) -> Notice:
    where, worst = max(alike, key=lambda each: each[1].value)
    more = len(alike) - 1
    others = f", and {more} more like it" if more else ""
    return Notice("WARNING", f"{where}{worst.finding}{others}. {worst.cause}. {worst.next_step}.")


def _facts(result: Result) -> list[str]:
    versions = ", ".join(f"{name} {text}" for name, text in result.versions.items() if text)
    given = ", ".join(
        name
        if value is True
        else f"{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in result.parameters.items()
        if value is not None and value is not False
    )
    return [
        f"Measured {result.started}, {given or 'no parameters'}.",
        f"Versions: {versions or 'unknown'}; commit {result.commit or 'unknown'}.",
    ]


def _overview(cases: Sequence[CaseResult]) -> Table:
    """Return what each case is about: its first metric, and what it cost."""
    others = [
        arm
        for arm in dict.fromkeys(arm for case in cases for arm in case.arms)
        if arm not in (BASELINE, ACCELERATED)
    ]
    return Table(
        OVERVIEW if not others else f"{OVERVIEW}; then accelerated / another arm",
        [
            *("case", "metric", BASELINE, ACCELERATED, "ratio", "95% interval", "CPU time"),
            *(f"/ {arm}" for arm in others),
            "verdict",
        ],
        [_overview_row(case, others) for case in cases],
        names=2,
    )


def _overview_row(case: CaseResult, others: Sequence[str]) -> Sequence[str]:
    if not case.valid:
        return [case.id, "INVALID", *(NONE for _ in range(5 + len(others))), ""]
    metric = case.metrics[0]
    medians = [_median(case, arm, metric) for arm in (BASELINE, ACCELERATED)]
    *ratio, word = _ratio_cells(case.gain(metric.name), metric.better)
    cpu = next((each.name for each in case.metrics if each.name.startswith("cpu_s_per_")), "")
    beside = [case.ratio(ACCELERATED, arm, metric.name) for arm in others]
    costs = [times_text(each.median) if each else NONE for each in (case.gain(cpu), *beside)]
    return [case.id, metric.label, *medians, *ratio, *costs, word]


def _section(name: str, cases: list[CaseResult]) -> Section:
    topologies = ", ".join(dict.fromkeys(case.topology for case in cases))
    tables = [_main_table(cases), _other_table(cases)]
    return Section(name, f"{cases[0].title} ({topologies})", [each for each in tables if each.rows])


def _main_table(cases: list[CaseResult]) -> Table:
    arms = list(dict.fromkeys(arm for case in cases for arm in case.arms))
    return Table(
        "medians, and accelerated / baseline",
        ["case", "metric", *arms, "ratio", "95% interval", "verdict"],
        [row for case in cases for row in _rows(case, arms)],
        names=2,
    )


def _rows(case: CaseResult, arms: list[str]) -> Iterable[Sequence[str]]:
    if not case.valid:
        yield [case.case, "INVALID", *(NONE for _ in arms), NONE, NONE, ""]
        return
    for metric in case.metrics:
        values = [_median(case, arm, metric) for arm in arms]
        ratio = case.gain(metric.name)
        yield [case.case, metric.label, *values, *_ratio_cells(ratio, metric.better)]
    yield [
        case.case,
        "bytes redirected, at least",
        *(_share(case, arm) for arm in arms),
        "",
        "",
        "",
    ]


def _ratio_cells(ratio: Ratio | None, better: Better) -> list[str]:
    """Return a ratio, its interval and what they mean."""
    if ratio is None:
        return [NONE, NONE, ""]
    return [times_text(ratio.median), interval_text(ratio), verdict(ratio, better)]


def interval_text(ratio: Ratio | Change) -> str:
    """Return where a ratio may be."""
    return f"{times_text(ratio.low)} to {times_text(ratio.high)}"


def verdict(ratio: Ratio | Change, better: Better) -> str:
    """Return in a word what a ratio says."""
    if not ratio.distinguishable or times_text(ratio.low) == times_text(ratio.high) == "1.00x":
        return "~"
    return "better" if (ratio.low > 1) == (better is Better.HIGHER) else "WORSE"


def _median(case: CaseResult, arm: str, metric: Metric) -> str:
    values = case.values(arm, metric.name)
    return figure_text(median(values), metric.unit) if values else NONE


def _share(case: CaseResult, arm: str) -> str:
    """Return the least share of sockaccel's bytes that was redirected in a run."""
    proofs = [run.proof for run in case.of_arm(arm)]
    totals = [each.redirected_bytes + each.tcp_bytes for each in proofs]
    if not proofs or not all(totals):
        return NONE
    pairs = zip(proofs, totals, strict=True)
    return percent_text(min(each.redirected_bytes / total for each, total in pairs))


def _other_table(cases: list[CaseResult]) -> Table:
    rows = []
    for case in cases:
        metrics = {metric.name: metric for metric in case.metrics[:1]}
        for ratio in case.ratios:
            if ratio.metric in metrics and (ratio.arm, ratio.to) != (ACCELERATED, BASELINE):
                metric = metrics[ratio.metric]
                cells = _ratio_cells(ratio, metric.better)
                rows.append([case.case, metric.label, f"{ratio.arm} / {ratio.to}", *cells])
    headers = ["case", "metric", "arms", "ratio", "95% interval", "verdict"]
    return Table("next to the other arms", headers, rows, names=3)


def comparison_document(comparison: Comparison, a: str, b: str) -> Document:
    """Return what there is to say about two results, named a and b."""
    by_case: dict[str, list[Change]] = {}
    for change in comparison.changes:
        by_case.setdefault(change.case, []).append(change)
    return Document(
        title=f"B next to A. A: {a}, B: {b}",
        notices=[Notice("WARNING", doubt) for doubt in comparison.doubts],
        sections=[
            Section(case, "B / A", [_change_table(changes)]) for case, changes in by_case.items()
        ],
        footer=[COMPARISON_LEGEND],
    )


def _change_table(changes: Sequence[Change]) -> Table:
    rows = [
        [
            change.arm,
            change.label,
            figure_text(change.before, change.unit),
            figure_text(change.after, change.unit),
            times_text(change.ratio),
            interval_text(change),
            verdict(change, change.better),
        ]
        for change in changes
    ]
    headers = ["arm", "metric", "A", "B", "ratio", "95% interval", "verdict"]
    return Table("medians, and B / A", headers, rows, names=2)
