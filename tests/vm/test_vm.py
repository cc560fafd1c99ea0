"""One kernel in a VM, one boot: scripts/vm itself, the scenarios, a few tests of the kernel.

All kernels and all tests: scripts/vm-matrix.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kernel import harness

from . import scenarios

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKOUT = Path(__file__).parents[2]
KERNEL = "6.12"
LIMIT_S = 900  # the machine is emulated, and its host may be busy
KERNEL_TESTS = [
    "test_order.py::test_an_edge_triggered_reader_never_stalls[accelerated-4096-mixed-dawdling]",
    "test_switching.py::test_disable_puts_live_connections_on_tcp_at_the_next_message",
]
EVERYTHING = """
echo to stdout; echo to stderr >&2
.venv/bin/python tests/vm/facts.py
.venv/bin/python tests/vm/scenarios.py -o json
PYTHONPATH=tests .venv/bin/python -m pytest -q -s -p vm.live {tests}
exit 7
"""
NAMES = [name for name, *_ in scenarios.measurements()]

pytestmark = pytest.mark.timeout(LIMIT_S + 60)


def run_vm(*argv: str, timeout: int = LIMIT_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CHECKOUT / "scripts" / "vm", f"--timeout={timeout}", KERNEL, *argv],
        capture_output=True,
        text=True,
        env={**os.environ, "SOCKACCEL_REQUIRE": "kernel"},
        check=False,
    )


@pytest.fixture(scope="module")
def machine(require: Callable[[str, list[str]], None]) -> None:
    lacking = [] if os.geteuid() == 0 else ["root"]
    if not shutil.which("qemu-system-x86_64"):
        lacking.append("qemu-system-x86_64 (scripts/setup --vm)")
    require("vm", lacking)


@pytest.fixture(scope="module")
def booted(machine: None) -> subprocess.CompletedProcess[str]:
    tests = " ".join(f"'tests/kernel/{name}'" for name in KERNEL_TESTS)
    return run_vm("sh", "-c", EVERYTHING.format(tests=tests))


@pytest.fixture(scope="module")
def told(booted: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Return the JSON objects that were printed in the VM."""
    return [json.loads(line) for line in booted.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def here(require: Callable[[str, list[str]], None]) -> list[scenarios.Result]:
    require("kernel", harness.missing())
    return scenarios.run("default")


def test_output_and_exit_status_come_back(booted: subprocess.CompletedProcess[str]) -> None:
    assert booted.stdout.startswith("to stdout\n")
    assert booted.stderr.startswith("to stderr\n")
    assert booted.returncode == 7, booted.stderr


def test_another_kernel_runs(told: list[dict[str, Any]]) -> None:
    facts = next(item for item in told if "class" in item)
    assert facts["kernel"].startswith(f"{KERNEL}.")
    assert facts["redirected"]
    assert facts["copied_seq"]
    assert facts["one_queue"]


@pytest.mark.parametrize("name", KERNEL_TESTS)
def test_the_tests_of_the_kernel_pass_there(told: list[dict[str, Any]], name: str) -> None:
    found = next((item for item in told if item.get("test") == f"tests/kernel/{name}"), None)
    assert found, "was not run"
    assert found["outcome"] == "passed", found


@pytest.mark.parametrize("name", NAMES)
def test_scenarios_in_the_vm(told: list[dict[str, Any]], name: str) -> None:
    ran = next(item for item in told if "policy" in item)
    found = next(item for item in ran["scenarios"] if item["name"] == name)
    assert not found["problem"], found


@pytest.mark.parametrize("name", NAMES)
def test_scenarios_here(here: list[scenarios.Result], name: str) -> None:
    found = next(item for item in here if item.name == name)
    assert not found.problem, found


def test_a_dead_kernel_is_shown_and_fails(machine: None) -> None:
    done = run_vm("sh", "-c", "echo c >/proc/sysrq-trigger; sleep 60")
    assert done.returncode == 125
    assert "Kernel panic - not syncing: sysrq triggered crash" in done.stderr


def test_a_vm_ends_when_its_time_is_over(machine: None) -> None:
    done = run_vm("sleep", "600", timeout=3)
    assert done.returncode == 124
    assert "ended after 3" in done.stderr
