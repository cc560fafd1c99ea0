from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil

from sockaccel.bench.cost import Cost
from sockaccel.bench.result import ContextSwitches
from sockaccel.bench.usage import (
    Usage,
    Watch,
    cpu_of_cgroups,
    of_ended_children,
    of_machine,
    of_running,
    peak_rss_bytes,
)
from sockaccel.bench.workloads.base import Outcome

if TYPE_CHECKING:
    from pathlib import Path

BUSY = """
import threading, time
def spin():
    while time.thread_time() < 0.2:
        pass
threads = [threading.Thread(target=spin) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for _ in range(50):
    time.sleep(0.001)
"""


def test_ended_children_are_counted_with_their_threads() -> None:
    before = of_ended_children()
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    used = of_ended_children() - before
    assert used.cpu_s >= 0.4
    assert used.voluntary >= 50


def test_servers_that_ended_as_somebody_elses_children_have_used_nothing_and_not_less() -> None:
    server = subprocess.Popen([sys.executable, "-c", f"{BUSY}\ntime.sleep(60)"])
    try:
        deadline = time.monotonic() + 60
        while of_running([server.pid]).cpu_s < 0.4:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        cost = Cost([server.pid], [])
        cost.begin()
        cost.client_ended(Watch())
        cost.end_of(lambda: None)
    finally:
        server.kill()
        server.wait()
    outcome = Outcome(1, 1.0, 1, 1, {}, [])
    assert cost.cpu(outcome, streams=False).seconds_total == 0.0
    assert cost.context_switches == ContextSwitches(0, 0)


def test_what_runs_is_counted_with_its_children() -> None:
    child = subprocess.Popen(["sh", "-c", f"'{sys.executable}' -c \"{BUSY}\"; sleep 60 & wait"])
    try:
        deadline = time.monotonic() + 60
        while of_running([child.pid]).cpu_s < 0.4:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert peak_rss_bytes([child.pid]) > 1 << 19
    finally:
        for each in psutil.Process(child.pid).children(recursive=True):
            each.kill()
        child.kill()
        child.wait()


def test_what_has_gone_is_nothing() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert of_running([child.pid]) == Usage()
    assert peak_rss_bytes([child.pid]) == 0


def test_cgroups_are_added_up(tmp_path: Path) -> None:
    for name, used in [("a", 1_500_000), ("b", 250_000)]:
        (tmp_path / name).mkdir()
        text = f"usage_usec {used}\nuser_usec 1\nsystem_usec 2\n"
        (tmp_path / name / "cpu.stat").write_text(text)
    assert cpu_of_cgroups([tmp_path / "a", tmp_path / "b"]) == 1.75
    assert cpu_of_cgroups([]) == 0.0


def test_usage_is_added_and_taken_away() -> None:
    assert Usage(1.0, 2, 3) + Usage(0.5, 1, 1) == Usage(1.5, 3, 4)
    assert Usage(1.0, 2, 3) - Usage(0.5, 1, 1) == Usage(0.5, 1, 2)


def test_the_machines_time_goes_on() -> None:
    before = of_machine()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert (of_machine() - before).busy_s >= 0.05


def test_a_watch_keeps_the_highest() -> None:
    watch = Watch()
    watch(os.getpid())
    highest = watch.client_peak_rss_bytes
    assert highest > 1 << 20
    child = subprocess.Popen(["true"])
    child.wait()
    watch(child.pid)
    assert watch.client_peak_rss_bytes == highest
