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
    script = subprocess.Popen(
        [ROOT / "scripts" / name, "-o", "json", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, talk = script.communicate(timeout=170)
    finally:
        script.kill()
        script.wait()
    assert script.returncode == 0, talk
    # What it makes bears its process id; others may be at work beside it.
    made = {*os.listdir("/sys/fs/bpf"), *os.listdir("/run/netns")}
    assert not {each for each in made if str(script.pid) in each}
    result: dict[str, Any] = json.loads(out)
    return result


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
