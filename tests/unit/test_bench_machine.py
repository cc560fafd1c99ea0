from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING

from sockaccel.bench import machine
from sockaccel.bench.machine import describe_machine

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_machine_is_described_and_not_named() -> None:
    found = describe_machine()
    assert set(found) >= {
        "cpu",
        "cores",
        "memory_bytes",
        "architecture",
        "kernel",
        "virtualisation",
        "governor",
        "frequency_mhz",
    }
    assert found["cores"] == os.cpu_count()
    assert found["memory_bytes"] > 1 << 20
    assert platform.node() not in json.dumps(found)


def test_governor_and_frequencies_are_those_of_cpufreq(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "CPUFREQ", tmp_path)
    for name, text in [
        ("scaling_governor", "powersave\n"),
        ("scaling_min_freq", "800000\n"),
        ("scaling_max_freq", "3600000\n"),
    ]:
        (tmp_path / name).write_text(text)
    found = describe_machine()
    assert (found["governor"], found["frequency_mhz"]) == ("powersave", [800.0, 3600.0])


def test_what_a_machine_does_not_tell_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "CPUFREQ", tmp_path)
    found = describe_machine()
    assert (found["governor"], found["frequency_mhz"]) == (None, None)
