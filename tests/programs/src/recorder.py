"""Runs the tests of a program and writes down, test by test, what came of them.

    recorder.py unittest REPORT CHOICE MODULE...
    recorder.py pytest   REPORT CHOICE ARGUMENT...

CHOICE is a JSON file: {"only": [...], "skip": [...]}. REPORT gets a line of JSON when a test
starts and one when it ends, so that a test which never ends is known by name. Runs in the
program's own environment: needs nothing but the standard library, and pytest for pytest.
"""

# ruff: noqa: N802, ARG002 - the names are unittest's

import faulthandler
import json
import sys
import time
import unittest
from pathlib import Path

STALL_S = 60  # for one test; then the process ends


class Report:
    def __init__(self, path):
        self._file = Path(path).open("w", buffering=1)  # noqa: SIM115 - open as long as we are

    def start(self, test):
        self._begin = time.monotonic()
        faulthandler.dump_traceback_later(STALL_S, exit=True)
        self._write(test, "start", "")

    def end(self, test, result, detail=""):
        faulthandler.cancel_dump_traceback_later()
        self._write(test, result, detail)

    def _write(self, test, result, detail):
        seconds = time.monotonic() - self._begin
        entry = {"test": test, "result": result, "detail": detail, "seconds": seconds}
        self._file.write(json.dumps(entry) + "\n")


class Result(unittest.TestResult):
    """A result that reports, and counts a failed subtest as its test's failure."""

    report: Report

    def startTest(self, test):
        super().startTest(test)
        self._outcome = ("pass", "")
        self.report.start(test.id())

    def stopTest(self, test):
        super().stopTest(test)
        self.report.end(test.id(), *self._outcome)

    def _bad(self, error):
        said = str(error[1]).strip().splitlines()
        self._outcome = ("fail", f"{error[0].__name__}: {said[-1] if said else ''}")

    def addFailure(self, test, err):
        self._bad(err)

    def addError(self, test, err):
        # What fails before any test starts (setUpClass, an import) has a name of its own.
        if not hasattr(self, "_outcome"):
            self.report.start(test.id())
            self.report.end(test.id(), "fail", str(err[1]))
        else:
            self._bad(err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._bad(err)

    def addSkip(self, test, reason):
        self._outcome = ("skip", reason)

    def addUnexpectedSuccess(self, test):
        self._outcome = ("fail", "unexpected success")


def cases(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from cases(item)
        else:
            yield item


def run_unittest(report, choice, modules):
    loader = unittest.TestLoader()
    chosen = unittest.TestSuite(
        case
        for case in cases(loader.loadTestsFromNames(modules))
        if case.id() not in choice["skip"] and (not choice["only"] or case.id() in choice["only"])
    )
    Result.report = report
    chosen.run(Result())


class Plugin:
    """For pytest."""

    def __init__(self, report, choice):
        self._report = report
        self._choice = choice
        self._outcomes = {}

    def pytest_collection_modifyitems(self, items):
        only, skip = set(self._choice["only"]), set(self._choice["skip"])
        items[:] = [
            item for item in items if item.nodeid not in skip and (not only or item.nodeid in only)
        ]

    def pytest_runtest_logstart(self, nodeid):
        self._outcomes[nodeid] = ("pass", "")
        self._report.start(nodeid)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            said = (report.longreprtext or "").strip().splitlines()
            self._outcomes[report.nodeid] = ("fail", said[-1] if said else "")
        elif report.skipped and self._outcomes[report.nodeid][0] == "pass":
            self._outcomes[report.nodeid] = ("skip", "")

    def pytest_runtest_logfinish(self, nodeid):
        self._report.end(nodeid, *self._outcomes[nodeid])


def main():
    kind, path, choice_path, *rest = sys.argv[1:]
    sys.path.insert(0, str(Path.cwd()))
    report, choice = Report(path), json.loads(Path(choice_path).read_text())
    if kind == "unittest":
        run_unittest(report, choice, rest)
    else:
        import pytest  # noqa: PLC0415 - only where it is wanted

        pytest.main(rest, plugins=[Plugin(report, choice)])


if __name__ == "__main__":
    main()
