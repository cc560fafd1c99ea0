"""What the README shows, in a short form: it runs, proves what it says, and cleans up.

Ratios are not asserted: a busy machine is no defect of ours. An arm that did not do what it
claims makes the run invalid, and that is exit code 1.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run_script(name: str, *args: str) -> dict[str, Any]:
    done = subprocess.run(
        [ROOT / "scripts" / name, "-o", "json", *args],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(autouse=True)
def nothing_left() -> Any:
    def seen() -> set[str]:
        return {*os.listdir("/sys/fs/bpf"), *os.listdir("/run/netns")}

    Path("/run/netns").mkdir(exist_ok=True)
    before = seen()
    yield
    assert not {name for name in seen() - before if name.startswith("sockaccel")}


@pytest.mark.timeout(240)
def test_the_quickstart_shows_and_proves_the_effect() -> None:
    result = run_script("quickstart", "--seconds", "1")
    assert result["schema"] == "sockaccel.quickstart/1"
    assert {scenario["keepalive"] for scenario in result["scenarios"]} == {True, False}
    for scenario in result["scenarios"]:
        assert len(scenario["pairs"]) >= 6


@pytest.mark.timeout(240)
def test_the_price_of_safety_can_be_measured() -> None:
    result = run_script("bench-echo", "--rounds", "6", "--seconds", "0.1")
    assert result["schema"] == "sockaccel.echo/1"
