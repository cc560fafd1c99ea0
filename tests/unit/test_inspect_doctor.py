"""doctor: what follows from what was seen, and how it is shown. Needs no kernel."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sockaccel.cli import doctor as command
from sockaccel.cli import main
from sockaccel.datapath.trial import STOPPED, Fionread, Trial
from sockaccel.errors import BccError, DatapathError, HostError, NotPermittedError
from sockaccel.inspect import doctor, environment, probes
from sockaccel.inspect.doctor import Report, examine
from sockaccel.inspect.environment import Host
from sockaccel.inspect.finding import Finding, Outcome, Verdict, failed, passed, warned
from sockaccel.inspect.probes import Comparison

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = Host(Path("/nonexistent/sockaccel"))
ATTEMPTS = ["programs", *doctor._ATTEMPTS, "clean-up"]


# --- Checks of the host ---------------------------------------------------------------------


@pytest.fixture
def first_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look like the machine's own namespaces, wherever the tests run."""
    numbers = {"cgroup": 0xEFFFFFFB, "user": 0xEFFFFFFD}
    monkeypatch.setattr(environment, "_inode", numbers.__getitem__)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("[none] integrity confidentiality\n", Verdict.PASS),
        ("none [integrity] confidentiality\n", Verdict.PASS),
        ("none integrity [confidentiality]\n", Verdict.FAIL),
        (None, Verdict.PASS),
    ],
)
def test_only_confidentiality_keeps_programs_from_reading_the_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, verdict: Verdict
) -> None:
    if text is not None:
        (tmp_path / "lockdown").write_text(text)
    monkeypatch.setattr(environment, "_LOCKDOWN", tmp_path / "lockdown")
    found = environment.lockdown(HOST)
    assert found.verdict is verdict
    assert bool(found.hint) == (verdict is Verdict.FAIL)


@pytest.mark.parametrize(("pages", "verdict"), [(99, Verdict.PASS), (100, Verdict.WARN)])
def test_tcp_that_is_short_of_memory_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pages: int, verdict: Verdict
) -> None:
    (tmp_path / "sockstat").write_text(
        f"sockets: used 9\nTCP: inuse 1 orphan 0 tw 0 alloc 2 mem {pages}\nUDP: inuse 0 mem 500\n"
    )
    (tmp_path / "tcp_mem").write_text("50\t100\t150\n")
    monkeypatch.setattr(environment, "_SOCKSTAT", tmp_path / "sockstat")
    monkeypatch.setattr(environment, "_TCP_MEM", tmp_path / "tcp_mem")
    assert environment.tcp_memory(HOST).verdict is verdict


def test_a_user_namespace_has_no_capabilities_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_inode", lambda _: 4026532000)
    found = environment.capabilities(HOST)
    assert found.verdict is Verdict.FAIL
    assert "user namespace" in found.evidence


def test_missing_capabilities_are_named(
    monkeypatch: pytest.MonkeyPatch, first_namespaces: None
) -> None:
    def missing() -> None:
        raise NotPermittedError("cannot change the datapath: missing CAP_NET_ADMIN (EPERM)")

    monkeypatch.setattr(environment.lifecycle, "check_capabilities", missing)
    with pytest.raises(NotPermittedError, match="CAP_NET_ADMIN"):
        environment.capabilities(HOST)


def test_inside_a_cgroup_namespace_the_rest_of_the_host_is_not_covered(
    monkeypatch: pytest.MonkeyPatch, first_namespaces: None
) -> None:
    monkeypatch.setattr(environment, "default_cgroup", lambda: Path("/sys/fs/cgroup"))
    assert environment.cgroup(HOST).verdict is Verdict.PASS
    monkeypatch.setattr(environment, "_inode", lambda _: 4026532000)
    found = environment.cgroup(HOST)
    assert found.verdict is Verdict.WARN
    assert "not covered" in found.evidence


def test_without_docker_only_its_scope_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = environment.docker_daemon(Host(HOST.pin_dir, docker_host=f"unix://{tmp_path}/none"))
    assert found.verdict is Verdict.WARN
    assert "ENOENT" in found.evidence
    assert found.hint == "sockaccel enable --netns /run/netns/NAME"
    monkeypatch.setattr(environment.docker, "snapshot", lambda _: [object(), object()])
    found = environment.docker_daemon(HOST)
    assert found.verdict is Verdict.PASS
    assert "2 containers" in found.evidence


# --- Errors and hangs -----------------------------------------------------------------------


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Report]:
    """Return what examines with these checks of the host, and can try nothing."""

    def run(*, debug: bool = False, **checks: Callable[[Host], Outcome]) -> Report:
        monkeypatch.setattr(
            doctor, "CHECKS", {"bcc": fails(BccError("cannot import bcc"))} | checks
        )
        return examine(HOST, debug=debug)

    return run


def fails(error: Exception) -> Callable[[Host], Outcome]:
    def check(_: Host) -> Outcome:
        raise error

    return check


def test_an_error_is_a_finding_with_its_hint(only: Callable[..., Report]) -> None:
    report = only(one=fails(HostError("cannot do it", "do this")), two=lambda _: passed("fine"))
    assert report.findings[1:] == (
        Finding("one", Verdict.FAIL, "cannot do it", "do this"),
        Finding("two", Verdict.PASS, "fine"),
    )


def test_the_systems_own_errors_are_findings_too(only: Callable[..., Report]) -> None:
    found = only(one=fails(OSError(5, "")), two=fails(PermissionError(1, ""))).findings[1:]
    assert [each.verdict for each in found] == [Verdict.FAIL, Verdict.FAIL]
    assert [each.evidence[-6:] for each in found] == [" (EIO)", "EPERM)"]
    assert {each.hint for each in found} == {"sockaccel --debug doctor"}


def test_with_debug_an_error_is_raised(only: Callable[..., Report]) -> None:
    with pytest.raises(BccError):
        only(debug=True)


def test_where_capabilities_are_missing_what_needs_them_is_not_tried(
    only: Callable[..., Report],
) -> None:
    report = only(
        capabilities=fails(NotPermittedError("missing")),
        owners=fails(PermissionError(1, "")),
        enabled=fails(NotPermittedError("cannot look")),
        other=fails(HostError("another reason")),
    )
    assert [each.name for each in report.findings] == ["bcc", "capabilities", "other"]
    assert report.not_tried == ("owners", "enabled", *ATTEMPTS)


def test_a_check_that_hangs_fails_and_does_not_hold_up_the_others(
    only: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(_: Host) -> Outcome:
        time.sleep(60)
        return passed("never")

    monkeypatch.setattr(doctor, "TIMEOUT_S", 2.0)
    start = time.monotonic()
    report = only(one=hang, two=lambda _: passed("fine"))
    assert time.monotonic() - start < 30
    assert report.findings[1].verdict is Verdict.FAIL
    assert "none within 2 s" in report.findings[1].evidence
    assert report.findings[2].verdict is Verdict.PASS


@pytest.mark.parametrize("name", sorted(doctor._ESSENTIAL))
def test_nothing_is_tried_where_something_essential_is_missing(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {name: lambda _: failed("missing", "get it")})
    report = examine(HOST)
    assert [each.name for each in report.findings] == [name]
    assert report.not_tried == tuple(ATTEMPTS)


def test_every_essential_check_exists() -> None:
    assert set(environment.CHECKS) >= doctor._ESSENTIAL
    assert len({*environment.CHECKS, *ATTEMPTS}) == len(environment.CHECKS) + len(ATTEMPTS)


# --- What follows from the trial ------------------------------------------------------------

GOOD = {
    "stream_verdict": True,
    "paired": True,
    "redirected": True,
    "intact": True,
    "charged": True,
    "one_queue": True,
    "copied_seq_kept": True,
    "fionread": Fionread.K1,
    "fionread_right": True,
}
SEEN = {
    "redirected": "300 bytes each way",
    "charged": "charged 300",
    "copied_seq_kept": "700 of 700",
    "one_queue": "1000 of 1000",
    "fionread_with": "300 of 300",
    "fionread_without": "0 of 300",
    "intact": "in order",
}
FACTS = ["redirection", "back-pressure", "copied-seq", "one-queue", "order", "fionread"]


def verdicts(monkeypatch: pytest.MonkeyPatch, found: Trial | Exception) -> dict[str, str]:
    """Return the verdict on each fact, '' for what was not tried."""

    def run(*_: object) -> Trial:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(doctor, "trial", run)
    lab = doctor._Laboratory(HOST, HOST.pin_dir, Path("/x"), None, None, 0.1)  # type: ignore[arg-type]
    examination = doctor._Examination(debug=False)
    for name in FACTS:
        examination.check(name, lambda name=name: doctor._ATTEMPTS[name](lab))  # type: ignore[misc]
    assert all(each.hint for each in examination.findings if each.verdict is not Verdict.PASS)
    result = dict.fromkeys(FACTS, "")
    return result | {each.name: each.verdict.value for each in examination.findings}


@pytest.mark.parametrize(
    ("changes", "name", "verdict"),
    [
        ({}, "order", "PASS"),
        ({"charged": False}, "back-pressure", "FAIL"),
        ({"copied_seq_kept": False}, "copied-seq", "FAIL"),
        ({"one_queue": False}, "one-queue", "WARN"),
        ({"fionread": Fionread.K0, "fionread_right": False}, "fionread", "WARN"),
        ({"fionread": None}, "fionread", "PASS"),
    ],
)
def test_each_fact_has_its_verdict_and_the_others_keep_theirs(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], name: str, verdict: str
) -> None:
    found = verdicts(monkeypatch, Trial(**{**GOOD, **changes}, seen=SEEN))
    assert found == {**dict.fromkeys(FACTS, "PASS"), name: verdict}


def test_what_does_not_pair_is_a_failure_and_the_rest_was_not_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = verdicts(monkeypatch, Trial(True, seen={STOPPED: "not paired: remote"}))
    assert found == {**dict.fromkeys(FACTS, ""), "redirection": "FAIL", "order": ""}


def test_bytes_that_are_lost_are_a_failure_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"redirected": "each way", "charged": "300", STOPPED: "3 of 700 bytes arrived"}
    found = verdicts(monkeypatch, Trial(True, True, True, charged=True, seen=seen))
    assert found == {
        "redirection": "PASS",
        "back-pressure": "PASS",
        "copied-seq": "",
        "one-queue": "",
        "order": "FAIL",
        "fionread": "",
    }


def test_a_trial_that_hangs_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = verdicts(monkeypatch, DatapathError("no answer within 5 s", "again"))
    assert found == {**dict.fromkeys(FACTS, ""), "redirection": "FAIL"}


@pytest.mark.parametrize(
    ("tcp", "accelerated", "verdict", "evidence"),
    [
        ({"a()": "works", "b()": "works"}, {"a()": "works", "b()": "works"}, "PASS", "as on TCP"),
        ({"a()": "works", "b()": "works"}, {"a()": "works", "b()": "fails"}, "WARN", "b() fails"),
    ],
)
def test_what_a_program_can_tell_from_tcp_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
    tcp: dict[str, str],
    accelerated: dict[str, str],
    verdict: str,
    evidence: str,
) -> None:
    monkeypatch.setattr(probes, "compare", lambda *_: Comparison(tcp, accelerated))
    lab = doctor._Laboratory(HOST, HOST.pin_dir, Path("/x"), None, None, 0.1)  # type: ignore[arg-type]
    lab.result = Trial(**GOOD, seen=SEEN)
    found = doctor._ATTEMPTS["splice"](lab)
    assert found.verdict == verdict
    assert evidence in found.evidence
    assert ("a()" in found.evidence) == (verdict == "PASS")


# --- How it is shown ------------------------------------------------------------------------

FINDINGS = (
    Finding("good", *passed("all is well")),
    Finding("so-so", *warned("word " * 60 + "end", "type this")),
)


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], report: Report, *args: str
) -> tuple[int, str]:
    seen = []
    monkeypatch.setattr(command, "examine", lambda host, **_: seen.append(host) or report)
    monkeypatch.setattr(sys, "argv", ["sockaccel", *args])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert isinstance(caught.value.code, int)
    assert len(seen) == 1
    return caught.value.code, capsys.readouterr().out


def test_the_table_wraps_evidence_and_shows_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out = run(monkeypatch, capsys, Report("6.1", FINDINGS, ("later",)), "doctor")
    lines = out.splitlines()
    assert code == 0
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["VERDICT", "CHECK", "EVIDENCE"]
    assert lines[1].split(maxsplit=2) == ["PASS", "good", "all is well"]
    assert lines[2].startswith("WARN     so-so  word word")
    assert out.count("word") == 60
    assert "\n                $ type this\n" in out
    assert "Linux 6.1: 1 PASS, 1 WARN, 0 FAIL\n" in out
    assert lines[-1].endswith("later")


def test_json_has_the_schema_and_every_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report("6.1", (*FINDINGS, Finding("bad", *failed("no", "mend"))), ())
    code, out = run(monkeypatch, capsys, report, "doctor", "-o", "json")
    answer = json.loads(out)
    assert code == 1
    assert answer["schema"] == "sockaccel.doctor/1"
    assert answer["kernel"] == "6.1"
    assert answer["counts"] == {"pass": 1, "warn": 1, "fail": 1}
    assert answer["findings"][2] == {
        "name": "bad",
        "verdict": "FAIL",
        "evidence": "no",
        "hint": "mend",
    }
    assert answer["findings"][0]["hint"] is None
    assert answer["not_tried"] == []
