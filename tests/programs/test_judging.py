"""The judges' own arithmetic, without the kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from . import build, cpython, proxies, report, suites
from .arena import Traffic
from .http import Checked, frame, masked, pieces
from .judge import Outcome
from .results import Failure, Known, Row, explain, no_longer_failing

if TYPE_CHECKING:
    from pathlib import Path

REPORT = """<testsuites><testsuite>
<testcase name="test.test_x.T.test_good" time="0.5" />
<testcase name="test.test_x.T.test_bad" time="0.1"><failure>Traceback
AssertionError: no</failure></testcase>
<testcase name="test.test_x.T.test_skipped"><skipped>no IPv6</skipped></testcase>
<testcase />
</testsuite></testsuites>"""
LOG = """test_good (test.test_x.T.test_good) ... ok
FAIL: test_sub (test.test_x.T.test_sub) (size=1)
test_hangs (test.test_x.T.test_hangs) ... """
TABLE = [Known("program", "test_a", "stalled*", "9", "splice")]


def test_a_report_of_cpython_is_read() -> None:
    assert cpython.read_report(REPORT) == {
        "test.test_x.T.test_good": Outcome("pass", seconds=0.5),
        "test.test_x.T.test_bad": Outcome("fail", "AssertionError: no"),
        "test.test_x.T.test_skipped": Outcome("skip"),
    }
    assert cpython.failed_in_log(LOG) == ["test.test_x.T.test_sub"]
    assert cpython.last_started(LOG) == "test.test_x.T.test_hangs"


def test_a_test_that_takes_much_longer_differs() -> None:
    plain = Outcome("pass", seconds=0.1)
    assert not Outcome("pass", seconds=5.0).differs(plain)
    assert Outcome("pass", seconds=5.2).differs(plain)
    assert Outcome("skip").differs(plain)


def test_a_failure_is_known_only_with_its_symptom_and_under_all() -> None:
    stalled, wrong = Failure("test_a", "stalled: ..."), Failure("test_a", "wrong byte at 7")
    assert explain("program", "all", stalled, TABLE).known is TABLE[0]
    assert explain("program", "all", wrong, TABLE).known is None
    assert explain("program", "safe", stalled, TABLE).known is None
    assert explain("other", "all", stalled, TABLE).known is None


def test_a_known_failure_that_is_gone_is_told() -> None:
    assert no_longer_failing("program", "all", ["test_a"], [], TABLE)
    assert not no_longer_failing("program", "all", ["test_b"], [], TABLE)
    failed = explain("program", "all", Failure("test_a", "stalled"), TABLE)
    assert not no_longer_failing("program", "all", ["test_a"], [failed], TABLE)


def test_the_report_names_every_difference() -> None:
    failures = [Failure("test_a", "stalled", TABLE[0]), Failure("test_b", "lost")]
    row = Row("programs", "program", "all", 7, failures, traffic=Traffic(300, 100))
    text = report.as_text([row])
    assert "test_a: stalled: known, row 9: splice" in text
    assert "test_b: lost: FAILS" in text
    assert "75.0%" in text
    (entry,) = report.as_json([row])
    assert json.loads(json.dumps(entry))["failures"][0]["known"]["hazard"] == "9"


def test_a_wrong_byte_of_a_body_is_found_where_it_is() -> None:
    body = b"".join(pieces(100_000))
    checked = Checked()
    checked.take(body[:60_000])
    with pytest.raises(AssertionError, match="wrong byte at 60000"):
        checked.take(body[60_001:])


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_frames_of_websockets(size: int) -> None:
    data, mask = bytes(range(256)) * (size // 256 + 1), b"mask"
    data = data[:size]
    assert masked(masked(data, mask), mask) == data
    head = 2 if size < 126 else 4 if size < 65_536 else 10
    assert frame(data)[head:] == data
    assert frame(data, mask)[head : head + 4] == mask


def test_the_slowest_of_a_few_is_their_p99() -> None:
    assert proxies.p99([3.0, 1.0, 2.0]) == 3.0
    assert proxies.p99([float(number) for number in range(1, 201)]) == 198.0


def test_the_recorder_writes_down_every_test(tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text(
        "import unittest\n"
        "class T(unittest.TestCase):\n"
        "    def test_good(self): pass\n"
        "    def test_bad(self): self.assertEqual(1, 2)\n"
        "    def test_sub(self):\n"
        "        with self.subTest(1): self.fail('no')\n"
        "    def test_skipped(self): self.skipTest('why')\n"
        "    def test_left_out(self): pass\n"
        "    def test_zz_dies(self): import os; os._exit(1)\n"
    )
    choice = tmp_path / "choice"
    choice.write_text(json.dumps({"only": [], "skip": ["sample.T.test_left_out"]}))
    argv = [sys.executable, build.SOURCES / "recorder.py", "unittest", "report", choice, "sample"]
    subprocess.run(argv, cwd=tmp_path, check=False, timeout=30)
    outcomes, running = suites.read_report((tmp_path / "report").read_text())
    assert {test.rpartition("_")[2]: outcome.result for test, outcome in outcomes.items()} == {
        "good": "pass",
        "bad": "fail",
        "sub": "fail",
        "skipped": "skip",
    }
    assert running == "sample.T.test_zz_dies"
