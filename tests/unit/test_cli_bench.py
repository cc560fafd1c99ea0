"""`sockaccel bench report`, `compare` and `power`: what becomes of a result."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import bench_samples as samples
import click
import jsonschema
import pytest

from sockaccel.bench.result import dumps, loads
from sockaccel.cli import main
from sockaccel.cli.bench_output import Outputs
from sockaccel.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = samples.result(samples.load_balancer(values=20))
BROKEN = samples.result(samples.invalid(samples.load_balancer(values=20), "no byte went by"))
SCHEMAS = Path(__file__).parents[2] / "benchmarks"


@dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def bench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Return what runs `sockaccel bench` here."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def command(*args: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["sockaccel", "bench", *map(str, args)])
        with pytest.raises(SystemExit) as caught:
            main.main()
        assert isinstance(caught.value.code, int)
        return Done(caught.value.code, *capsys.readouterr())

    return command


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.json"
    path.write_text(dumps(GOOD))
    return path


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.json"
    path.write_text(dumps(BROKEN))
    return path


def refused(done: Done) -> tuple[str, str]:
    assert (done.code, done.out) == (2, "")
    error, hint = done.err.splitlines()
    assert error.startswith("Error: cannot ")
    assert hint.startswith("Hint: ")
    return error, hint


def test_bench_is_listed_and_lists_what_it_can_do(bench: Callable[..., Done]) -> None:
    done = bench("--help")
    assert done.code == 0
    for name in ("report", "compare", "power"):
        assert f"\n  {name} " in done.out
        assert f"sockaccel bench {name} [OPTIONS]" in bench(name, "--help").out


def test_report_is_a_table_unless_told_otherwise(bench: Callable[..., Done], good: Path) -> None:
    done = bench("report", good)
    assert (done.code, done.err) == (0, "")
    assert "keepalive-on  requests/s" in done.out
    assert done.out.endswith("one below 0.5 %.\n")


def test_verdicts_have_colour_where_it_is_wanted(
    bench: Callable[..., Done], good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = bench("report", good).out
    assert "better" in plain
    assert "\x1b" not in plain
    monkeypatch.setenv("SOCKACCEL_COLOR", "always")
    colored = bench("report", good).out
    assert "\x1b[32m\x1b[1mbetter\x1b[0m" in colored
    assert click.unstyle(colored) == plain
    assert "\x1b" not in bench("report", good, "--format", "markdown").out
    monkeypatch.setenv("SOCKACCEL_COLOR", "never")
    assert bench("report", good).out == plain


def test_list_of_what_is_not_there_hints_at_another_list(bench: Callable[..., Done]) -> None:
    error, hint = refused(bench("list", "echo/65"))
    assert error == "Error: cannot list scenario 'echo/65': there is none of that name"
    assert hint == "Hint: sockaccel bench list echo/65536"


def test_report_reads_stdin(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, good: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(good.read_text()))
    assert bench("report", "-").out == bench("report", good).out


@pytest.mark.parametrize("how", [["-o", "json"], ["--format", "json"]])
def test_report_as_json_is_the_result_itself(
    bench: Callable[..., Done], good: Path, how: list[str]
) -> None:
    assert loads(bench("report", good, *how).out, "stdout") == GOOD


@pytest.mark.parametrize(
    ("form", "beginning"),
    [("markdown", "## TCP"), ("html", "<!DOCTYPE html>"), ("junit", "<?xml"), ("table", "TCP")],
)
def test_report_in_every_form_on_stdout_and_in_a_file(
    bench: Callable[..., Done], good: Path, tmp_path: Path, form: str, beginning: str
) -> None:
    shown = bench("report", good, "--format", form)
    assert shown.out.startswith(beginning)
    assert shown.out.endswith("\n")
    assert not shown.out.endswith("\n\n")
    to_file = bench("report", good, "--format", form, "--output-file", tmp_path / "out")
    assert (to_file.code, to_file.out) == (0, "")
    assert (tmp_path / "out").read_text().strip() == shown.out.strip()


def test_report_for_github_writes_both_files_and_the_jobs_summary(
    bench: Callable[..., Done], good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    done = bench("report", good, "--format", "github", "--output-file", tmp_path / "github")
    assert (done.code, done.out) == (0, "")
    assert {path.name for path in (tmp_path / "github").iterdir()} == {
        "customBiggerIsBetter.json",
        "customSmallerIsBetter.json",
    }
    assert summary.read_text().startswith("before\n## TCP")


def test_report_for_github_needs_a_directory(bench: Callable[..., Done], good: Path) -> None:
    assert refused(bench("report", good, "--format", "github"))[1] == (
        "Hint: --output-file DIRECTORY"
    )


def test_an_invalid_result_exits_with_1(bench: Callable[..., Done], broken: Path) -> None:
    done = bench("report", broken)
    assert done.code == 1
    assert "INVALID  nginx-lb/keepalive-on: no byte went by" in done.out


@pytest.mark.parametrize(
    ("gates", "code", "said"),
    [
        (["nginx-lb.req_s.ratio>=1.5"], 0, ["gate passed  nginx-lb/keepalive-on.req_s.ratio>=1.5"]),
        (
            ["nginx-lb.req_s.ratio>=1.5", "nginx-lb.latency_p99_us.high<=0.1"],
            1,
            ["gate passed  ", "gate FAILED  nginx-lb/keepalive-on.latency_p99_us.high<=0.1: it is"],
        ),
    ],
)
def test_gates_set_the_exit_code_and_say_what_failed(
    bench: Callable[..., Done], good: Path, gates: list[str], code: int, said: list[str]
) -> None:
    done = bench("report", good, *(word for gate in gates for word in ("--gate", gate)))
    assert done.code == code
    for line, beginning in zip(done.err.splitlines(), said, strict=True):
        assert line.startswith(beginning)


def test_invalid_fails_every_gate(bench: Callable[..., Done], broken: Path) -> None:
    done = bench("report", broken, "--gate", "nginx-lb.req_s.ratio>=0")
    assert done.code == 1
    assert done.err == (
        "gate FAILED  nginx-lb/keepalive-on.req_s.ratio>=0: INVALID: no byte went by\n"
    )


@pytest.mark.parametrize(
    ("gate", "hint"),
    [
        ("nginx.req_s.ratio>=1", "--gate 'nginx-lb.req_s.ratio>=1'"),
        ("nonsense", "--gate 'nginx-lb.req_s.ratio>=1.5'"),
    ],
)
def test_a_gate_that_names_nothing_is_a_usage_error(
    bench: Callable[..., Done], good: Path, gate: str, hint: str
) -> None:
    assert refused(bench("report", good, "--gate", gate))[1] == f"Hint: {hint}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file or directory (ENOENT)"),
        (b"", "no JSON"),
        (b"\xff\xfe", "it is no text"),
        (b'{"schema": "sockaccel.bench/2"}', "its schema is 'sockaccel.bench/2'"),
    ],
)
def test_what_is_no_result_is_one_line_and_a_hint(
    bench: Callable[..., Done], tmp_path: Path, good: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    for args in (["report", path], ["compare", path, good], ["compare", good, path]):
        error, _ = refused(bench(*args))
        assert error.startswith(f"Error: cannot read result '{path}': {reason}")


def test_a_file_that_cannot_be_written_is_refused(
    bench: Callable[..., Done], tmp_path: Path, good: Path
) -> None:
    path = tmp_path / "missing" / "out.html"
    error, hint = refused(bench("report", good, "--format", "html", "--output-file", path))
    assert error == f"Error: cannot write '{path}': no such file or directory (ENOENT)"
    assert hint == f"Hint: mkdir -p '{path.parent}'"
    error, _ = refused(bench("report", good, "--format", "html", "--output-file", tmp_path))
    assert error == f"Error: cannot write '{tmp_path}': is a directory (EISDIR)"


def outputs(**paths: Path) -> Outputs:
    names = ("save", "html", "markdown", "junit", "github")
    return Outputs(**{name: paths.get(name) for name in names}, gates=())  # type: ignore[arg-type]


def test_outputs_are_all_written(tmp_path: Path) -> None:
    names = ("save", "html", "markdown", "junit", "github")
    paths = {name: tmp_path / name for name in names}
    outputs(**paths).write(GOOD)
    assert loads(paths["save"].read_text(), "save") == GOOD
    assert paths["html"].read_text().startswith("<!DOCTYPE")
    assert paths["markdown"].read_text().startswith("## ")
    assert ET.fromstring(paths["junit"].read_text()).tag == "testsuites"
    assert len(list(paths["github"].iterdir())) == 2
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_what_could_not_be_written_is_refused_before_measuring(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ENOENT"):
        outputs(html=tmp_path / "missing" / "x.html").check()
    outputs(html=tmp_path / "x.html").check()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    made = outputs(save=tmp_path / ("x" * 300), html=tmp_path / "page")
    made.keep(GOOD)
    with pytest.raises(InputError, match="ENAMETOOLONG"):
        made.write(GOOD)
    assert (tmp_path / "page").read_text().startswith("<!DOCTYPE")


def test_a_directory_for_a_file_is_refused_and_a_file_for_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, path in (("save", tmp_path), ("html", tmp_path), ("github", tmp_path / "file")):
        with pytest.raises(InputError, match=r"EISDIR|ENOTDIR"):
            outputs(**{name: path}).check()


def test_ratios_that_are_not_those_of_the_runs_are_refused(
    bench: Callable[..., Done], good: Path
) -> None:
    data = json.loads(good.read_text())
    data["cases"][0]["ratios"][0] |= {"median": 9.0, "low": 8.9, "high": 9.1}
    good.write_text(json.dumps(data))
    assert (
        "the ratios of 'nginx-lb/keepalive-on' are not those" in refused(bench("report", good))[0]
    )


def test_a_link_or_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    outputs(save=link, markdown=Path("/dev/null")).write(GOOD)
    assert link.is_symlink()
    assert loads(target.read_text(), "target") == GOOD
    assert Path("/dev/null").is_char_device()


def test_compare_shows_what_changed(bench: Callable[..., Done], good: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(dumps(samples.result(samples.load_balancer(gain=1.2, seed=2, values=20))))
    done = bench("compare", good, other)
    assert (done.code, done.err) == (0, "")
    assert "WORSE" in done.out
    data = json.loads(bench("compare", good, other, "-o", "json").out)
    assert data["schema"] == "sockaccel.bench-compare/1"
    assert {change["distinguishable"] for change in data["changes"]} == {True, False}
    assert data["doubts"] == []


def test_compare_refuses_what_has_nothing_in_common(
    bench: Callable[..., Done], good: Path, broken: Path
) -> None:
    assert "no case is in both" in refused(bench("compare", good, broken))[0]


def test_a_result_of_one_arm_is_refused(
    bench: Callable[..., Done], good: Path, tmp_path: Path
) -> None:
    data = json.loads(good.read_text())
    (case,) = data["cases"]
    # As made by hand: too few runs for any interval, and said to be valid.
    runs = [run for run in case["runs"] if run["arm"] == "baseline"][:3]
    case.update(arms=["baseline"], runs=runs, ratios=[])
    for valid in ({"valid": True}, {"valid": False}):
        alone = tmp_path / "alone.json"
        alone.write_text(json.dumps(data | valid | {"cases": [case | valid]}))
        error, _ = refused(bench("compare", alone, alone))
        assert error.startswith(f"Error: cannot read result '{alone}': ")
    assert error.endswith("has nothing to compare: fewer than two arms, or no metric")


def test_power_says_what_the_noise_allows(bench: Callable[..., Done], tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    for spread, code in ((0.01, 0), (0.4, 1)):
        made = samples.result(samples.load_balancer(pairs=20, spread=spread, values=1))
        path.write_text(dumps(made))
        done = bench("power", path)
        assert done.code == code
        assert ("NOT ENOUGH  nginx-lb/keepalive-on: 5% slower is found in " in done.err) == code
        assert done.out.splitlines()[1].startswith("nginx-lb/keepalive-on  requests/s    20")
    data = json.loads(bench("power", path, "-o", "json").out)
    assert data["schema"] == "sockaccel.bench-power/1"
    assert data["cases"][0]["power"]["pairs"] == 20


def test_power_needs_twenty_runs(bench: Callable[..., Done], good: Path) -> None:
    error, hint = refused(bench("power", good))
    assert error.endswith(": 6 baseline runs, at least 20 are needed")
    command = "sockaccel bench run nginx-lb/keepalive-on --arm accelerated --pairs 20 --save FILE"
    assert hint == f"Hint: {command}"


def test_what_report_prints_is_as_the_schema_says(bench: Callable[..., Done], good: Path) -> None:
    schema = json.loads((SCHEMAS / "result.schema.json").read_text())
    jsonschema.validate(json.loads(bench("report", good, "-o", "json").out), schema)
