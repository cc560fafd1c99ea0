"""The page, as a real browser sees it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import bench_samples as samples
import pytest

from sockaccel.bench.advice import with_advice
from sockaccel.render.bench.document import document, scenarios
from sockaccel.render.bench.page import as_html
from sockaccel.render.bench.plots import figures_of_case, figures_of_scenario

if TYPE_CHECKING:
    from pathlib import Path

    from sockaccel.bench.result import Result

# Who asks for what the browser itself wants: its services, and pages of its own.
BROWSER = ("not an origin", "chrome:", "chrome-untrusted:", "devtools:")
OWN_PAGE = re.compile(r"source: (chrome|chrome-untrusted|devtools):")


@dataclass
class Seen:
    """What the browser made of a page."""

    dom: str
    console: list[str]
    requests: list[str]


def browse(page: Path, profile: Path) -> Seen:
    """Open a page in Chromium, in a network namespace from which nothing can be reached."""
    program = shutil.which("chromium")
    assert program, "apt-get install chromium"
    log = profile / "net.json"
    privilege = [] if os.geteuid() == 0 else ["--map-root-user"]
    done = subprocess.run(
        [
            *("unshare", "--net", *privilege, program),
            *("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={profile}", f"--log-net-log={log}", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    events = json.loads(log.read_text())["events"]
    asked = [event.get("params", {}) for event in events]
    return Seen(
        dom=done.stdout,
        console=[
            line
            for line in done.stderr.splitlines()
            if ":CONSOLE" in line and not OWN_PAGE.search(line)
        ],
        requests=[
            params["url"]
            for params in asked
            if not params.get("initiator", BROWSER[0]).startswith(BROWSER)
            and not params["url"].startswith("data:")
        ],
    )


@dataclass
class Table:
    caption: str = ""
    rows: list[list[str]] = field(default_factory=list)


@dataclass
class Chart:
    title: str = ""
    marks: int = 0
    lines: int = 0


class Reader(HTMLParser):
    """Collects the tables and charts of a page, and what it says outside of them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[Table] = []
        self.charts: list[Chart] = []
        self.notices: list[str] = []
        self.text = ""
        self._into = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append(Table())
        elif tag == "tr":
            self.tables[-1].rows.append([])
        elif tag in ("th", "td"):
            self.tables[-1].rows[-1].append("")
        elif tag == "svg":
            self.charts.append(Chart())
        elif tag == "li":
            self.notices.append("")
        elif tag == "polyline":
            self.charts[-1].lines += 1
        elif tag == "path" and ("class", "mark") in attrs:
            self.charts[-1].marks += 1
        self._into = tag

    def handle_endtag(self, _: str) -> None:
        self._into = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._into == "caption":
            self.tables[-1].caption += data
        elif self._into in ("th", "td"):
            self.tables[-1].rows[-1][-1] += data
        elif self._into == "title" and self.charts:
            self.charts[-1].title += data
        elif self._into in ("li", "strong") or (self.notices and not self._into):
            self.notices[-1] += data


@pytest.fixture(scope="module")
def result() -> Result:
    return with_advice(samples.full())


@pytest.fixture(scope="module")
def seen(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    directory = tmp_path_factory.mktemp("page")
    page = directory / "result.html"
    page.write_text(as_html(result), encoding="utf-8")
    return browse(page, directory)


@pytest.fixture(scope="module")
def page(seen: Seen) -> Reader:
    return Reader(seen.dom)


def test_the_browser_has_nothing_to_complain_of_and_the_page_asks_for_nothing(seen: Seen) -> None:
    assert seen.console == []
    assert seen.requests == []


def test_a_page_that_complains_and_asks_would_be_noticed(tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.9:9/x.png'><script>console.error('boom')</script>")
    seen = browse(bad, tmp_path)
    assert len(seen.console) == 1
    assert "boom" in seen.console[0]
    assert seen.requests == ["http://127.0.0.9:9/x.png"]


def test_every_table_is_there_with_its_data(page: Reader, result: Result) -> None:
    shown = document(result)
    assert shown.overview
    expected = [shown.overview]
    for section, cases in zip(shown.sections, scenarios(result).values(), strict=True):
        expected += [*section.tables, *(each.table for each in figures(cases))]
    assert [(table.caption, table.rows) for table in page.tables] == [
        (table.caption, [list(table.headers), *map(list, table.rows)]) for table in expected
    ]
    assert len(expected) > 15


def figures(cases):
    yield from figures_of_scenario(cases, "x")
    for case in cases:
        if case.valid:
            yield from figures_of_case(case, "x")


def test_every_chart_is_there_with_a_mark_for_each_figure(page: Reader, result: Result) -> None:
    expected = [
        (figure.caption, len(figure.table.headers) - 1, len(figure.table.rows))
        for cases in scenarios(result).values()
        for figure in figures(cases)
    ]
    assert [chart.title for chart in page.charts] == [caption for caption, _, _ in expected]
    for chart, (caption, series, rows) in zip(page.charts, expected, strict=True):
        # One more for each series: the legend's.
        assert (chart.lines, chart.marks) == (series, series * (rows + 1)), caption


def test_the_charts_are_those_of_the_task(page: Reader) -> None:
    titles = [chart.title for chart in page.charts]
    assert "keepalive-on: requests/s, run by run" in titles
    assert "64B: latency at saturation, us, all runs of an arm" in titles
    assert "requests/s next to baseline, by message size" in titles
    assert not any("get" in title for title in titles)  # redis/get is INVALID


def test_the_tables_of_charts_have_the_runs(page: Reader, result: Result) -> None:
    case = result.cases[0]
    table = next(each for each in page.tables if each.caption.startswith("keepalive-on: requests"))
    assert table.rows[0] == ["round", "baseline", "accelerated"]
    assert [row[0] for row in table.rows[1:]] == ["1", "2", "3", "4", "5", "6"]
    for column, arm in enumerate(case.arms, 1):
        assert [float(row[column].replace(",", "")) for row in table.rows[1:]] == pytest.approx(
            case.values(arm, "req_s"), abs=0.5
        )


def test_what_failed_stands_first(page: Reader) -> None:
    words = [re.match("[A-Z ]+", notice)[0].strip() for notice in page.notices]  # type: ignore[index]
    assert words[:2] == ["INVALID", "LEFT OUT"]
    assert set(words[2:]) == {"WARNING"}


def test_names_are_unique_and_every_chart_is_named(seen: Seen) -> None:
    names = re.findall(r' id="([^"]+)"', seen.dom)
    assert len(names) == len(set(names))
    assert re.findall(r'aria-labelledby="([^"]+)"', seen.dom) == names


def test_the_page_is_for_light_and_dark_and_for_narrow_screens(result: Result) -> None:
    text = as_html(result)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert not re.search(r"https?:|url\(|@import|<script|src=", text)


def test_names_from_the_result_cannot_become_markup() -> None:
    hostile = "</title><script>alert(1)</script>"
    case = samples.case("a", "<b>", {hostile: 1.0, "baseline": 2.0}, values=20)
    text = as_html(samples.result(case, commit=hostile, machine={"cpu": hostile}))
    assert "<script" not in text
    assert "<b>" not in text


def test_a_scenario_without_any_ratio_of_what_it_is_about_has_its_page() -> None:
    """As where a metric was 0 in a run of the baseline: TCP's memory, of short connections."""
    cases = [
        replace(made, ratios=[each for each in made.ratios if each.metric != "req_s"])
        for made in (samples.echo(size, 2.0) for size in (1, 64, 1024))
    ]
    assert cases[0].valid
    assert "by message size" in as_html(samples.result(*cases))
