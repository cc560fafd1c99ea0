"""Whether a run measured what it says it measured. Pure.

The client's own word is not enough: sockaccel's counters and the interfaces' must
agree with it. A run that cannot prove its arm is invalid, never "0 % faster".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sockaccel.bench.arms import Arm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sockaccel.bench.result import Proof
    from sockaccel.bench.workloads.base import Outcome

# A byte of plain TCP crosses two ports of the bridge, in by one and out by another.
PORT_CROSSINGS = 2
# Of what plain TCP has on the interfaces, per request: how much the textbook program must
# keep off them, which leaves the handshakes of new connections; and how much a Unix socket
# may have there, which needs none.
TEXTBOOK_KEEPS_OFF = 0.25
UNIX_STRAY = 0.01
# Of the same: by how much two runs of plain TCP may differ.
NOISE = 0.02
# What a write that took TCP may have there besides its bytes: the headers of a segment of its
# own and of an acknowledgement, at two ports each. TCP joins small writes as it likes.
HEADERS = 4 * 66


@dataclass(frozen=True)
class Evidence:
    """One run: what its client says, and what counters say that do not depend on it."""

    arm: Arm
    outcome: Outcome
    proof: Proof
    hops: int  # connections that each request crosses
    least_redirected: float  # see scenario.Conditions
    others_on: bool  # whether a datapath that is not ours was on for these namespaces
    data_packets: int  # that TCP sent in these namespaces

    @property
    def payload_bytes(self) -> int:
        """What the connections carried, at the least."""
        return self.outcome.payload_bytes * self.hops

    @property
    def interface_bytes_per_request(self) -> float:
        """What the interfaces carried, each port in and out."""
        return self.proof.interface_bytes / self.outcome.requests

    @property
    def redirected_bytes_per_request(self) -> float:
        """What was redirected, over all hops."""
        return self.proof.redirected_bytes / self.outcome.requests

    @property
    def redirected_share(self) -> float:
        """The redirected part of what sockaccel counted; 0 if it counted nothing."""
        total = self.proof.redirected_bytes + self.proof.tcp_bytes
        return self.proof.redirected_bytes / total if total else 0.0


def problems_of_run(run: Evidence) -> list[str]:
    """Return why a run does not count; nothing if it does."""
    return [f"{run.arm}: {problem}" for problem in (*_of_client(run), *_of_arm(run))]


def _of_client(run: Evidence) -> list[str]:
    outcome = run.outcome
    problems = list(outcome.problems)
    failed = {name: count for name, count in outcome.errors.items() if count}
    if failed:
        classes = ", ".join(f"{count} {name}" for name, count in failed.items())
        problems.insert(0, f"{sum(failed.values())} failed requests ({classes})")
    if not outcome.requests:
        problems.append("no request was answered")
    return problems


def _of_arm(run: Evidence) -> list[str]:
    if run.arm is Arm.ACCELERATED:
        return _of_accelerated(run)
    problems = []
    if run.proof.active or run.proof.redirected_bytes:
        problems.append(f"sockaccel was on ({run.proof.redirected_bytes} bytes)")
    if run.others_on:
        problems.append("another instance of sockaccel is on for these namespaces")
    least = PORT_CROSSINGS * run.payload_bytes
    # Whoever redirects for a part of the run alone is not on before or after it.
    packets = run.outcome.packets * run.hops
    if run.arm is Arm.BASELINE and run.data_packets < packets:
        problems.append(
            f"TCP sent {run.data_packets} packets with data for {packets} messages:"
            " something else redirected meanwhile"
        )
    if run.arm is Arm.BASELINE and run.proof.interface_bytes < least:
        problems.append(
            f"{run.proof.interface_bytes} bytes on the interfaces, plain TCP needs {least}:"
            " something else redirects"
        )
    return problems


def _of_accelerated(run: Evidence) -> list[str]:
    proof = run.proof
    if not proof.active:
        return ["sockaccel was off at the end of the run"]
    if not proof.redirected_bytes:
        return ["no byte was redirected"]
    problems = []
    if run.redirected_share < run.least_redirected:
        problems.append(
            f"{run.redirected_share:.1%} of the bytes were redirected,"
            f" at least {run.least_redirected:.1%} are asked for"
        )
    counted = proof.redirected_bytes + proof.tcp_bytes
    if counted < run.payload_bytes:
        problems.append(f"sockaccel counted {counted} bytes of {run.payload_bytes}")
    return problems


def problems_of_round(runs: Sequence[Evidence]) -> dict[Arm, str]:
    """Return why runs next to each other do not make a round, by the arm that is at fault.

    Each run has to count by itself. Off the interfaces must be, per request and next to the
    baseline: what was redirected, once at least, though each such byte is missing at two
    ports, to leave room for noise; with the textbook program, which has no counters, the
    payload; with a Unix socket, everything. What took TCP on purpose, as streams of small
    writes do, may have more headers than in the baseline, where TCP has joined more of it.
    """
    (baseline,) = (run for run in runs if run.arm is Arm.BASELINE)
    before = baseline.interface_bytes_per_request
    problems: dict[Arm, str] = {}
    for run in runs:
        missing = before - run.interface_bytes_per_request
        due, what = _due(run, before)
        if run.arm is not Arm.BASELINE and missing < due:
            problems[run.arm] = (
                f"{run.arm}: {before:.0f} bytes per request on the interfaces in the baseline and"
                f" {run.interface_bytes_per_request:.0f} here, but {max(due, 0):.0f} {what}"
            )
    return problems


def _due(run: Evidence, before: float) -> tuple[float, str]:
    if run.arm is Arm.UNIX:
        return (1 - UNIX_STRAY) * before, "have no reason to be there"
    if run.arm is Arm.TEXTBOOK:
        payload = run.payload_bytes / run.outcome.requests
        return max(payload, TEXTBOOK_KEEPS_OFF * before), "should be missing at the least"
    by_tcp = (1 - run.redirected_share) * (before + HEADERS)
    due = min(run.redirected_bytes_per_request, before - by_tcp)
    return due - NOISE * before, "were redirected"
