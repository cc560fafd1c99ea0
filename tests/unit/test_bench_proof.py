from __future__ import annotations

from dataclasses import replace

import pytest

from sockaccel.bench.arms import Arm
from sockaccel.bench.proof import Evidence, problems_of_round, problems_of_run
from sockaccel.bench.result import Proof
from sockaccel.bench.workloads.base import Outcome

REQUESTS = 1000
PAYLOAD = 612_000  # of one hop
OUTCOME = Outcome(
    REQUESTS, 1.0, PAYLOAD, 2 * REQUESTS, {"req_s": 1000.0}, ["wrk"], errors={"status": 0}
)
HOPS = 2
PACKETS = 2 * HOPS * REQUESTS
LEAST = 2 * HOPS * PAYLOAD
OFF = Proof(active=False, redirected_bytes=0, tcp_bytes=0, interface_bytes=4_000_000)


def on(redirected: int, tcp: int = 0, interface: int = 20_000) -> Proof:
    return Proof(True, redirected, tcp, interface)


PROOFS = {
    Arm.BASELINE: OFF,
    Arm.ACCELERATED: on(1_800_000, 1000),
    Arm.TEXTBOOK: replace(OFF, interface_bytes=20_000),
    Arm.UNIX: replace(OFF, interface_bytes=100),
}


def run(arm: Arm, outcome: Outcome = OUTCOME, **changes: object) -> Evidence:
    others_on = bool(changes.pop("others_on", False))
    least = changes.pop("least", 0.9)
    proof = changes.pop("proof", PROOFS[arm])
    packets = changes.pop("packets", PACKETS)
    made = replace(proof, **changes)  # type: ignore[type-var]
    return Evidence(arm, outcome, made, HOPS, least, others_on, packets)  # type: ignore[arg-type]


@pytest.mark.parametrize("arm", list(Arm))
def test_a_run_that_proves_its_arm_counts(arm: Arm) -> None:
    assert problems_of_run(run(arm)) == []


@pytest.mark.parametrize("arm", list(Arm))
@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (replace(OUTCOME, errors={"status": 2, "read": 1, "write": 0}), "3 failed requests"),
        (replace(OUTCOME, problems=["bytes are missing"]), "bytes are missing"),
        (replace(OUTCOME, requests=0, payload_bytes=0), "no request was answered"),
    ],
)
def test_what_the_client_suffered_makes_any_arm_invalid(
    arm: Arm, outcome: Outcome, said: str
) -> None:
    (problem,) = problems_of_run(run(arm, outcome))
    assert problem.startswith(f"{arm}: ")
    assert said in problem


@pytest.mark.parametrize("arm", [Arm.BASELINE, Arm.TEXTBOOK, Arm.UNIX])
def test_sockaccel_being_on_makes_every_other_arm_invalid(arm: Arm) -> None:
    assert problems_of_run(run(arm, active=True)) == [f"{arm}: sockaccel was on (0 bytes)"]
    assert problems_of_run(run(arm, redirected_bytes=7)) == [f"{arm}: sockaccel was on (7 bytes)"]
    (problem,) = problems_of_run(run(arm, others_on=True))
    assert "another instance" in problem


@pytest.mark.parametrize(("interface", "counts"), [(LEAST, True), (LEAST - 1, False)])
def test_a_baseline_has_every_byte_on_the_interfaces(interface: int, counts: bool) -> None:
    problems = problems_of_run(run(Arm.BASELINE, interface_bytes=interface))
    assert ["something else redirects" in problem for problem in problems] == [True] * (not counts)


@pytest.mark.parametrize("arm", list(Arm))
def test_a_baseline_has_a_packet_for_every_message_on_every_hop(arm: Arm) -> None:
    problems = problems_of_run(run(arm, packets=PACKETS - 1))
    said = ["redirected meanwhile" in problem for problem in problems]
    assert said == [True] * (arm is Arm.BASELINE)


@pytest.mark.parametrize(
    ("proof", "said"),
    [
        (OFF, "sockaccel was off at the end"),
        (on(0, 1_800_000), "no byte was redirected"),
        (on(1_799_999, 200_001), "90.0% of the bytes were redirected, at least 90.0%"),
        (on(1_800_000, 200_000), None),
        (on(1_223_999), "sockaccel counted 1223999 bytes of 1224000"),
        (on(1_224_000), None),
    ],
)
def test_an_accelerated_run_counts_only_if_its_bytes_were_redirected(
    proof: Proof, said: str | None
) -> None:
    problems = problems_of_run(run(Arm.ACCELERATED, proof=proof))
    assert [said in problem for problem in problems if said] == [True] * (said is not None)
    assert len(problems) == (said is not None)


def test_any_redirected_byte_is_enough_where_the_scenario_says_so() -> None:
    assert problems_of_run(run(Arm.ACCELERATED, proof=on(1, 1_800_000), least=0.0)) == []


def test_a_round_of_runs_that_prove_their_arms_counts() -> None:
    assert problems_of_round([run(arm) for arm in Arm]) == {}
    assert problems_of_round([run(arm) for arm in reversed(Arm)]) == {}


@pytest.mark.parametrize(
    ("arm", "interface", "counts"),
    [
        # The baseline has 4000 bytes per request; 1800 were redirected, 2 % are noise.
        (Arm.ACCELERATED, 2_280_000, True),
        (Arm.ACCELERATED, 2_281_000, False),
        # The payload, 1224 per request, is more than a quarter of all.
        (Arm.TEXTBOOK, 2_776_000, True),
        (Arm.TEXTBOOK, 2_777_000, False),
        (Arm.UNIX, 40_000, True),
        (Arm.UNIX, 41_000, False),
    ],
)
def test_a_round_counts_only_if_the_interfaces_lack_what_took_another_way(
    arm: Arm, interface: int, counts: bool
) -> None:
    runs = [run(Arm.BASELINE), run(arm, interface_bytes=interface)]
    assert list(problems_of_round(runs)) == [arm] * (not counts)


def test_a_textbook_program_that_only_saves_headers_does_not_count() -> None:
    small = replace(OUTCOME, payload_bytes=2000)
    runs = [run(Arm.BASELINE, small), run(Arm.TEXTBOOK, small, interface_bytes=3_100_000)]
    assert list(problems_of_round(runs)) == [Arm.TEXTBOOK]


@pytest.mark.parametrize(
    ("redirected", "tcp", "counts"), [(0, 2000, True), (1500, 500, True), (1900, 100, False)]
)
def test_headers_prove_nothing_where_much_of_a_stream_of_small_writes_took_tcp(
    redirected: int, tcp: int, counts: bool
) -> None:
    bytes_each = replace(OUTCOME, requests=1000, payload_bytes=1000)
    baseline = run(Arm.BASELINE, bytes_each, interface_bytes=20_000)
    proof = on(redirected, tcp, interface=21_000)
    accelerated = run(Arm.ACCELERATED, bytes_each, proof=proof, least=0.0)
    assert (problems_of_round([baseline, accelerated]) == {}) is counts
