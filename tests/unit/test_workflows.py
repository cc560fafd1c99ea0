"""What .github/workflows says is what there is; scripts/check holds the files to their schema."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from bench_samples import case, result
from click.testing import CliRunner

from sockaccel.cli import bench_run
from sockaccel.cli.main import cli

if TYPE_CHECKING:
    from sockaccel.bench.runner import Plan

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SOCKACCEL = ".venv/bin/sockaccel"


def steps(path: Path) -> list[dict[str, Any]]:
    (job,) = yaml.safe_load(path.read_text())["jobs"].values()
    found: list[dict[str, Any]] = job["steps"]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_what_is_there(path: Path) -> None:
    programs = [shlex.split(step["run"])[0] for step in steps(path) if "run" in step]
    ours = [program for program in programs if program not in ("apt-get", SOCKACCEL)]
    assert ours
    for program in ours:
        assert os.access(ROOT / program, os.X_OK), program


def test_the_benchmarks_command_is_one_and_makes_the_files_that_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = steps(ROOT / ".github/workflows/bench.yml")
    (command,) = (
        shlex.split(step["run"]) for step in found if step.get("run", "").startswith(SOCKACCEL)
    )
    plans: list[Plan] = []

    def run_plan(plan: Plan, *_: object, **__: object) -> tuple[object, None]:
        plans.append(plan)
        return result(case("nginx-lb", "only", {"baseline": 100.0, "accelerated": 160.0})), None

    monkeypatch.setattr(bench_run, "run_plan", run_plan)
    monkeypatch.setattr(bench_run, "default_policy", lambda: "safe")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, command[1:], standalone_mode=False)
    assert (done.exception, done.return_value) == (None, 0)
    assert plans[0].quick

    read = [step["with"] for step in found if "with" in step]
    names = [inputs["output-file-path"] for inputs in read if "output-file-path" in inputs]
    names += [name for inputs in read for name in inputs.get("path", "").split()]
    assert len(names) > 4
    for name in names:
        assert Path(name).exists(), name
    tools = {Path(inputs["output-file-path"]).stem: inputs["tool"] for inputs in read
             if "tool" in inputs}  # fmt: skip
    assert all(stem == tool for stem, tool in tools.items())


def test_ci_runs_in_the_distribution_that_the_tests_are_written_for() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    image = jobs["test"]["container"]["image"]
    (version,) = re.findall(r"libpython3\.(\d+)-testsuite", (ROOT / "scripts/setup").read_text())
    assert (image, version) == ("debian:12", "11")
